"""A table of what configurations alone say of their models: `python -m planning.memory.table FOLDER` prints Markdown.

FOLDER holds NAME.json for each model's config.json, and NAME.hf_quant.json where NVIDIA's file stands beside it.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from checkpoints.tensors.prequantized import QUANT_FILE
from planning.errors import PlanningError
from planning.memory.models import read
from planning.memory.shapes import Shape
from planning.memory.vram import kinds

HEADER = (
    "| model | parameters | used for a token | weights in GB | cache of a token in B | layers | counted by | vLLM |\n"
    "|---|--:|--:|--:|--:|---|---|---|"
)


def rows(folder: Path) -> Iterable[str]:
    """Yield a row for each configuration of a folder, in name order; one that is refused has its reason."""
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(".hf_quant.json"):
            continue
        with tempfile.TemporaryDirectory() as made:
            directory = Path(made)
            shutil.copy(path, directory / "config.json")
            if (beside := path.with_suffix(".hf_quant.json")).exists():
                shutil.copy(beside, directory / QUANT_FILE)
            try:
                yield row(path.stem, read(made))
            except PlanningError as error:
                yield f"| {path.stem} | {str(error).replace(made, path.stem)} | | | | | | |"


def row(name: str, shape: Shape) -> str:
    """Return one row: what was counted, and whether tests hold it against vLLM ("exact") or not ("estimate")."""
    scheme = "" if shape.scheme == "none" else f" ({shape.scheme})"
    layers = ", ".join(f"{count} {kind}" for kind, count in kinds(shape.caches or ()).items())
    cache = "" if shape.kv_bytes_per_token is None else f"{shape.kv_bytes_per_token:,}"
    counted = "transformers" if shape.source == "transformers" else "formula"
    both = (shape.held, shape.cache_held(shape.cache_bits or 16))
    held = "exact" if all(both) else "cache exact" if both[1] else "estimate"
    counts = ("" if n is None else f"{n:,}" for n in (shape.parameters, shape.active_parameters))
    counted += ", see its note" if shape.guessed else ""
    size = f"{shape.weights_bytes / 1e9:,.1f}{scheme}"
    return "| " + " | ".join((name, *counts, size, cache, layers, counted, held)) + " |"


if __name__ == "__main__":
    sys.stdout.write("\n".join([HEADER, *rows(Path(sys.argv[1]))]) + "\n")
