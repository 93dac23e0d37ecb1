"""Files that a person, a plan or a setting names: read whole, within a bound.

A path may lead to anything: a device without an end, a pipe that nobody writes to, a file larger than the memory.
"""

import errno
import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

SETTINGS_BYTES = 16 << 20  # plans, claims, cases, settings: written by hand, so far below


class NotReadable(OSError):
    """Why something is not read here, as `strerror`: it follows "cannot be read:" in a message."""

    def __init__(self, number: int, reason: str, path: Path) -> None:
        super().__init__(number, reason, str(path))

    def __str__(self) -> str:
        return str(self.strerror)


def read_bytes(path: Path, *, limit_bytes: int = SETTINGS_BYTES) -> bytes:
    """The content of a file, or of a pipe that has a writer (`<(…)`).

    Raises OSError: what the system says, or NotReadable for a device and for more than `limit_bytes`.
    """
    seen = path.stat()
    if stat.S_ISCHR(seen.st_mode) or stat.S_ISBLK(seen.st_mode):
        raise NotReadable(errno.EINVAL, "it is a device, not a file", path)
    too_large = NotReadable(errno.EFBIG, f"it is larger than {_size(limit_bytes)}", path)
    if seen.st_size > limit_bytes:
        raise too_large
    # Without O_NONBLOCK, opening a named pipe waits until somebody writes to it, maybe for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        os.set_blocking(descriptor, True)
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise too_large
    return content


def read_text(path: Path, *, limit_bytes: int = SETTINGS_BYTES) -> str:
    """The text of a UTF-8 file, a byte order mark left out. Raises as `read_bytes`, and UnicodeDecodeError."""
    return read_bytes(path, limit_bytes=limit_bytes).decode("utf-8-sig")


def read_toml(path: Path, *, limit_bytes: int = SETTINGS_BYTES) -> dict[str, Any]:
    """The document in a TOML file. Raises as `read_text`, and tomllib.TOMLDecodeError."""
    try:
        return tomllib.loads(read_text(path, limit_bytes=limit_bytes))
    except RecursionError:
        raise tomllib.TOMLDecodeError("its values are nested too deeply") from None


def read_settings(path: Path) -> dict[str, Any]:
    """The document in a settings file. Raises ValueError: in a sentence, which file and what is wrong with it."""
    try:
        return read_toml(path)
    except OSError as error:
        raise ValueError(f"The settings file {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"The settings file {path} is not valid TOML: {error}.") from None


def read_json(path: Path, *, limit_bytes: int = SETTINGS_BYTES) -> Any:
    """The document in a JSON file. Raises as `read_text`, and json.JSONDecodeError."""
    try:
        return json.loads(read_text(path, limit_bytes=limit_bytes))
    except RecursionError:
        raise json.JSONDecodeError("its values are nested too deeply", "", 0) from None


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
