"""The commands `nbridge quantize`, `nbridge fetch` and `nbridge models`."""

import dataclasses
import difflib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from checkpoints.cache import Progress

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def quantize(
    model: Annotated[str, typer.Argument(help="demo-1m, or the directory of an unquantized model.")],
    scheme: Annotated[str, typer.Option(help="w8a8-int8 (int8), w4a16 (int4), awq or gptq.")],
    out: Annotated[Path, typer.Option(help="Directory to write; it must be empty or not exist.")],
    group_size: Annotated[int, typer.Option(help="Inputs that share a scale (not for w8a8-int8).")] = 128,
    as_json: _Json = False,
) -> None:
    """Write a quantized copy of a model (round to nearest), ready for vLLM."""
    from checkpoints.errors import BadScheme
    from checkpoints.prepare import unquantized_directory
    from checkpoints.quantize import quantize as write
    from checkpoints.schemes import WRITTEN, resolve

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
            "" if row.kv_bytes_per_token is None else f"{row.kv_bytes_per_token / 1024:.4g} KiB",
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
