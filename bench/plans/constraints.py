"""Which cells of a plan cannot be, or shall not: said before a server is started. Pure.

vLLM's own rules that settings, model and machine decide: what it would refuse after half a minute of starting. And the
plan's `[[skip]]`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.plans.loads import Load
from bench.plans.tables import Engine, Skip

# Of vLLM 0.32's attention on a CPU; a cache at the model's own 16 bit is "auto" there.
CPU_KV_DTYPES = ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2")

Config = Mapping[str, Any]


def of_settings(engine: Engine) -> str | None:
    """Why vLLM refuses these settings, whatever the model and the machine; None if nothing in them says so."""
    tokens = engine.max_num_batched_tokens
    if tokens is not None and engine.max_num_seqs is not None and tokens < engine.max_num_seqs:
        return (
            f"max_num_batched_tokens = {tokens} is below max_num_seqs = {engine.max_num_seqs}: a step has a token of "
            "every running request. Raise the one or lower the other."
        )
    if (
        tokens is not None
        and engine.chunked_prefill is False
        and engine.max_model_len is not None
        and tokens < engine.max_model_len
    ):
        return (
            f"max_num_batched_tokens = {tokens} is below max_model_len = {engine.max_model_len}, and without "
            "chunked_prefill a prompt has to fit into one step. Leave chunked_prefill on, raise the one or lower the "
            "other."
        )
    return None


def of_model(engine: Engine, config: Config) -> str | None:
    """Why vLLM cannot divide a model, by its config.json, over so many devices; None if it may, or is not known."""
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    heads, layers = (text or {}).get("num_attention_heads"), (text or {}).get("num_hidden_layers")
    shards, stages = engine.tensor_parallel_size, engine.pipeline_parallel_size
    if isinstance(heads, int) and heads % shards:
        return (
            f"tensor_parallel_size = {shards} does not divide the model's {heads} attention heads. Take one that does."
        )
    if isinstance(layers, int) and layers < stages:
        return f"pipeline_parallel_size = {stages} is more than the model's {layers} layers."
    return None


def of_machine(engine: Engine, device: str, gpus: int, flags: Sequence[str]) -> str | None:
    """Why this machine cannot carry these settings; None if it may. `flags`: its processor's instruction sets."""
    devices = engine.tensor_parallel_size * engine.pipeline_parallel_size
    if device == "gpu" and 0 < gpus < devices:  # 0: a driver that does not tell
        return (
            f"tensor_parallel_size × pipeline_parallel_size = {devices} GPUs, and this machine has {gpus}. Lower them, "
            "or measure where there are so many."
        )
    dtype = engine.kv_cache_dtype
    if device != "cpu" or dtype is None:
        return None
    if dtype not in CPU_KV_DTYPES:
        return f"kv_cache_dtype = {dtype!r} needs a GPU; on a CPU vLLM knows {', '.join(CPU_KV_DTYPES)}."
    if dtype.startswith("fp8") and "avx2" in flags and "avx512f" not in flags:
        return f"kv_cache_dtype = {dtype!r} needs a CPU with AVX-512, which this one has not. Take auto."
    return None


def of_load(engine: Engine, load: Load) -> str | None:
    """Why no request of this load fits the engine's context; None if one may, or it is not known."""
    if engine.max_model_len is None or load.prompt_tokens is None or load.output_tokens is None:
        return None
    least = [
        int(one.mean) if one.kind == "fixed" and one.mean is not None else one.low
        for one in (load.prompt_tokens, load.output_tokens)
    ]
    if load.scenario != "completion" or sum(least) <= engine.max_model_len:
        return None
    return (
        f"{least[0]} prompt tokens and {least[1]} output tokens are more than max_model_len = {engine.max_model_len}. "
        "Shorten the load or raise it."
    )


def skipped(rules: Sequence[Skip], engine: Engine, load: Load | None = None) -> str | None:
    """The reason of the first rule that an engine, or one of its loads, falls under; None for none.

    Without a `load` only rules that speak of engines alone are asked.
    """
    for rule in rules:
        if load is None and rule.load:
            continue
        if _matches(engine, rule.engine) and (load is None or _matches(load, rule.load)):
            return rule.reason
    return None


def _matches(table: Engine | Load, wanted: Mapping[str, Any]) -> bool:
    """Whether each of the wanted keys has its value, or one of them where there is a list."""
    return all(
        getattr(table, key) in (value if isinstance(value, list | tuple) else (value,)) for key, value in wanted.items()
    )
