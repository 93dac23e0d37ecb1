"""The commands `nbridge select` and `nbridge prices`."""

import dataclasses
import datetime
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from planning.commands import Json, OwnCatalog, duration, print_json, print_parts


def select(
    max_ttft: Annotated[
        float | None, typer.Option(metavar="TIME", parser=duration(60), help="Longest time to first token: 500ms, 0.5.")
    ] = None,
    max_tpot: Annotated[
        float | None,
        typer.Option(metavar="TIME", parser=duration(2), help="Longest time per output token: 20ms, 0.02."),
    ] = None,
    max_latency: Annotated[
        float | None,
        typer.Option(metavar="TIME", parser=duration(3600), help="Longest time of a whole answer: 30s, 30."),
    ] = None,
    min_throughput: Annotated[float | None, typer.Option(help="Least output tokens per second.")] = None,
    min_quality: Annotated[
        str | None, typer.Option(help="A share of right answers (MMLU, 0 to 1), or high, very-high, excellent.")
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(help="A language it must claim (en, zh, …); repeatable.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="A prompt to choose for: its language is required; a hard one goes by quality.")
    ] = None,
    licence: Annotated[list[str] | None, typer.Option(help="permissive, community or research; repeatable.")] = None,
    min_context: Annotated[int | None, typer.Option(help="Least context, tokens.")] = None,
    max_memory: Annotated[float | None, typer.Option(help="Most GPU memory over all GPUs, GiB.")] = None,
    max_usd_per_hour: Annotated[float | None, typer.Option(help="Highest rent per hour.")] = None,
    max_usd_per_mtok: Annotated[float | None, typer.Option(help="Highest rent for a million output tokens.")] = None,
    prefer: Annotated[str, typer.Option(help="Of those that fit, order by cost, latency or quality.")] = "cost",
    gpu: Annotated[
        list[str] | None, typer.Option(metavar="GPU[:N]", help="Hardware at hand; else every kind. Repeatable.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only these models; repeatable.")] = None,
    prompt_tokens: Annotated[int, typer.Option(help="Length of a prompt.")] = 1024,
    output_tokens: Annotated[int, typer.Option(help="Length of an answer.")] = 256,
    concurrency: Annotated[int, typer.Option(help="Requests at once.")] = 1,
    run: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Judge what was measured in a run too; repeatable.")
    ] = None,
    measured_only: Annotated[bool, typer.Option("--measured-only", help="Only what the runs measured.")] = False,
    peak_rps: Annotated[
        float | None, typer.Option(help="Peak requests per second: how many servers of each measured candidate.")
    ] = None,
    requests_per_month: Annotated[
        float | None, typer.Option(help="The same from a month's requests and --peak-to-mean.")
    ] = None,
    peak_to_mean: Annotated[float, typer.Option(min=1, help="How many times the mean the peak is.")] = 4.0,
    headroom: Annotated[float, typer.Option(min=0.01, max=1, help="Share of a server's goodput to plan with.")] = 0.7,
    spares: Annotated[int, typer.Option(help="Servers beyond those needed (1: N+1).")] = 1,
    catalog: OwnCatalog = None,
    as_json: Json = False,
) -> None:
    """Choose a model by latency, quality, language, cost and memory; every rejection with its reason.

    Candidates are the catalogued models at their GPUs' bounds, and the engines of runs as measured. Exit code 1 when
    none meets the requirements.
    """
    from bench.run.store import open_run
    from gateway.policies import prompts, routing
    from planning.catalogs import GIB, load, measured_on
    from planning.choice import candidates, selection
    from planning.errors import BadInput
    from planning.speed.capacity import of_month

    facts = load(catalog)
    if measured_only and not run:
        raise BadInput("--measured-only needs a run: give one with --run.")
    if prompt is not None:
        score, spoken = prompts.complexity(prompt), prompts.language(prompt)
        language = language or ([spoken] if spoken else None)
        prefer = "quality" if score > routing.Policy().hard_above else prefer
        told = f"its script tells {spoken}" if spoken else "its script tells no language"
        print(f"The prompt: complexity {score:.2f}, {told}; ordered by {prefer}.", file=sys.stderr)
    requirements = selection.Requirements(
        max_ttft_s=max_ttft,
        max_tpot_s=max_tpot,
        max_e2e_s=max_latency,
        min_output_tok_s=min_throughput,
        min_quality=_quality(min_quality),
        languages=tuple(one.lower() for one in language or ()),
        licence_classes=tuple(licence or ()),
        min_context_tokens=min_context,
        max_memory_bytes=None if max_memory is None else max_memory * GIB,
        max_usd_per_hour=max_usd_per_hour,
        max_usd_per_mtok=max_usd_per_mtok,
        prefer=prefer,  # type: ignore[arg-type]  # checked by Requirements
    )
    if requests_per_month is not None:
        peak_rps = of_month(requests_per_month, peak_to_mean).peak_rps
    at_hand = [_hardware(facts, one) for one in gpu or ()]
    found = []
    for folder in run or ():
        document = open_run(folder).document
        found += candidates.from_run(document, facts, measured_on(document, facts))
    if not measured_only:
        found += candidates.from_catalog(
            facts,
            gpus=at_hand,
            models=tuple(model or ()),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            concurrency=concurrency,
        )
    made = selection.select(found, requirements)
    if as_json:
        judged = {
            "chosen": made.chosen and made.chosen.name,
            "accepted": [_judged_as_dict(one, peak_rps, headroom, spares) for one in made.accepted],
            "rejected": [_judged_as_dict(one, peak_rps, headroom, spares) for one in made.rejected],
        }
        print_json(judged)
    else:
        from planning import printout

        print_parts(printout.selection(made))
        if peak_rps is not None:
            print_parts(printout.servers(made, peak_rps, headroom, spares))
    priced = {one.candidate.gpu for one in (*made.accepted, *made.rejected) if one.candidate.usd_per_hour is not None}
    _warn_of_age(facts, {name for name in priced if name})
    if made.chosen is None:
        raise typer.Exit(1)


def prices(
    api: Annotated[list[str] | None, typer.Option(metavar="MODEL", help="API models to list; repeatable.")] = None,
    catalog: OwnCatalog = None,
    as_json: Json = False,
) -> None:
    """List the prices in use, API, GPUs and machines, with their sources and ages."""
    from planning import printout
    from planning.catalogs import load
    from planning.cost import api_prices

    facts = load(catalog)
    today = _today()
    asked = [api_prices.find(one) for one in api or printout.API_MODELS]
    if as_json:
        print_json(
            {
                "today": today.isoformat(),
                "files": facts.files,
                "api": [dataclasses.asdict(one) for one in asked],
                "gpus": [one.model_dump(mode="json") for one in facts.gpus.values()],
                "builds": [one.model_dump(mode="json") for one in facts.builds.values()],
                "stale": [dataclasses.asdict(one) for one in facts.stale(today)],
            }
        )
    else:
        print_parts(printout.api(asked), "", printout.prices(facts, today), width=150)
    _warn_of_age(facts)


def _hardware(facts: Any, text: str) -> tuple[Any, int]:
    from planning.errors import BadInput

    name, _, count = text.partition(":")
    if count and not re.fullmatch(r"[1-9]\d{0,3}", count):
        raise BadInput(f"--gpu {text!r}: after the colon stands the number of GPUs, as in rtx-4090:2.")
    return facts.gpu(name), int(count or 1)


def _quality(text: str | None) -> float | str | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text.lower().replace(" ", "-")


def _judged_as_dict(one: Any, peak_rps: float | None, headroom: float, spares: int) -> dict[str, Any]:
    from planning.choice.candidates import servers

    needed = {}
    if peak_rps is not None:
        needed = {"servers": servers(one.candidate, peak_rps, headroom=headroom, spares=spares)}
    return {
        "name": one.candidate.name,
        **dataclasses.asdict(one.candidate),
        **needed,
        "reasons": one.reasons,
        "unproven": one.unproven,
    }


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def _warn_of_age(facts: Any, used: set[str] | None = None) -> None:
    from planning.catalogs import stale_note

    if note := stale_note(facts, _today(), used):
        typer.echo(f"note: {note}", err=True)
