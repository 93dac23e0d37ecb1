"""How far a measurement is, from its run folder alone: cells, requests of the cell in work, the time that remains."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from inputs.quantities import number, plural, seconds

LAST = 60  # requests that the live figures are of
_TAIL_BYTES = 4 << 20  # records hold an instant a token
_CHUNK = 1 << 20
_COUNTED_BYTES = 64 << 20  # a look every two seconds may not read more than that


@dataclass(frozen=True)
class Progress:
    """Cells done and in all, the cell in work and its requests, and the live figures of those that ended last."""

    done: int
    total: int
    cell: str | None
    sent: int
    requests: int | None
    figures: tuple[tuple[str, str, str], ...]
    failed: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of the whole run, the cell in work included as far as it is."""
        return 0.0 if not self.total else min(1.0, (self.done + self._part) / self.total)

    @property
    def _part(self) -> float:
        return min(1.0, self.sent / self.requests) if self.requests and self.cell else 0.0

    def remaining_s(self, spent_s: float, began_with: int | None) -> float | None:
        """The time that is left by the pace since the start; None before there is one."""
        pending = self.total - self.done
        worked = (pending if began_with is None else began_with) - pending + self._part
        if began_with is None:
            worked = self.done + self._part
        return None if worked < 0.15 else spent_s / worked * (pending - self._part)


def progress(run_dir: Path) -> Progress | None:
    """How far the run is; None while there is no run.json that can be read."""
    try:
        document = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        cells = list(document["cells"])
        pending = [cell for cell in cells if cell["outcome"] == "pending"]
        wrong = tuple(f"{c['id']}: {c['outcome']}" for c in cells if c["outcome"] not in ("ok", "pending", "dropped"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    current = next((cell for cell in pending if _in_work(run_dir, cell)), None)
    sent, figures = (0, ()) if current is None else _records(run_dir / "cells" / str(current["id"]))
    return Progress(
        done=len(cells) - len(pending),
        total=len(cells),
        cell=None if current is None else str(current["id"]),
        sent=sent,
        requests=None if current is None else (current.get("load") or {}).get("requests"),
        figures=figures,
        failed=wrong,
    )


def _in_work(run_dir: Path, cell: dict[str, Any]) -> bool:
    return (run_dir / "cells" / str(cell.get("id")) / "load.json").exists()


def _records(folder: Path) -> tuple[int, tuple[tuple[str, str, str], ...]]:
    """How many requests have ended, and what the last of them say."""
    count, last = 0, []
    for path in sorted(folder.glob("requests*.jsonl")):
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                file.seek(max(0, size - _TAIL_BYTES))
                tail = file.read()
                last += [record for line in tail.splitlines()[-LAST:] if (record := _record(line))]
                count += _lines(file, size, tail)
        except OSError:
            continue  # it was put together with the others this very moment
    last.sort(key=lambda record: float(record.get("ended") or 0.0))
    return count, _figures(last[-LAST:])


def _lines(file: BinaryIO, size: int, tail: bytes) -> int:
    """How many lines a file has; of a large one about, by the length of its last lines."""
    if size > _COUNTED_BYTES and tail.count(b"\n"):
        return round(size / (len(tail) / tail.count(b"\n")))
    file.seek(0)
    return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_CHUNK), b""))


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None  # the beginning of the tail, or a line that is being written
    return found if isinstance(found, dict) else None


def _figures(last: list[dict[str, Any]]) -> tuple[tuple[str, str, str], ...]:
    ok = [one for one in last if one.get("outcome") == "ok" and one.get("ended") is not None]
    if not ok:
        return ()
    found = []
    span_s = float(ok[-1]["ended"]) - float(ok[0]["ended"])
    if span_s > 0 and len(ok) > 1:
        rate = (len(ok) - 1) / span_s
        found.append(("Answers", number(rate), "a second"))
        tokens = [one.get("output_tokens") for one in ok[1:]]
        if all(isinstance(one, int) for one in tokens):
            found.append(("Output", number(sum(int(one or 0) for one in tokens) / span_s), "tokens/s"))
    firsts = [one["first_token"] - one["sent"] for one in ok if one.get("first_token") and one.get("sent") is not None]
    if firsts:
        found.append(("TTFT", seconds(statistics.median(firsts)), "median"))
    found.append(("Not answered", str(len(last) - len(ok)), f"of the last {plural(len(last), 'request')}"))
    return tuple(found)


def words(found: Progress, left_s: float | None) -> str:
    """How far it is, in a sentence."""
    if not found.total:
        return "The search for the capacity is at work."
    if found.done == found.total:
        return f"All {plural(found.total, 'cell')} done; the report is being written."
    text = f"Cell {found.done + 1} of {found.total}"
    if found.cell is None:
        return f"{text}: a server is being started, or asked what it is."
    of = f" of {found.requests:,}" if found.requests else ""
    text += f": {found.cell}, {found.sent:,}{of} requests answered"
    if left_s is None:
        return f"{text}."
    left = f"{left_s:.0f} s" if left_s < 90 else f"{left_s / 60:.0f} min"
    return f"{text}; about {left} left, by the pace so far."
