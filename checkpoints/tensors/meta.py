"""The tensors of any architecture that the installed transformers knows, without weights; asked once and kept."""

import hashlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from checkpoints.cache import cache_dir
from checkpoints.errors import BadCheckpoint, MissingPackage
from checkpoints.tensors.meta_shapes import MARK

_LONGEST_S = 300.0


def ask(directory: Path) -> dict[str, tuple[int, ...]]:
    """Return name → shape of every parameter that transformers gives a directory's configuration.

    The model is built on the meta device in a process of its own; code in the directory is never run. Raises
    MissingPackage without torch and transformers, BadCheckpoint with transformers' own words when it refuses.
    """
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        raise MissingPackage(
            "the sizes of this architecture are not known here and would be asked of transformers, which is not "
            "installed. Install the extra `cpu` or `gpu`, or name a directory or repository with safetensors files: "
            "their headers say it."
        )
    config = (directory / "config.json").read_bytes()
    version = importlib.metadata.version("transformers")
    kept = cache_dir() / "shapes" / f"{hashlib.sha256(version.encode() + config).hexdigest()[:32]}.json"
    try:
        return _shapes(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not asked yet, or damaged
    command = [sys.executable, "-m", "checkpoints.tensors.meta_shapes", str(directory.absolute())]
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False, cwd=root)
    except subprocess.TimeoutExpired as error:
        raise BadCheckpoint(f"transformers gave no answer within {_LONGEST_S:.0f} s.") from error
    answer = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if answer is None:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise BadCheckpoint(
            f"its tensors are not known here, and transformers {version} cannot say them: {said[0]}. A directory or "
            "repository with safetensors files of any architecture is read instead."
        )
    document = answer.removeprefix(MARK)
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(f".partial-{hashlib.sha256(document.encode()).hexdigest()[:8]}")
    partial.write_text(document, encoding="utf-8")
    partial.rename(kept)
    return _shapes(document)


def _shapes(document: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(int(n) for n in shape) for name, shape in json.loads(document)["shapes"].items()}
