"""The command `nbridge vram`."""

import dataclasses
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
    from planning.memory.smallest import smallest_sets
    from planning.memory.vram import estimate

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


def _vram_of_run(run: Path, facts: Any, gpu_name: str | None, as_json: bool) -> None:
    from bench.run.store import open_run
    from planning import printout
    from planning.catalogs import measured_on
    from planning.errors import MissingMeasurement, PlanningError
    from planning.memory.against_startup import against_startup, estimate_of
    from planning.memory.models import read

    document = open_run(run).document
    gpu = facts.gpu(gpu_name) if gpu_name else measured_on(document, facts)
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


def _dtype(engine: dict[str, Any]) -> str:
    word = {"half": "float16", "float": "float32"}.get(engine.get("dtype") or "auto", engine.get("dtype") or "auto")
    return str(word)


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
