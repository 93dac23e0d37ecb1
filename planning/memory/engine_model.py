"""Asks the installed vLLM what it makes of a configuration: run as a program, in a process of its own.

    python -m planning.memory.engine_model DIRECTORY TENSOR_PARALLEL DTYPE QUANTIZATION KV_CACHE_DTYPE

vLLM's own class of the model is built on torch's meta device: no weight is read, no memory taken, no device touched,
nothing looked up, and no code of the directory run. Prints one JSON line: every parameter that one of the
tensor-parallel GPUs would hold, and every layer's cache specification. The other GPUs of
the group are only counted. What vLLM refuses on this machine ends with its reason on the last line of stderr.
"""

import json
import os
import sys
import tempfile
from typing import Any

MARK = "nbridge-engine-model "


def main(directory: str, tensor_parallel: int, dtype: str, quantization: str, kv_cache_dtype: str) -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    import torch
    from vllm import __version__
    from vllm.config import get_layers_from_vllm_config, set_current_vllm_config
    from vllm.distributed import get_tp_group, init_distributed_environment, initialize_model_parallel
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
    from vllm.model_executor.model_loader.utils import initialize_model

    config = EngineArgs(
        model=directory,
        skip_tokenizer_init=True,
        load_format="dummy",
        enforce_eager=True,
        trust_remote_code=False,
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        quantization=None if quantization == "none" else quantization,
    ).create_engine_config()
    with tempfile.TemporaryDirectory() as folder, set_current_vllm_config(config):
        init_distributed_environment(1, 0, f"file://{folder}/store", 0, "gloo")
        initialize_model_parallel(1, 1)
        # Layers ask the group how many they are; none of them talks to the others while it is made.
        get_tp_group().world_size = config.parallel_config.tensor_parallel_size = tensor_parallel
        torch.set_default_dtype(config.model_config.dtype)
        with torch.device("meta"):
            model = initialize_model(vllm_config=config, model_config=config.model_config)
        caches = [
            _cache(name, layer.get_kv_cache_spec(config))
            for name, layer in get_layers_from_vllm_config(config, AttentionLayerBase).items()
        ]
    parameters = [
        [name, str(one.dtype).removeprefix("torch."), list(one.shape)] for name, one in model.named_parameters()
    ]
    document = {
        "vllm": __version__,
        "device": config.device_config.device_type,
        "architecture": type(model).__name__,
        "parameters": parameters,
        "caches": caches,
    }
    sys.stdout.write(MARK + json.dumps(document) + "\n")
    sys.stdout.flush()


def _cache(name: str, spec: Any) -> dict[str, Any]:
    if spec is None:
        return {"layer": name, "kind": "none"}
    kind = type(spec).__name__
    return {
        "layer": name,
        "kind": kind,
        "page_bytes": spec.page_size_bytes,
        # A state's page is one sequence's, whatever its tokens.
        "page_tokens": None if kind == "MambaSpec" else spec.block_size,
        "window": getattr(spec, "sliding_window", None) or getattr(spec, "attention_chunk_size", None),
    }


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5])
