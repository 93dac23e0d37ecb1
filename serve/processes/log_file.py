"""Reads a log file that another process is writing, a line at a time and without holding the file in memory."""

import os
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


def tail(path: Path, limit_bytes: int = 1 << 20) -> str:
    """The last `limit_bytes` of a log as text."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - limit_bytes))
        return file.read(limit_bytes).decode("utf-8", "replace")  # a device has no end
