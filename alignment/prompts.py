"""The prompts whose states are compared: from a file, or short pieces of the Python standard library's sources."""

import hashlib
import json
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from alignment.errors import BadInput
from inputs import files

PROMPTS_BYTES = 1 << 30

DEFAULT_COUNT = 3000
_LEFT_OUT = ("site-packages", "/test", "encodings", "idlelib", "pydoc_data")
_FIELDS = ("prompt", "text")


def sha256(prompt: str) -> str:
    """The SHA-256 of a prompt's UTF-8, in hexadecimal: what files keep of it, and what the split goes by."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def set_sha256(hashes: Sequence[str]) -> str:
    """One SHA-256 for a set of prompts, whatever their order."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def read_prompts(path: Path) -> list[str]:
    """The prompts of a text file, one per line, or of JSONL: strings, or objects with `prompt` or `text`.

    Empty lines are left out. Raises BadInput naming file and line.
    """
    try:
        lines = files.read_text(path, limit_bytes=PROMPTS_BYTES).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"Prompts cannot be read from {path}: {error}.") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if path.suffix == ".jsonl":
        found = [_from_json(line, f"{path}, line {number}") for number, line in numbered]
    else:
        found = [line for _, line in numbered]
    if not found:
        raise BadInput(f"{path} has no prompts: one per line is expected.")
    return found


def standard_library_prompts(count: int = DEFAULT_COUNT, root: Path | None = None) -> list[str]:
    """`count` distinct pieces of 20 to 200 characters from this Python's standard library, always the same ones.

    They are cut one after the other and do not overlap, so that none is the beginning of another, and drawn in the
    order of their hash, so that they come from all modules. Raises BadInput when there are not so many.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    pieces: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        relative = f"/{path.relative_to(root).as_posix()}"
        if any(part in relative for part in _LEFT_OUT):
            continue
        try:
            pieces.update(_pieces(path.read_text(encoding="utf-8"), relative))
        except (OSError, UnicodeDecodeError):
            continue
    if len(pieces) < count:
        raise BadInput(
            f"{count} prompts were asked for, and the Python standard library here yields {len(pieces)}: ask for "
            "fewer, or give your own with --prompts FILE."
        )
    return sorted(pieces, key=sha256)[:count]


def _pieces(text: str, salt: str) -> list[str]:
    """A text cut into pieces at white space; their lengths come from hashes, so they are varied and always the same."""
    found, start = [], 0
    while start < len(text):
        draw = hashlib.sha256(f"{salt}:{start}".encode()).digest()
        end = start + 20 + int.from_bytes(draw[:2]) % 181
        while end < len(text) and not text[end].isspace():
            end += 1
        piece = text[start:end].strip()
        # Long runs without white space are tables and data; too little text says too little.
        if 20 <= len(piece) <= 260:
            found.append(piece)
        start = end
    return found


def _from_json(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise BadInput(f"{where} is no JSON: {error}.") from error
    if isinstance(value, dict):
        value = next((value[name] for name in _FIELDS if name in value), None)
    if not isinstance(value, str) or not value:
        raise BadInput(f"{where} must be a text, or an object with a text under {' or '.join(_FIELDS)}.")
    return value
