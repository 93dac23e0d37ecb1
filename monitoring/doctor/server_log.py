"""A server's log as a finding: why it ended or did not start, and what to do. Files as people have them."""

import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from monitoring.doctor.checks import Finding
from monitoring.errors import SettingsError
from monitoring.logs.reading import Reading, read

STDIN = Path("-")
_GZIP = b"\x1f\x8b"
# What a byte order mark says of a file; PowerShell writes UTF-16 where a shell's ">" would write UTF-8.
_MARKS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))


def log_finding(path: Path) -> Finding:
    """What a log gives as the reason why its server ended; `-` is the standard input.

    Raises SettingsError when it cannot be read.
    """
    try:
        if path == STDIN:
            return finding(read(lines(io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False)))))
        with path.open("rb") as file:
            return finding(read(lines(file)))
    except (OSError, EOFError) as error:
        raise SettingsError(f"--log {path}: cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def lines(file: io.BufferedReader) -> Iterator[str]:
    """The lines of a log, however it is encoded, whole or compressed; a progress bar's carriage returns end one."""
    start = file.peek(4)[:4]
    if start.startswith(_GZIP):
        with gzip.GzipFile(fileobj=file) as inside:
            yield from lines(io.BufferedReader(inside))
        return
    encoding = next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
    for line in io.TextIOWrapper(file, encoding=encoding, errors="replace", newline=None):
        yield line.rstrip("\n")


def finding(said: Reading) -> Finding:
    """A reading of a log in words."""
    if not said.failed:
        if said.was_stopped:
            return Finding("Log", "ok", "nothing in it that failed; somebody stopped the server (SIGTERM, Ctrl-C)")
        if said.was_ready:
            return Finding("Log", "ok", "nothing in it that ended the server")
        return Finding(
            "Log",
            "ok",
            "nothing in it that ended the server, which was not ready yet",
            "If its process is gone, it was killed from outside: dmesg -T and the container's state say by whom.",
        )
    told = ", ".join(f'"{line}"' for line in said.matter)
    if said.cause:
        seen, todo = f'{said.cause.says} The log says: "{said.words}".', said.cause.todo
    elif said.was_ready:
        seen = f"The server died while it served, for a reason that is not known here. The lines that matter: {told}."
        todo = "Look into the log around them; dmesg -T says whether the kernel ended a process."
    else:
        seen = f"The server failed for a reason that is not known here. The lines that matter: {told}."
        todo = "Look into the log around them, and search vLLM's issues for the first one."
    if said.earlier:
        return Finding("Log", "warn", f"An earlier start in this log failed: {seen}", todo)
    return Finding("Log", "fail", seen, todo)
