"""The server under measurement: one of our own that lives as long as it is measured, or one that already runs."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from bench.client.dialect import VLLM, Dialect
from bench.client.target import Target as Address
from bench.errors import PlanError
from bench.load.loadfile import open_target
from bench.plans import constraints
from bench.plans.tables import Engine, RunningServer
from bench.plans.workload import Vocabulary
from bench.run import store
from checkpoints.errors import CheckpointError
from checkpoints.finetuning import adapters
from checkpoints.prepare import Checkpoint, prepare
from checkpoints.tensors import schemes
from inputs import files
from inputs.quantities import GIB
from monitoring.machine import cpu, gpus
from serve.engine import command, server
from serve.engine.settings import EngineSettings, parse
from serve.errors import ServeError, SettingsError

# A start failure's kind → the cell's outcome; every other kind is `failed`.
_OUTCOMES = {"oom": "oom", "unsupported": "unsupported", "timeout": "timeout"}


class Death(NamedTuple):
    """How a server ended: the outcome of what it was doing, and the paragraph for the reader."""

    outcome: str
    reason: str


@dataclass(frozen=True)
class Target:
    """A running server. `failure()` says how it has died, once it has; `pids()` are its processes.

    `settings` is what has to be said to reach it and `dialect` what it takes: a server of our own is vLLM.
    """

    base_url: str
    model: str
    api_key_env: str | None
    vocabulary: Vocabulary | None
    max_model_len: int | None
    pids: Callable[[], list[int]] = list
    failure: Callable[[], Death | None] = lambda: None
    dialect: Dialect = VLLM
    settings: RunningServer = field(default_factory=RunningServer)

    def address(self) -> Address:
        """Where and how to connect. Raises ValueError when an environment variable is not set."""
        return open_target(self.base_url, **self.access())

    def headers(self) -> dict[str, str]:
        """The headers that a request of another client needs."""
        to = self.address()
        key = {"Authorization": f"Bearer {to.api_key}"} if to.api_key else {}
        return key | dict(to.headers)

    def endpoint_of(self, body: dict[str, Any]) -> str:
        """Where a request goes: its own endpoint, or chat for every prompt where the plan's `endpoint` says so."""
        own = str(body["endpoint"])
        return "chat" if own == "completions" and self.settings.endpoint == "chat" else own

    def access(self) -> dict[str, Any]:
        """What a connection needs beside the URL, by the names of the load file; secrets by environment variable."""
        return {
            "api_key_env": self.api_key_env,
            "headers_env": self.settings.headers,
            "query": self.settings.query,
            "verify_tls": self.settings.verify,
            "ca_path": self.settings.ca,
        }


class CannotServe(Exception):
    """Why an engine cannot be measured at all: the outcome of its cells and the paragraph for the reader.

    `beforehand`: it was known without starting a server.
    """

    def __init__(self, outcome: str, reason: str, log_path: Path | None = None, *, beforehand: bool = False) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.log_path = log_path
        self.beforehand = beforehand


class Served(NamedTuple):
    """A server that can be measured, its start-up facts and its log (both None for one that is not ours)."""

    target: Target
    startup: dict[str, Any] | None
    log_path: Path | None


@contextlib.contextmanager
def own_server(
    engine: Engine, log_path: Path, *, start_timeout_s: float, say: Callable[[str], None]
) -> Iterator[Served]:
    """Make the engine's checkpoint and serve it until the context ends. Raises CannotServe."""
    device, flags = command.detect_device(), cpu()["flags"]
    beforehand = constraints.of_settings(engine) or constraints.of_machine(engine, device, len(gpus()), flags)
    if beforehand:
        raise CannotServe("skipped", f"Not started: {beforehand}", beforehand=True)
    try:
        checkpoint = prepare(engine.model, engine.quantization, progress=say)
        if impossible := constraints.of_model(engine, _config(checkpoint)):
            raise CannotServe("skipped", f"Not started: {impossible}", beforehand=True)
        settings = engine_settings(engine, checkpoint, say)
    except (CheckpointError, SettingsError) as error:
        raise CannotServe("failed", str(error)) from error
    if missing := lacks_kernel(checkpoint, device, flags):
        raise CannotServe("unsupported", missing, beforehand=True)
    if too_big := exceeds_memory(engine, checkpoint, device):
        raise CannotServe("oom", too_big, beforehand=True)
    store.require_room(log_path)
    with store.explained(log_path):
        log_path.parent.mkdir(parents=True, exist_ok=True)
    say(f"{engine.name}: starting vLLM on the {device.upper()} …")

    def is_full() -> bool:  # an engine that cannot write its log may wait for ever
        return store.free_bytes(log_path) < store.FULL_BYTES

    try:
        running = server.start(settings, log_path=log_path, timeout_s=start_timeout_s, should_stop=is_full)
    except ServeError as error:
        store.require_room(log_path, store.FULL_BYTES)
        raise CannotServe(_OUTCOMES.get(error.kind, "failed"), error_paragraph(error), log_path) from error
    with running:
        facts = running.startup.as_dict()
        startup = {
            **facts,
            "weights_bytes": checkpoint.weights_bytes or facts.get("weights_bytes"),
            "engine_weights_bytes": facts.get("weights_bytes"),  # what the engine itself measured, on a GPU
            "parameters": checkpoint.parameters,
            "weightless": checkpoint.load_format == "dummy",
        }
        say(f"{engine.name}: ready after {running.startup.ready_s:.0f} s")

        def failure() -> Death | None:
            died = running.failure()
            return Death(_OUTCOMES.get(died.kind, "failed"), error_paragraph(died)) if died else None

        target = Target(
            base_url=running.base_url,
            model=next(iter(settings.lora_modules), running.model_name),
            api_key_env=None,
            vocabulary=vocabulary_of(checkpoint),
            max_model_len=engine.max_model_len or checkpoint.max_model_len,
            pids=running.pids,
            failure=failure,
        )
        yield Served(target, startup, log_path)


def error_paragraph(error: ServeError) -> str:
    """A serve error without the path of its log: a run folder may be sent to others."""
    words = f' The engine said: "{error.engine_words}".' if error.engine_words else ""
    return f"{error.summary}{words} {error.next_step}".strip()


def engine_settings(engine: Engine, checkpoint: Checkpoint, say: Callable[[str], None]) -> EngineSettings:
    """The server settings of a plan's engine on a free loopback port. Raises SettingsError and CheckpointError."""
    served = f"{checkpoint.name.rstrip('/').rpartition('/')[2]}-{store.slug(engine.name)}"
    values = {
        "model": checkpoint.path,
        "served_model_name": served,
        "port": 0,
        "load_format": checkpoint.load_format,
        "quantization": checkpoint.vllm_quantization,
        "dtype": engine.dtype,
        "kv_cache_dtype": engine.kv_cache_dtype,
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "max_num_batched_tokens": engine.max_num_batched_tokens,
        "block_size": engine.block_size,
        "enable_prefix_caching": engine.prefix_caching,
        "enable_chunked_prefill": engine.chunked_prefill,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "pipeline_parallel_size": engine.pipeline_parallel_size,
        "speculative": _speculative(engine, checkpoint, say),
        **({} if engine.lora is None else _adapter(Path(engine.lora), checkpoint, f"{served}-adapter")),
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "cpu_kv_cache_gib": engine.cpu_kv_cache_gib,
        "enforce_eager": engine.enforce_eager,
        "extra_args": list(engine.extra_args),
    }
    return parse({k: v for k, v in values.items() if v is not None}, f"engine {engine.name}")


def _speculative(engine: Engine, checkpoint: Checkpoint, say: Callable[[str], None]) -> dict[str, Any] | None:
    """What proposes tokens, with a draft model's name as its directory. Raises SettingsError and CheckpointError."""
    said = engine.speculative
    if said is None or said.get("model") is None:
        return said
    draft = prepare(str(said["model"]), progress=say)
    if draft.load_format != checkpoint.load_format:
        weightless, other = (draft, checkpoint) if draft.load_format == "dummy" else (checkpoint, draft)
        raise SettingsError(
            f"engine {engine.name}: {weightless.name} has random weights and {other.name} has not, and vLLM loads a "
            "model and its draft in one way: take both with weights, or both without."
        )
    return {**said, "model": draft.path}


def _adapter(path: Path, checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """How an adapter is served, under a name of its own. Raises CheckpointError when it is none of this model's."""
    adapter = adapters.read(path)
    adapters.check_base(adapter, Path(checkpoint.path))
    rank = next(rank for rank in adapters.RANKS if rank >= adapter.rank)
    return {"lora_modules": {name: str(path.resolve())}, "max_lora_rank": rank}


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The model's config.json; empty where it is not on this machine yet."""
    try:
        found = files.read_json(Path(checkpoint.path) / "config.json")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def lacks_kernel(checkpoint: Checkpoint, device: str, flags: Sequence[str]) -> str | None:
    """Why this processor cannot compute with the checkpoint's weights; None if it may.

    Of vLLM's two libraries for x86 only that for AVX-512 holds `cpu_gemm_wna16` (seen in 0.32), which packed
    weights of four bits need; the server would start, and fail at its first request.
    """
    scheme = schemes.wanted(checkpoint.scheme)
    packed = scheme.scheme in (schemes.W4A16, schemes.AWQ, schemes.GPTQ) and not scheme.rounded
    if device != "cpu" or not packed or "avx2" not in flags or "avx512f" in flags:
        return None
    return (
        f"Not started: {checkpoint.name} ({checkpoint.scheme}) has weights of four bits, with which vLLM computes on a "
        "CPU only where it has AVX-512; this one has not. Take int8 or no quantization here, or a machine with AVX-512 "
        "or a GPU."
    )


def exceeds_memory(engine: Engine, checkpoint: Checkpoint, device: str) -> str | None:
    """Why the model cannot fit into this machine's memory, from its weights alone; None if it may, or is not known."""
    weights = checkpoint.weights_bytes
    if weights is None:
        return None
    share = engine.tensor_parallel_size * engine.pipeline_parallel_size
    if device == "gpu":
        memory = min((gpu["memory_bytes"] for gpu in gpus() if "memory_bytes" in gpu), default=None)
        if memory is None:
            return None
        room, what = memory * (engine.gpu_memory_utilization or 0.9), "of a GPU's memory that vLLM may use"
        need = weights / share
    else:
        room, what = psutil.virtual_memory().available, "of free memory on this machine"
        need = weights + (engine.cpu_kv_cache_gib or command.DEFAULT_CPU_KV_CACHE_GIB) * GIB
    if need <= room:
        return None
    return (
        f"Not started: {checkpoint.name} ({checkpoint.scheme}) needs {need / GIB:.1f} GiB"
        f"{'' if device == 'gpu' else ' for weights and KV cache'}, more than the {room / GIB:.1f} GiB {what}. "
        "Use a quantization with fewer bits, a smaller model, or more memory (tensor_parallel_size adds up GPUs)."
    )


def vocabulary_of(checkpoint: Checkpoint) -> Vocabulary | None:
    """The model's tokenizer, for a hub model from the cache that vLLM has just filled; None without one."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        if Path(checkpoint.path).is_dir():
            return Vocabulary.load(Path(checkpoint.path))
        return Vocabulary.load(Path(hf_hub_download(checkpoint.path, "tokenizer.json")).parent)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, PlanError):
        return None
