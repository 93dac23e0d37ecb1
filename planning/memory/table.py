"""A table of what configurations alone say of their models: `python -m planning.memory.table FOLDER` prints Markdown.

FOLDER holds NAME.json for each model's config.json, NAME.hf_quant.json where NVIDIA's file stands beside it, and
published.toml with the counts that makers publish.
"""

import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from checkpoints.tensors.prequantized import QUANT_FILE
from planning.errors import PlanningError
from planning.memory.kv import kinds
from planning.memory.models import read
from planning.memory.shapes import Shape

HEADER = (
    "| model | parameters | published, in billions | used for a token | weights in GB | cache of a token in B "
    "| layers | counted by | vLLM |\n|---|--:|---|--:|--:|--:|---|---|---|"
)

_WITHOUT = {"text": "without towers", "inner": "without towers and embeddings"}


def rows(folder: Path) -> Iterable[str]:
    """Yield a row for each configuration of a folder, in name order; one that is refused has its reason."""
    said = tomllib.loads(path.read_text("utf-8")) if (path := folder / "published.toml").exists() else {}
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(".hf_quant.json"):
            continue
        with tempfile.TemporaryDirectory() as made:
            directory = Path(made)
            shutil.copy(path, directory / "config.json")
            if (beside := path.with_suffix(".hf_quant.json")).exists():
                shutil.copy(beside, directory / QUANT_FILE)
            try:
                yield row(path.stem, read(made), said.get(path.stem))
            except PlanningError as error:
                yield f"| {path.stem} | {str(error).replace(made, path.stem)} | | | | | | | |"


def agrees(shape: Shape, published: Mapping[str, str]) -> bool:
    """Say whether the parameters are the published ones, to their digits or within 0.1 %.

    A count without towers, or without the embeddings too, is held against the same of ours.
    """
    count = shape.parameters or 0
    if ours := published.get("ours"):
        count -= shape.tower_parameters + (shape.vocabulary_parameters if ours == "inner" else 0)
    digits = len(published["billions"].partition(".")[2])
    said = float(published["billions"])
    return round(count / 1e9, digits) == said or abs(count / 1e9 / said - 1) <= 0.001


def row(name: str, shape: Shape, published: Mapping[str, str] | None = None) -> str:
    """Return one row: what was counted, and whether tests hold it against vLLM ("exact") or not ("estimate")."""
    scheme = "" if shape.scheme == "none" else f" ({shape.scheme})"
    layers = ", ".join(f"{count} {kind}" for kind, count in kinds(shape.caches or ()).items())
    cache = "" if shape.kv_bytes_per_token is None else f"{shape.kv_bytes_per_token:,}"
    counted = "transformers" if shape.source == "transformers" else "formula"
    both = (shape.held, shape.cache_held(shape.cache_bits or 16))
    held = "exact" if all(both) else "cache exact" if both[1] else "estimate"
    counts = ["" if n is None else f"{n:,}" for n in (shape.parameters, shape.active_parameters)]
    counted += ", see its note" if shape.guessed else ""
    size = f"{shape.weights_bytes / 1e9:,.1f}{scheme}"
    parts = [published["billions"], published["source"]] if published else []
    parts += [_WITHOUT[published["ours"]]] if published and "ours" in published else []
    said = "; ".join(parts + ([published["why"]] if published and "why" in published else []))
    return "| " + " | ".join((name, counts[0], said, counts[1], size, cache, layers, counted, held)) + " |"


if __name__ == "__main__":
    sys.stdout.write("\n".join([HEADER, *rows(Path(sys.argv[1]))]) + "\n")
