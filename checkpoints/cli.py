"""The commands `nbridge quantize`, `nbridge finetune`, `nbridge fetch` and `nbridge models`."""

import dataclasses
import difflib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from checkpoints.cache import Progress
from inputs.quantities import trimmed

if TYPE_CHECKING:
    from checkpoints.finetuning.finetune import FineTuned

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def quantize(
    model: Annotated[str, typer.Argument(help="demo-1m, or the directory of an unquantized model.")],
    scheme: Annotated[str, typer.Option(help="w8a8-int8 (int8), w4a16 (int4), awq, gptq, w8a8-fp8, w4a8 or w8a16.")],
    out: Annotated[Path, typer.Option(help="Directory to write; it must be empty or not exist.")],
    group_size: Annotated[int, typer.Option(help="Inputs that share a scale (not for w8a8).")] = 128,
    as_json: _Json = False,
) -> None:
    """Write a quantized copy of a model (round to nearest), ready for vLLM."""
    from checkpoints.errors import BadScheme
    from checkpoints.prepare import unquantized_directory
    from checkpoints.quantization.quantize import quantize as write
    from checkpoints.tensors.schemes import WRITTEN, resolve

    resolved = resolve(scheme)
    if resolved not in WRITTEN:
        near = difflib.get_close_matches(scheme.lower(), WRITTEN, n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise BadScheme(f"--scheme {scheme!r} is not written here.{hint} Schemes: {', '.join(WRITTEN)}.")
    with _shown_progress() as progress:
        source = unquantized_directory(model, progress)
        done = write(source, out, resolved, group_size=group_size, progress=progress)
    if as_json:
        _print_json(dataclasses.asdict(done))
        return
    share = done.weights_bytes / done.source_bytes
    typer.echo(
        f"{out}: {resolved}, {_size(done.weights_bytes)} from {_size(done.source_bytes)} ({share:.0%}); "
        f"{done.quantized_tensors} weights quantized, {done.kept_tensors} tensors kept as they are."
    )


def finetune(
    model: Annotated[str, typer.Argument(help="demo-1m, or the directory of an unquantized model.")],
    text: Annotated[Path, typer.Option(help="Text file in UTF-8 to adapt the model to.")],
    out: Annotated[Path, typer.Option(help="Directory to write; it must be empty or not exist.")],
    rank: Annotated[int, typer.Option(help="Rank of the adapter.")] = 16,
    alpha: Annotated[float, typer.Option(help="Scale of the adapter (divided by the rank).")] = 32.0,
    dropout: Annotated[float, typer.Option(help="Dropout in front of the adapter while training.")] = 0.1,
    target: Annotated[list[str] | None, typer.Option(help="Linear layer to adapt. [default: q_proj, v_proj]")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps. [default: three passes over the text]")] = None,
    batch: Annotated[int, typer.Option(help="Windows per step.")] = 8,
    window_tokens: Annotated[int, typer.Option(help="Tokens in a window.")] = 256,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 2e-4,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    as_json: _Json = False,
) -> None:
    """Train a LoRA adapter on a text; perplexity on its held-out part before and after. Exit 1 when it did not fall."""
    from checkpoints.finetuning.finetune import Recipe
    from checkpoints.finetuning.finetune import finetune as train

    recipe = Recipe(
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        targets=tuple(target or Recipe.targets),
        steps=steps,
        batch=batch,
        window_tokens=window_tokens,
        learning_rate=learning_rate,
        seed=seed,
    )
    with _shown_progress() as progress:
        done = train(model, text, out, recipe, progress=progress)
    found = done.perplexity
    if as_json:
        _print_json(dataclasses.asdict(done))
    else:
        _print_finetuned(done)
    if found.ratio >= 1:
        raise typer.Exit(1)


def _print_finetuned(done: "FineTuned") -> None:
    found = done.perplexity
    typer.echo(
        f"{done.path}: adapter of {done.base}, {done.trained_parameters:,} parameters trained in {done.seconds:.0f} s."
    )
    typer.echo(
        f"Held-out perplexity {found.before:.2f} before, {found.after:.2f} after; ratio {found.ratio:.3f} "
        f"(95 %: {found.low:.3f} to {found.high:.3f}) over {done.heldout_windows} windows."
    )
    if found.ratio >= 1:
        typer.echo("The adapter does not help on this text. More steps or another --learning-rate may.")
    elif found.high >= 1:
        typer.echo("The interval includes 1: the text is too short to say that the adapter helps.")
    if done.heldout_seen_share > 0.05:
        typer.echo(
            f"{done.heldout_seen_share:.0%} of the held-out text also stands in the training text: the text repeats "
            "itself, and the perplexity after is flattered."
        )
    name = Path(done.path).name
    typer.echo(f"Serve it: nbridge serve --model {done.base} --lora-modules {name}={done.path}")


def fetch(
    name: Annotated[str, typer.Argument(help="organisation/name on the hub, or a catalogued architecture.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory to write; else the hub's own cache.")] = None,
    as_json: _Json = False,
) -> None:
    """Download a model from the hub (token: HF_TOKEN, mirror: HF_ENDPOINT); run it again to go on."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from checkpoints.fetch import fetch as download

    if not sys.stderr.isatty():
        disable_progress_bars()
    # The hub's own bars show the bytes; a second live display beside them would tear both.
    done = download(name, revision=revision, out=out, progress=_print_line)
    if as_json:
        _print_json(dataclasses.asdict(done))
        return
    typer.echo(f"{done.name}: {len(done.files)} files, {_size(done.total_bytes)} in {done.path}")


def models(as_json: _Json = False) -> None:
    """List the models known by name and the copies in the cache, with their sizes."""
    from checkpoints.inventory import inventory

    rows = inventory()
    if as_json:
        _print_json({"models": [dataclasses.asdict(row) for row in rows]})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "kind", "scheme"):
        table.add_column(column)
    for column in ("parameters", "weights", "KV/token"):
        table.add_column(column, justify="right")
    table.add_column("where", overflow="fold")
    for row in rows:
        table.add_row(
            row.name,
            row.kind,
            row.scheme,
            "" if row.parameters is None else f"{row.parameters:,}",
            "" if row.weights_bytes is None else _size(row.weights_bytes),
            "" if row.kv_bytes_per_token is None else f"{trimmed(row.kv_bytes_per_token / 1024, 4)} KiB",
            row.path or "made when first used",
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@contextmanager
def _shown_progress() -> Iterator[Progress]:
    if not sys.stderr.isatty():
        yield _print_line
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield status.update


def _print_line(message: str) -> None:
    typer.echo(message, err=True)


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2))


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
