"""The records of a prompt file, one at a time, each with its place: whatever the file's size, one record is in memory.

What a file is, is decided by what it holds, and by its name only where that leaves it open (.txt, .csv, .json). Lines
end at newlines alone: U+2028 and its like are characters of a text. A byte order mark, CRLF and gzip are taken.
"""

import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from bench.errors import PlanError

MAX_RECORD_BYTES = 64 * 2**20
_CHUNK_CHARS = 2**20
_BOM = b"\xef\xbb\xbf"
_NAMED_JSON = {".json", ".jsonl", ".ndjson"}
_TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Source:
    """What a file is (`JSON lines`, `JSON array`, `CSV`, `Parquet`, `plain text`) and its records: (place, value)."""

    container: str
    records: Iterator[tuple[str, Any]]


def open_source(path: Path, known: Callable[[str], bool]) -> Source:
    """The records of the file at `path`; of a table only the columns with a `known` name are of use.

    Raises PlanError, also while the records are read: a file that is missing, empty, not text, cut off or malformed,
    with the place and what would work.
    """
    try:
        if path.is_dir():
            raise PlanError(f"{path}: is a directory; a prompts file is expected.")
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with _open(path, packed) as raw:
            head = raw.read(65_536)
    except FileNotFoundError:
        raise PlanError(f"{path}: the prompts file cannot be read: there is no such file.") from None
    except (OSError, EOFError) as error:
        raise PlanError(
            f"{path}: the prompts file cannot be read ({getattr(error, 'strerror', None) or error})."
        ) from None
    return Source(*_recognise(path, packed, head, known))


def _open(path: Path, packed: bool) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "rb")) if packed else path.open("rb")


def _recognise(  # noqa: PLR0911 (one per format)
    path: Path, packed: bool, head: bytes, known: Callable[[str], bool]
) -> tuple[str, Iterator[tuple[str, Any]]]:
    if head.startswith(b"PAR1"):
        return "Parquet", _parquet(path, known)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PlanError(f"{path}: the prompts file is UTF-16, not UTF-8; save it as UTF-8 (iconv -f UTF-16 -t UTF-8).")
    if b"\x00" in head:
        raise PlanError(
            f"{path}: the prompts file is not text (a zero byte at byte {head.index(0)}); "
            "JSON, JSON lines, CSV, Parquet or plain text in UTF-8 are expected."
        )
    text = head.removeprefix(_BOM).lstrip()
    if not text:
        raise PlanError(f"{path}: the prompts file is empty.")
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    if suffix == ".txt":
        return "plain text", _text(path, packed)
    first_line = text.split(b"\n", 1)[0]
    if suffix in _TABLES:
        return "CSV", _csv(path, packed, _delimiter(first_line, _TABLES[suffix]))
    if text.startswith(b"["):
        return "JSON array", _values(path, packed, array=True)
    if text.startswith(b"{"):
        return "JSON lines", _json(path, packed)
    if suffix in _NAMED_JSON:
        raise PlanError(
            f"{path}: line 1: not JSON, though the file's name ends in {suffix}: it begins with {first_line[:40]!r}. "
            "Name a file of plain lines .txt."
        )
    names = {name.strip().strip('"') for name in re.split(r"[,;\t]", first_line.decode("utf-8", "replace"))}
    if len(names) > 1 and any(map(known, names)):
        return "CSV", _csv(path, packed, _delimiter(first_line, ","))
    return "plain text", _text(path, packed)


def _delimiter(header: bytes, usual: str) -> str:
    counts = {mark: header.count(mark.encode()) for mark in (usual, ",", ";", "\t")}
    return max(counts, key=lambda mark: counts[mark])


def _lines(path: Path, packed: bool) -> Iterator[tuple[int, str, bool]]:
    """(number, line, whether a newline ended it) of all lines that are not blank."""
    with _open(path, packed) as raw:
        try:
            number = 0
            while line := raw.readline(MAX_RECORD_BYTES + 1):
                number += 1
                if len(line) > MAX_RECORD_BYTES:
                    raise PlanError(
                        f"{path}: line {number} is longer than {MAX_RECORD_BYTES >> 20} MiB: no prompt is. "
                        "Is every entry on a line of its own?"
                    )
                if number == 1:
                    line = line.removeprefix(_BOM)
                if line.isspace() or not line:
                    continue
                try:
                    yield number, line.decode("utf-8"), line.endswith(b"\n")
                except UnicodeDecodeError as error:
                    raise PlanError(
                        f"{path}: line {number}: the prompts file is not UTF-8 ({error.reason} at byte {error.start} "
                        "of the line); convert it (iconv -f LATIN1 -t UTF-8) or save it again."
                    ) from None
        except (OSError, EOFError) as error:
            raise PlanError(f"{path}: after line {number}: the prompts file cannot be read ({error}).") from None


def _text(path: Path, packed: bool) -> Iterator[tuple[str, Any]]:
    for number, line, _ in _lines(path, packed):
        yield f"line {number}", line.rstrip("\r\n")


def _json(path: Path, packed: bool) -> Iterator[tuple[str, Any]]:
    """JSON lines; values over several lines (a pretty-printed object, several of them) where the first line is none."""
    first = True
    for number, line, ended in _lines(path, packed):
        try:
            value = _decode(line)
        except ValueError as error:
            if first and ended:
                yield from _values(path, packed, array=False)
                return
            if not ended and number > 1:
                raise PlanError(_cut_off(path, f"line {number}; `head -n {number - 1}` keeps what is whole")) from None
            raise PlanError(
                f"{path}: line {number}: not JSON ({error}). Every line has to be one whole JSON object."
            ) from None
        except RecursionError:
            raise PlanError(
                f"{path}: line {number}: JSON nested too deeply; no request is. Remove that line."
            ) from None
        first = False
        yield f"line {number}", value


def _cut_off(path: Path, place: str) -> str:
    return f"{path}: the file was cut off: it ends in the middle of {place}. Fetch it again, or remove that part."


def _no_constant(name: str) -> None:
    """NaN and Infinity, which Python writes and no JSON has: what is not a number is absent."""


def _decode(text: str) -> Any:
    return json.loads(text, parse_constant=_no_constant)


def _values(path: Path, packed: bool, *, array: bool) -> Iterator[tuple[str, Any]]:
    """The elements of a JSON array, or JSON values one after the other, without reading the whole document."""
    with _open(path, packed) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="\n") as text:
        document = _Document(path, text)
        if array:
            document.next_mark()
            document.at += 1
        while mark := document.next_mark():
            if array and mark == "]":
                document.at += 1
                if mark := document.next_mark():
                    raise PlanError(f"{path}: {document.place()}: {mark!r} follows the end of the JSON array.")
                return
            if array and document.number:
                if mark != ",":
                    raise PlanError(f"{path}: {document.place()}: not JSON: a comma or ] is expected, not {mark!r}.")
                document.at += 1
                document.next_mark()
            yield document.place(), document.value()
        if array:
            raise PlanError(
                _cut_off(path, f"its JSON array: {document.number} entries are whole, and the ] is missing")
            )


class _Document:
    """A long JSON document, of which only the part around `at` is held."""

    def __init__(self, path: Path, text: io.TextIOWrapper) -> None:
        self.path, self.text = path, text
        self.held, self.at, self.number = "", 0, 0
        self._line, self._lines_to = 1, 0  # the line of held[_lines_to]
        self._decoder = json.JSONDecoder(parse_constant=_no_constant)

    def next_mark(self) -> str:
        """Moves on to the next character that is no white space, and returns it; "" at the end."""
        while True:
            while self.at < len(self.held) and self.held[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.held) or not self._more():
                return self.held[self.at : self.at + 1]

    def place(self) -> str:
        """Where the next value stands, for a person."""
        self._line, self._lines_to = self._line + self.held.count("\n", self._lines_to, self.at), self.at
        return f"entry {self.number + 1} (line {self._line})"

    def value(self) -> Any:
        """The value that begins here; moves on to its end."""
        while True:
            try:
                value, self.at = self._decoder.raw_decode(self.held, self.at)
            except RecursionError:
                raise PlanError(f"{self.path}: {self.place()}: JSON nested too deeply; no request is.") from None
            except json.JSONDecodeError as error:
                # At the end of what is held an error may only mean that there is more to read.
                if error.pos < len(self.held) - 64 and not error.msg.startswith("Unterminated string"):
                    raise PlanError(f"{self.path}: {self.place()}: not JSON ({error.msg}).") from None
                if len(self.held) - self.at > MAX_RECORD_BYTES:
                    raise PlanError(
                        f"{self.path}: {self.place()} is longer than {MAX_RECORD_BYTES >> 20} MiB."
                    ) from None
                if not self._more():
                    raise PlanError(_cut_off(self.path, f"{self.place()} ({error.msg})")) from None
            except ValueError as error:  # a number of too many digits
                raise PlanError(f"{self.path}: {self.place()}: not usable JSON ({error}).") from None
            else:
                self.number += 1
                return value

    def _more(self) -> bool:
        """Reads on, as much again as is still held; False at the end of the file."""
        try:
            added = self.text.read(max(_CHUNK_CHARS, len(self.held) - self.at))
        except UnicodeDecodeError as error:
            raise PlanError(
                f"{self.path}: after {self.place()}: the prompts file is not UTF-8 ({error.reason})."
            ) from None
        except (OSError, EOFError) as error:
            raise PlanError(f"{self.path}: after {self.place()}: the prompts file cannot be read ({error}).") from None
        self._line += self.held.count("\n", self._lines_to, self.at)
        self.held, self.at, self._lines_to = self.held[self.at :] + added, 0, 0
        return bool(added)


def _csv(path: Path, packed: bool, delimiter: str) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(MAX_RECORD_BYTES)
    with _open(path, packed) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(rows)]
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise PlanError(
                        f"{path}: line {rows.line_num}: {len(row)} fields where the header has {len(header)} "
                        f"({delimiter.join(header)[:80]}). Was the file cut off, or does a text lack its quotes?"
                    )
                yield f"line {rows.line_num}", {name: cell or None for name, cell in zip(header, row, strict=True)}
        except csv.Error as error:
            raise PlanError(f"{path}: line {rows.line_num}: not CSV ({error}).") from None
        except UnicodeDecodeError as error:
            raise PlanError(
                f"{path}: after line {rows.line_num}: the prompts file is not UTF-8 ({error.reason})."
            ) from None
        except (OSError, EOFError) as error:
            raise PlanError(f"{path}: after line {rows.line_num}: cannot be read ({error}).") from None


def _parquet(path: Path, known: Callable[[str], bool]) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            names = table.schema_arrow.names
            wanted = [name for name in names if known(name)]
            if not wanted:
                yield "row 1", dict.fromkeys(names)
                return
            number = 0
            for batch in table.iter_batches(batch_size=1000, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise PlanError(
            f"{path}: not readable as Parquet ({str(error).splitlines()[0]}). Was the download cut off?"
        ) from None
