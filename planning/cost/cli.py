"""The command `nbridge cost`."""

from pathlib import Path
from typing import Annotated

import typer

from planning.commands import Json, OwnCatalog, print_json, print_parts


def cost(
    case: Annotated[
        Path | None, typer.Argument(help="A case (TOML); without it, an example.", metavar="CASE", show_default=False)
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Take speed and goodput from a run, and its mix of tokens.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="The run's engine; without it, its fastest.")] = None,
    hosting: Annotated[str | None, typer.Option(help="rent or buy.", metavar="rent|buy")] = None,
    gpu: Annotated[str | None, typer.Option(help="Take a GPU's prices from the catalog.")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs per replica.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Never measured: guess the speed of this model on --gpu from its bounds.")
    ] = None,
    quantization: Annotated[str, typer.Option(help="Of --model: none, int8, int4, awq, gptq, fp8.")] = "none",
    api: Annotated[str | None, typer.Option(metavar="MODEL", help="The API model: gpt-4o, or openai/gpt-4o.")] = None,
    tokens: Annotated[float | None, typer.Option(help="Tokens asked for in a month, input and output.")] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An assumption: NUMBER or LOW:LIKELY:HIGH. Repeatable."),
    ] = None,
    draws: Annotated[int, typer.Option(min=1_000, max=5_000_000, help="Months drawn.")] = 200_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same draws.")] = 0,
    catalog: OwnCatalog = None,
    as_json: Json = False,
) -> None:
    """Say what a month costs by API and on own hardware, with ranges, P(cheaper), break-even and what drives it.

    Every assumption is listed with its range, source and date; a case of your own replaces them (docs/cost.md).
    """
    from bench.run.store import open_run
    from planning.catalogs import load
    from planning.cost.assembly import assemble, parse_value
    from planning.cost.assumptions import EXAMPLE, read_document
    from planning.cost.estimate import estimate
    from planning.cost.printout import document, page

    given = dict(parse_value(text) for text in values or [])
    if tokens is not None:
        given["tokens_per_month"] = tokens
    made = estimate(
        assemble(
            read_document(case),
            source=EXAMPLE if case is None else str(case),
            catalog=load(catalog),
            run=open_run(run).document if run else None,
            engine=engine,
            hosting=hosting,
            gpu=gpu,
            gpus=gpus,
            model=model,
            quantization=quantization,
            api=api,
            values=given,
        ),
        draws=draws,
        seed=seed,
    )
    if as_json:
        print_json(document(made))
    else:
        print_parts(page(made), width=132)
