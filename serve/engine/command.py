"""Settings → the command line and environment of one vLLM server. Pure, apart from `detect_device`."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from serve.engine.options import passes_option
from serve.engine.settings import EngineSettings
from serve.hidden_states.protocol import KEY

Device = Literal["cpu", "gpu"]

# `vllm serve` asks for the metadata of a distribution called "vllm", which the CPU build does not have;
# the module behind it is in every release.
SERVER_MODULE = "vllm.entrypoints.openai.api_server"
DEFAULT_CPU_KV_CACHE_GIB = 1
WORKER_CLS = "serve.hidden_states.worker.Worker"
PLUGIN = "nbridge"
KEY_GUARD = "serve.plugin.key.KeyGuard"


@dataclass(frozen=True)
class Command:
    """What to execute: `environment` is added to the inherited one and holds no secret.

    `secrets` maps a variable of the server to the variable of ours that holds its value; the value itself is
    looked up only when the process is started.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)


def build(settings: EngineSettings, *, device: Device, python: str = sys.executable) -> Command:
    """The command that serves `settings` on `device`; the same settings give the same command."""
    arguments: list[str] = []
    for option, value in _options(settings, device).items():
        if value is True:
            arguments.append(option)
        elif value is False:
            arguments.append("--no-" + option.removeprefix("--"))
        elif value is not None:
            arguments += [option, str(value)]
    if settings.lora_modules:
        modules = sorted(settings.lora_modules.items())
        arguments += ["--lora-modules", *(json.dumps({"name": name, "path": path}) for name, path in modules)]
    if settings.api_key_env and not settings.is_hooked:
        # The plugin brings the guard itself; without it vLLM's own check would leave /invocations and more open.
        arguments += ["--middleware", KEY_GUARD]
    # vLLM reports its use to its makers unless it is told not to.
    environment = {"VLLM_NO_USAGE_STATS": "1"}
    if device == "cpu":
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(settings.cpu_kv_cache_gib or DEFAULT_CPU_KV_CACHE_GIB)
        # A forked worker inherits the OpenMP state of its parent and can hang.
        environment["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    environment |= settings.environment
    if settings.is_hooked:
        # Endpoint plugins are loaded only by name; the names that somebody else set stay.
        environment["VLLM_PLUGINS"] = with_plugin(environment.get("VLLM_PLUGINS"))
        if settings.log_format != "json":
            environment["NBRIDGE_LOG_FORMAT"] = settings.log_format
        if settings.log_prompts:
            environment["NBRIDGE_LOG_PROMPTS"] = "1"
    return Command(
        argv=(python, "-m", SERVER_MODULE, *arguments, *settings.extra_args),
        environment=environment,
        secrets={"VLLM_API_KEY": settings.api_key_env} if settings.api_key_env else {},
    )


def with_plugin(names: str | None) -> str:
    """vLLM's comma-separated list of plugins with ours in it."""
    found = [name for name in (names or "").split(",") if name]
    return ",".join(found if PLUGIN in found else [*found, PLUGIN])


def served_name(settings: EngineSettings) -> str:
    """The model's name in the API: as set, else the directory's name, else the hub name."""
    if settings.served_model_name:
        return settings.served_model_name
    return Path(settings.model).name if Path(settings.model).is_absolute() else settings.model


def detect_device() -> Device:
    """ "gpu" when vLLM's GPU build is installed and the machine has an NVIDIA driver with a GPU, else "cpu"."""
    try:
        if "cpu" in metadata.version("vllm"):
            return "cpu"
    except metadata.PackageNotFoundError:
        return "cpu"
    gpus = Path("/proc/driver/nvidia/gpus")
    if gpus.is_dir() and any(gpus.iterdir()):
        return "gpu"
    return "gpu" if Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists() else "cpu"


def _options(settings: EngineSettings, device: Device) -> dict[str, str | int | float | bool | None]:
    """vLLM's option → its value; None leaves it out, True and False are `--x` and `--no-x`."""
    on_cpu = device == "cpu"
    options: dict[str, str | int | float | bool | None] = {
        "--model": settings.model,
        "--served-model-name": served_name(settings),
        "--host": settings.host,
        "--port": settings.port,
        "--tokenizer": settings.tokenizer,
        "--revision": settings.revision,
        "--download-dir": settings.download_dir,
        "--load-format": settings.load_format,
        "--trust-remote-code": settings.trust_remote_code or None,
        "--dtype": settings.dtype,
        "--quantization": settings.quantization,
        "--kv-cache-dtype": None if settings.kv_cache_dtype == "auto" else settings.kv_cache_dtype,
        "--max-model-len": settings.max_model_len,
        "--max-num-seqs": settings.max_num_seqs,
        "--max-num-batched-tokens": settings.max_num_batched_tokens,
        "--block-size": settings.block_size,
        # On the CPU the KV cache is sized by VLLM_CPU_KVCACHE_SPACE, and this flag would compete with it.
        "--gpu-memory-utilization": None if on_cpu else settings.gpu_memory_utilization,
        "--enable-prefix-caching": settings.enable_prefix_caching,
        "--enable-chunked-prefill": settings.enable_chunked_prefill,
        "--tensor-parallel-size": _unless_one(settings.tensor_parallel_size),
        "--pipeline-parallel-size": _unless_one(settings.pipeline_parallel_size),
        "--data-parallel-size": _unless_one(settings.data_parallel_size),
        # Compiling costs minutes on a CPU at every start and gains little there.
        "--enforce-eager": (on_cpu if settings.enforce_eager is None else settings.enforce_eager) or None,
        "--enable-lora": settings.serves_lora or None,
        "--max-lora-rank": settings.max_lora_rank,
        "--max-loras": settings.max_loras,
        "--seed": settings.seed,
        "--enable-log-requests": settings.log_requests or None,
        "--disable-uvicorn-access-log": None if settings.access_log else True,
        "--shutdown-timeout": settings.shutdown_timeout_s or None,
        "--worker-cls": WORKER_CLS if settings.is_hooked else None,
    }
    compiles = not options["--enforce-eager"]
    if settings.is_hooked and compiles and not passes_option(settings.extra_args, "--additional-config"):
        # A compiled model delivers the layers that it was compiled with; vLLM hashes this option with the graph.
        options["--additional-config"] = json.dumps({KEY: {"layers": list(settings.hidden_states_layers)}})
    if settings.speculative:
        options["--speculative-config"] = json.dumps(settings.speculative.model_dump(exclude_none=True))
    return options


def _unless_one(size: int) -> int | None:
    return None if size == 1 else size
