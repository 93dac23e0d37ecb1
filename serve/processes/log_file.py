"""A log file that another process is writing: read a line at a time, and kept from growing without end."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

CHUNK_BYTES = 1 << 16
LINE_LIMIT_BYTES = 1 << 16


class LogReader:
    """The lines that have been completed since the last look; progress bars' carriage returns end a line too."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._rest = b""

    def new_lines(self) -> Iterator[str]:
        while chunk := self._file.read(CHUNK_BYTES):
            *lines, self._rest = (self._rest + chunk).replace(b"\r", b"\n").split(b"\n")
            if len(self._rest) > LINE_LIMIT_BYTES:
                lines, self._rest = [*lines, self._rest], b""
            for line in lines:
                if line.strip():
                    yield line.decode("utf-8", "replace").rstrip()

    def shorten(self, limit_bytes: int) -> None:
        """Empty the file when more than `limit_bytes` of it have been read; lines that come just then may be lost."""
        if self._file.tell() > limit_bytes:
            os.truncate(self._file.name, 0)
            self._file.seek(0)

    def close(self) -> None:
        self._file.close()


def roll(path: Path, limit_bytes: int) -> bool:
    """Move all of a log that is larger than `limit_bytes` to `<name>.1`, which is replaced; whether it was larger.

    For logs that another process holds open and appends to: what it writes between the last read and the cut is lost.
    On a full disk the older lines are lost, too: nothing is worth filling it further.
    """
    kept = path.with_name(f"{path.name}.1")
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size <= limit_bytes:
            return False
        try:
            with new.open("wb") as copy:
                shutil.copyfileobj(file, copy, 1 << 20)  # until there is no more, what came meanwhile included
            os.truncate(path, 0)
            new.replace(kept)
        except OSError:
            os.truncate(path, 0)
            with contextlib.suppress(OSError):
                new.unlink()
    return True


def tail(path: Path, limit_bytes: int = 1 << 20) -> str:
    """The last `limit_bytes` of a log as text."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - limit_bytes))
        return file.read(limit_bytes).decode("utf-8", "replace")  # a device has no end
