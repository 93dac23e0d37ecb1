"""The commands `nbridge vram`, `nbridge select` and `nbridge prices`."""

import dataclasses
import datetime
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from planning.commands import Json, OwnCatalog, print_json, print_parts


def vram(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A known name (nbridge models), a model directory, a .safetensors or .gguf file, or organisation/name "
            "on the hub (headers only).",
            metavar="MODEL",
        ),
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="A GPU of the catalog; without it, every kind is tried.")] = None,
    tensor_parallel: Annotated[int, typer.Option("--tensor-parallel", "--tp", help="GPUs that share each layer.")] = 1,
    pipeline_parallel: Annotated[int, typer.Option("--pipeline-parallel", "--pp", help="Groups of layers.")] = 1,
    quantization: Annotated[str, typer.Option(help="none, int8, int4, awq, gptq, fp8 or bitsandbytes.")] = "none",
    dtype: Annotated[str, typer.Option(help="auto (16 bit), bfloat16, float16 or float32.")] = "auto",
    kv_cache_dtype: Annotated[str, typer.Option(help="auto (16 bit) or fp8.")] = "auto",
    context: Annotated[int | None, typer.Option(help="Tokens of each request, prompt and answer; else 8192.")] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at once.")] = 1,
    gpu_memory_utilization: Annotated[float, typer.Option(help="vLLM's share of a GPU's memory.")] = 0.92,
    max_num_seqs: Annotated[int | None, typer.Option(help="As given to vLLM; else its default.")] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(help="As given to vLLM; else its default.")] = None,
    enforce_eager: Annotated[bool, typer.Option("--enforce-eager", help="No CUDA graphs.")] = False,
    ask_vllm: Annotated[
        bool | None,
        typer.Option(
            "--ask-vllm/--no-ask-vllm",
            help="Ask the installed vLLM what it makes of the model. [default: where our arithmetic is not exact]",
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Compare a run's engines with what vLLM reported at its start.")
    ] = None,
    catalog: OwnCatalog = None,
    as_json: Json = False,
) -> None:
    """Say whether a model fits on a GPU, and how much context for how many requests is left.

    Exit code 1 when it does not fit (with --run: when an exact figure is off).
    """
    from planning.catalogs import load
    from planning.errors import BadInput
    from planning.memory.models import read
    from planning.memory.sharding import Setting
    from planning.memory.vram import estimate, smallest_sets

    facts = load(catalog)
    if run is not None:
        _vram_of_run(run, facts, gpu, as_json)
        return
    if model is None:
        raise BadInput("Name a MODEL (nbridge models lists the known ones), or give a run with --run.")
    shape = read(model, quantization, dtype, hub=True)
    setting = Setting(
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        gpu_memory_utilization=gpu_memory_utilization,
        kv_cache_dtype=kv_cache_dtype,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        graphs=not enforce_eager,
    )
    chosen = facts.gpu(gpu) if gpu else None
    made = estimate(shape, chosen, setting, context_tokens=context, concurrency=concurrency) if chosen else None
    if made is not None:
        engine = _engine(made, model, dtype, ask_vllm)
        made = estimate(shape, made.gpu, setting, context_tokens=context, concurrency=concurrency, engine=engine)
    sets = smallest_sets(shape, facts, setting, context_tokens=context, concurrency=concurrency)
    if as_json:
        print_json({"estimate": made.as_dict() if made else None, "smallest_sets": [_set_as_dict(one) for one in sets]})
    else:
        from rich.text import Text

        from planning import printout

        if made is not None:
            print_parts(printout.vram(made, sets))
        else:
            asked = context or min(8192, shape.context_tokens or 8192)
            print_parts(Text(f"{printout.model_line(shape)}\n"), printout.smallest(sets, asked, concurrency))
    if not (made.fits if made else sets):
        raise typer.Exit(1)


def select(
    max_ttft: Annotated[float | None, typer.Option(help="Longest time to first token, seconds.")] = None,
    max_tpot: Annotated[float | None, typer.Option(help="Longest time per output token, seconds.")] = None,
    max_latency: Annotated[float | None, typer.Option(help="Longest time of a whole answer, seconds.")] = None,
    min_throughput: Annotated[float | None, typer.Option(help="Least output tokens per second.")] = None,
    min_quality: Annotated[
        str | None, typer.Option(help="A share of right answers (MMLU, 0 to 1), or high, very-high, excellent.")
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(help="A language it must claim (en, zh, …); repeatable.")
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
    from planning.catalogs import GIB, load
    from planning.choice import candidates, selection
    from planning.errors import BadInput
    from planning.speed.capacity import of_month

    facts = load(catalog)
    if measured_only and not run:
        raise BadInput("--measured-only needs a run: give one with --run.")
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
        document = _document(folder)
        found += candidates.from_run(document, facts, _gpu_of(document, facts, None))
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


def _vram_of_run(run: Path, facts: Any, gpu_name: str | None, as_json: bool) -> None:
    from planning import printout
    from planning.errors import MissingMeasurement, PlanningError
    from planning.memory.against_startup import against_startup, estimate_of
    from planning.memory.models import read

    document = _document(run)
    gpu = _gpu_of(document, facts, gpu_name)
    started = {cell["engine"]["name"]: cell for cell in reversed(document["cells"]) if cell.get("startup")}
    if not started:
        raise MissingMeasurement(
            f"{run}: no engine of this run reported anything at its start (a server that already ran tells nothing "
            "about its memory). Measure with a plan whose servers are started by `nbridge bench`."
        )
    found, refused = {}, {}
    for name, cell in reversed(started.items()):
        engine = cell["engine"]
        try:
            shape = read(engine["model"], engine.get("quantization") or "none", _dtype(engine))
            made = estimate_of(shape, engine, gpu) if gpu else None
            found[name] = against_startup(shape, engine, cell["startup"], made)
        except PlanningError as error:
            refused[name] = str(error)
    if as_json:
        checks = {
            name: [
                {**dataclasses.asdict(one), "estimated": one.estimated.model_dump(), "inside": one.inside}
                for one in some
            ]
            for name, some in found.items()
        }
        print_json({"run_id": document.get("run_id"), "gpu": gpu and gpu.name, "engines": checks, "refused": refused})
    else:
        for name, some in found.items():
            print_parts(printout.startup(name, some), "")
        for name, why in refused.items():
            typer.echo(f"{name}: {why}", err=True)
        if gpu is None:
            typer.echo("The run was made without a known GPU: vLLM reports only its cache there.", err=True)
    if any(one.exact and not one.inside for some in found.values() for one in some):
        raise typer.Exit(1)


def _document(run: Path) -> dict[str, Any]:
    from bench.run.store import open_run

    return open_run(run).document


def _gpu_of(document: dict[str, Any], facts: Any, named: str | None) -> Any:
    """The GPU that is named here, else the one that the run was measured on."""
    from planning.catalogs import measured_on

    return facts.gpu(named) if named else measured_on(document, facts)


def _dtype(engine: dict[str, Any]) -> str:
    word = {"half": "float16", "float": "float32"}.get(engine.get("dtype") or "auto", engine.get("dtype") or "auto")
    return str(word)


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


def _set_as_dict(one: Any) -> dict[str, Any]:
    return {
        "gpu": one.gpu.name,
        "gpus": one.gpus,
        "tensor_parallel": one.estimate.setting.tensor_parallel,
        "pipeline_parallel": one.estimate.setting.pipeline_parallel,
        "verdict": one.estimate.verdict,
        "usd_per_hour": one.usd_per_hour and one.usd_per_hour.model_dump(),
        "buy_usd": one.buy_usd and one.buy_usd.model_dump(),
    }


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def _engine(made: Any, model: str, dtype: str, asked: bool | None) -> Any:
    """What the installed vLLM says of the model; None when it was not asked, or cannot say and need not."""
    from planning.memory import asking

    directory = Path(model).expanduser()
    needless = asked is None and (made.exact_weights and made.exact_cache)
    if asked is False or needless or not (directory / "config.json").is_file():
        if asked:
            raise asking.NotAnswered(f"vLLM is asked of a directory with a config.json; {model} is none.")
        return None
    if asked is None and asking.installed() is None:
        return None
    setting = made.setting
    try:
        return asking.ask(
            directory,
            tensor_parallel=setting.tensor_parallel,
            dtype=dtype,
            quantization="none" if made.shape.scheme != "fp8" else "fp8",
            kv_cache_dtype=setting.kv_cache_dtype,
            waiting=lambda text: typer.echo(text, err=True),
        )
    except asking.NotAnswered as error:
        if asked:
            raise
        typer.echo(f"note: {error} Our own arithmetic stands.", err=True)
        return None


def _warn_of_age(facts: Any, used: set[str] | None = None) -> None:
    from planning.catalogs import stale_note

    if note := stale_note(facts, _today(), used):
        typer.echo(f"note: {note}", err=True)
