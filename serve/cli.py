"""`nbridge serve`: one vLLM server in the foreground."""

import dataclasses
import json
import shlex
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from serve.engine import server
from serve.engine.command import Command, build, detect_device
from serve.engine.passed_on import PassedOn, adapters_named, sort_out
from serve.engine.settings import EngineSettings, from_text, load_profile, parse
from serve.errors import SettingsError

_PHASES = {
    "Resolved architecture": "reading the configuration",
    "Initializing a V1 LLM engine": "starting the engine",
    "Starting to load model": "loading the weights",
    "Dynamo bytecode transform": "compiling",
    "KV cache size": "reserving the KV cache",
    "Capturing CUDA graphs": "capturing CUDA graphs",
    "Starting vLLM server": "opening the port",
}


def serve(
    extra: Annotated[
        list[str] | None, typer.Argument(help="After --: options as vLLM has them.", metavar="[-- VLLM OPTIONS]")
    ] = None,
    *,
    profile: Annotated[Path | None, typer.Option(help="TOML file with engine settings.")] = None,
    model: Annotated[str | None, typer.Option(help="Demo or catalogued name, directory, or hub name.")] = None,
    served_model_name: Annotated[str | None, typer.Option(help="The model's name in the API.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one. [default: 8000]")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="NAME of the variable that holds the API key.")] = None,
    quantization: Annotated[str | None, typer.Option(help="none, int8, int4, awq, gptq or one of vLLM's.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, bfloat16, float16 or float32.")] = None,
    kv_cache_dtype: Annotated[str | None, typer.Option(help="auto, fp8, … as vLLM knows them.")] = None,
    load_format: Annotated[str | None, typer.Option(help="auto, or dummy for random weights.")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Longest prompt + answer, in tokens.")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(help="Most requests computed at once.")] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(help="Most tokens computed in one step.")] = None,
    block_size: Annotated[int | None, typer.Option(help="Tokens in one KV-cache block.")] = None,
    gpu_memory_utilization: Annotated[float | None, typer.Option(help="Share of GPU memory, 0 to 1.")] = None,
    cpu_kv_cache_gib: Annotated[int | None, typer.Option(help="KV cache on the CPU, in GiB. [default: 1]")] = None,
    tensor_parallel_size: Annotated[int | None, typer.Option(help="GPUs that share every layer.")] = None,
    pipeline_parallel_size: Annotated[int | None, typer.Option(help="Stages of consecutive layers.")] = None,
    enable_prefix_caching: Annotated[
        bool | None, typer.Option("--enable-prefix-caching/--no-enable-prefix-caching", help="Reuse shared prefixes.")
    ] = None,
    enforce_eager: Annotated[
        bool | None, typer.Option("--enforce-eager/--no-enforce-eager", help="No compiling, no CUDA graphs.")
    ] = None,
    hidden_states: Annotated[
        bool | None,
        typer.Option("--hidden-states/--no-hidden-states", help="Answer /v1/hidden_states. [default: yes]"),
    ] = None,
    hidden_states_layers: Annotated[
        str | None, typer.Option(help="Layers for a compiled engine, e.g. -4,-3,-2. [default: -2]")
    ] = None,
    lora_modules: Annotated[
        list[str] | None, typer.Option(help="Also serve a LoRA adapter, as NAME=DIRECTORY; may be repeated.")
    ] = None,
    speculative_model: Annotated[str | None, typer.Option(help="Draft model, or ngram.")] = None,
    num_speculative_tokens: Annotated[int, typer.Option(help="Tokens the draft proposes at a time.")] = 5,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    start_timeout_s: Annotated[
        float, typer.Option(min=1, help="Give up when not ready after so many seconds.")
    ] = 1800.0,
    drain_s: Annotated[float, typer.Option(min=0, help="On Ctrl-C, let running requests end for this long.")] = 30.0,
    log_file: Annotated[Path | None, typer.Option(help="vLLM's log. [default: runs/serve-<time>.log]")] = None,
    log_limit_mib: Annotated[
        int | None, typer.Option(min=1, help="Begin the log anew when it is larger. [default: it grows]")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="Request log: json, text or none. [default: json]")] = None,
    log_prompts: Annotated[
        bool | None, typer.Option("--log-prompts", help="Also log the prompts' text, which may be private.")
    ] = None,
    show_log: Annotated[bool, typer.Option("--show-log", help="Also print vLLM's log on stderr.")] = False,
    print_command: Annotated[bool, typer.Option("--print-command", help="Print the command and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout when ready.")] = False,
) -> None:
    """Serve a model with vLLM in the foreground until Ctrl-C."""
    flags: dict[str, Any] = {
        "model": model,
        "served_model_name": served_model_name,
        "host": host,
        "port": port,
        "api_key_env": api_key_env,
        "quantization": quantization,
        "dtype": dtype,
        "kv_cache_dtype": kv_cache_dtype,
        "load_format": load_format,
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "block_size": block_size,
        "gpu_memory_utilization": gpu_memory_utilization,
        "cpu_kv_cache_gib": cpu_kv_cache_gib,
        "tensor_parallel_size": tensor_parallel_size,
        "pipeline_parallel_size": pipeline_parallel_size,
        "enable_prefix_caching": enable_prefix_caching,
        "enforce_eager": enforce_eager,
        "hidden_states": hidden_states,
        "hidden_states_layers": _layers(hidden_states_layers) if hidden_states_layers else None,
        "lora_modules": adapters_named(lora_modules) if lora_modules else None,
        "seed": seed,
        "log_format": log_format,
        "log_prompts": log_prompts,
    }
    if speculative_model:
        who = {"method": "ngram"} if speculative_model == "ngram" else {"model": speculative_model}
        flags["speculative"] = {**who, "num_speculative_tokens": num_speculative_tokens}
    passed_on = sort_out(extra or ())
    settings = load_profile(profile, flags=_together(flags, passed_on))
    if passed_on.rest:
        merged = {**settings.model_dump(mode="json"), "extra_args": [*settings.extra_args, *passed_on.rest]}
        settings = parse(merged, "the command line after --")
    settings = _resolve(settings)
    if settings.hidden_states and settings.hidden_states_obstacle:
        _say(f"Hidden states are off: {settings.hidden_states_obstacle}.")
    if print_command:
        _print_command(build(settings, device=detect_device()), as_json)
        return
    log_path = log_file or Path("runs") / f"serve-{datetime.now().astimezone():%Y%m%dT%H%M%S}.log"
    try:
        _run(
            settings,
            log_path,
            log_limit_bytes=None if log_limit_mib is None else log_limit_mib << 20,
            start_timeout_s=start_timeout_s,
            drain_s=drain_s,
            show_log=show_log,
            as_json=as_json,
        )
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _together(flags: dict[str, Any], passed_on: PassedOn) -> dict[str, Any]:
    """The flags and what stands after `--` for the same settings. Raises SettingsError when they contradict."""
    found = dict(flags)
    for name, said in passed_on.settings.items():
        value = from_text(name, said, "after --") if isinstance(said, str) else said
        if found.get(name) not in (None, value):
            raise SettingsError(f"{name} is {found[name]!r} before -- and {value!r} after it; say it once.")
        found[name] = value
    return found


def _layers(text: str) -> list[int | str]:
    """Layers as typed, "-4,-2,embeddings"; what is no number is left for the settings to judge."""
    words = [word.strip() for word in text.split(",")]
    return [int(word) if word.removeprefix("-").isdecimal() else word for word in words]


def with_adapters(settings: EngineSettings, model: Path) -> EngineSettings:
    """The settings with each adapter's directory checked, made absolute, and room for the largest rank of them."""
    from checkpoints.finetuning import adapters

    found = {name: adapters.read(Path(path).expanduser().absolute()) for name, path in settings.lora_modules.items()}
    if not found:
        return settings
    if settings.served_model_name in found:
        raise SettingsError(
            f"lora_modules: {settings.served_model_name!r} is the served model's own name; give the adapter another."
        )
    for adapter in found.values():
        adapters.check_base(adapter, model)
    rank = adapters.rank_to_reserve(list(found.values()))
    if settings.max_lora_rank is not None and settings.max_lora_rank < rank:
        raise SettingsError(f"max_lora_rank = {settings.max_lora_rank}: the adapters need {rank}; or leave it out.")
    return settings.model_copy(
        update={
            "lora_modules": {name: str(adapter.path) for name, adapter in found.items()},
            "max_lora_rank": settings.max_lora_rank or rank,
            "max_loras": settings.max_loras or len(found),
        }
    )


def _resolve(settings: EngineSettings) -> EngineSettings:
    """The settings with names of models replaced by what vLLM can load."""
    from checkpoints.prepare import prepare

    checkpoint = prepare(settings.model, settings.quantization or "none", progress=_say)
    settings = settings.resolved(
        path=checkpoint.path,
        name=checkpoint.name,
        load_format=checkpoint.load_format,
        quantization=checkpoint.vllm_quantization,
    )
    settings = with_adapters(settings, Path(checkpoint.path))
    if settings.speculative and settings.speculative.model:
        draft = prepare(settings.speculative.model, "none", progress=_say)
        speculative = settings.speculative.model_copy(update={"model": draft.path})
        settings = settings.model_copy(update={"speculative": speculative})
    return settings


def _run(
    settings: EngineSettings,
    log_path: Path,
    *,
    log_limit_bytes: int | None,
    start_timeout_s: float,
    drain_s: float,
    show_log: bool,
    as_json: bool,
) -> None:
    interrupt = _Interrupt()
    progress = _Progress(show_log)
    _say(f"Starting vLLM; its log: {log_path}")
    with interrupt, progress:
        running = server.start(
            settings,
            log_path=log_path,
            timeout_s=start_timeout_s,
            on_line=progress.on_line,
            on_wait=progress.on_wait,
            should_stop=interrupt.is_set,
            log_limit_bytes=log_limit_bytes,
        )
        progress.close()
        try:
            _announce(running, as_json)
            while not interrupt.is_set():
                if died := running.failure():
                    raise died
                time.sleep(0.2)
            _say(f"Stopping; running requests have {drain_s:.0f} s to end. Ctrl-C again ends them now.")
            running.stop(drain_s=drain_s)
        except KeyboardInterrupt:
            running.stop(grace_s=0.0)
            raise
        finally:
            running.stop()
    _say("Stopped.")


def _announce(running: server.Server, as_json: bool) -> None:
    document = {
        "base_url": running.base_url,
        "pid": running.pid,
        "model": running.model_name,
        "adapters": sorted(running.settings.lora_modules),
        "log": str(running.log_path),
        "startup": running.startup.as_dict(),
    }
    if as_json:
        print(json.dumps(document), flush=True)
    key = ' -H "Authorization: Bearer $' + (running.settings.api_key_env or "") + '"'
    adapters = ", ".join(sorted(running.settings.lora_modules))
    _say(
        f"\n{running.model_name} is ready after {running.startup.ready_s:.1f} s at {running.base_url}\n"
        f"{f'  adapters, each by its own model name: {adapters}' + chr(10) if adapters else ''}"
        f"  process {running.pid}; Ctrl-C stops it. Try:\n"
        f"  curl {running.base_url}/v1/completions -H 'Content-Type: application/json'"
        f"{key if running.settings.api_key_env else ''} \\\n"
        f'    -d \'{{"model": "{running.model_name}", "prompt": "Hello", "max_tokens": 16}}\'\n'
    )


def _print_command(command: Command, as_json: bool) -> None:
    if as_json:
        print(json.dumps(dataclasses.asdict(command)))
        return
    words = [f"{name}={shlex.quote(value)}" for name, value in command.environment.items()]
    words += [f'{name}="${source}"' for name, source in command.secrets.items()]
    print(" ".join([*words, shlex.join(command.argv)]))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Interrupt:
    """Set by the first Ctrl-C or SIGTERM; a second one raises KeyboardInterrupt where the program stands."""

    def __init__(self) -> None:
        # A plain flag: a threading.Event could be caught holding its own lock when the signal comes.
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._is_set:
            raise KeyboardInterrupt
        self._is_set = True


class _Progress:
    """What the start is doing, on stderr: one moving line on a terminal, one line a phase elsewhere."""

    def __init__(self, show_log: bool) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._show_log = show_log
        self._phase = "importing vLLM"
        self._status = self._console.status(self._phase) if self._console.is_terminal and not show_log else None

    def on_line(self, line: str) -> None:
        if self._show_log:
            _say(line)
        for words, phase in _PHASES.items():
            if words in line and phase != self._phase:
                self._phase = phase
                if self._status is None and not self._show_log:
                    _say(f"  {phase}")

    def on_wait(self, elapsed_s: float) -> None:
        if self._status:
            self._status.update(f"{self._phase} ({elapsed_s:.0f} s)")

    def close(self) -> None:
        if self._status:
            self._status.stop()

    def __enter__(self) -> None:
        if self._status:
            self._status.start()

    def __exit__(self, *_: object) -> None:
        self.close()
