"""Where made checkpoints are kept, and how they get there: built aside, renamed into place, verified on reuse."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from checkpoints.errors import CacheNotWritable, OutputExists
from inputs import files

MANIFEST = "nbridge.json"
MANIFEST_FORMAT = 1
# Hashing a file of many gigabytes at every start would cost more than loading it: those are checked by length.
_LARGEST_HASHED_BYTES = 256 * 2**20

Progress = Callable[[str], None]


def silent(_message: str) -> None:
    """Take a progress message and show nothing."""


def cache_dir() -> Path:
    """Return the directory of everything this application keeps between runs.

    $NBRIDGE_CACHE, else $XDG_CACHE_HOME/nbridge, else ~/.cache/nbridge. It may not exist yet.
    """
    if own := os.environ.get("NBRIDGE_CACHE"):
        return Path(own).expanduser().absolute()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser().absolute() / "nbridge"
    return Path.home() / ".cache" / "nbridge"


def checkpoints_dir() -> Path:
    """Return the directory that made checkpoints are cached in."""
    return cache_dir() / "checkpoints"


def key(*parts: object) -> str:
    """Return twelve hexadecimal digits that change when any part does."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def build_once(target: Path, build: Callable[[Path], Mapping[str, Any]], progress: Progress = silent) -> dict[str, Any]:
    """Return the manifest of `target`, building the directory first when it is missing or damaged.

    `build` fills an empty directory and returns facts for the manifest; the directory appears under its name
    only when it is whole. Of several processes that ask at once, one builds and the others wait for it.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheNotWritable(
            f"The cache {cache_dir()} cannot be written: {error.strerror}. Name another directory with NBRIDGE_CACHE; "
            "in a container, mount a volume there."
        ) from None
    with _locked(target, progress):
        if target.exists():
            damage = verify(target)
            if damage is None:
                return read_manifest(target)
            progress(f"{target.name} in the cache is damaged ({damage}): making it again")
            shutil.rmtree(target)
        for stale in target.parent.glob(f".{target.name}.partial-*"):
            shutil.rmtree(stale, ignore_errors=True)
        with new_directory(target) as partial:
            write_manifest(partial, build(partial))
    return read_manifest(target)


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory beside `target` that takes its name when the block ends well, else is removed.

    Raises OutputExists when `target` is there and not empty.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputExists(
            f"{target} exists and is not empty; nothing was overwritten. Name another output directory, "
            "or remove that one."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp makes it private; a model directory is not
        partial.rename(target)  # replaces an empty directory, never a full one
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_manifest(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write nbridge.json: the facts, and the length and SHA-256 of every file in the directory."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(directory.iterdir())
        if path.is_file() and path.name != MANIFEST
    }
    document = {"format": MANIFEST_FORMAT, **facts, "files": files}
    (directory / MANIFEST).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return nbridge.json of a directory, or an empty dictionary when it has none that can be read."""
    with suppress(OSError, UnicodeDecodeError, json.JSONDecodeError):
        document = files.read_json(directory / MANIFEST)
        if isinstance(document, dict):
            return document
    return {}


def verify(directory: Path) -> str | None:
    """Return what is wrong with a directory that carries a manifest, in words, or None when it is whole.

    Every file's length is compared, and the SHA-256 of files up to 256 MiB.
    """
    manifest = read_manifest(directory)
    files = manifest.get("files")
    if manifest.get("format") != MANIFEST_FORMAT or not isinstance(files, dict):
        return f"{MANIFEST} is missing or unreadable"
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        size_bytes = path.stat().st_size
        if size_bytes != expected["bytes"]:
            return f"{name} has {size_bytes:,} bytes instead of {expected['bytes']:,}"
        if size_bytes <= _LARGEST_HASHED_BYTES and file_sha256(path) != expected["sha256"]:
            return f"{name} does not match its checksum"
    return None


def directory_sha256(directory: Path) -> str:
    """Return one SHA-256 over the names and contents of a directory's files (its manifest's, where it has one)."""
    files = read_manifest(directory).get("files")
    if isinstance(files, dict):
        pairs = sorted((name, entry["sha256"]) for name, entry in files.items())
    else:
        paths = sorted(path for path in directory.iterdir() if path.is_file())
        pairs = [(path.name, file_sha256(path)) for path in paths]
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(target: Path, progress: Progress) -> Iterator[None]:
    # The lock is the kernel's: it goes when its holder ends, however that ends. The file itself stays.
    with (target.parent / f".{target.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"another process is making {target.name}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
