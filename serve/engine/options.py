"""Which of vLLM's options the settings own, so that nothing passed on to vLLM can override them."""

import re
from collections.abc import Iterable

# vLLM's options that a field of EngineSettings writes; `extra_args` may not repeat them. The short forms are
# vLLM's. Options that would move the server away from where it is checked for are refused too, with a reason.
OWNED_OPTIONS: dict[str, str] = {
    "--model": "model",
    "--served-model-name": "served_model_name",
    "--host": "host",
    "--port": "port",
    "--api-key": "api_key_env (the name of an environment variable that holds the key)",
    "--tokenizer": "tokenizer",
    "--revision": "revision",
    "--trust-remote-code": "trust_remote_code",
    "--load-format": "load_format",
    "--download-dir": "download_dir",
    "--dtype": "dtype",
    "--quantization": "quantization",
    "-q": "quantization",
    "--kv-cache-dtype": "kv_cache_dtype",
    "--max-model-len": "max_model_len",
    "--max-num-seqs": "max_num_seqs",
    "--max-num-batched-tokens": "max_num_batched_tokens",
    "--block-size": "block_size",
    "--gpu-memory-utilization": "gpu_memory_utilization",
    "--device-memory-utilization": "gpu_memory_utilization",
    "--enable-prefix-caching": "enable_prefix_caching",
    "--enable-chunked-prefill": "enable_chunked_prefill",
    "--tensor-parallel-size": "tensor_parallel_size",
    "-tp": "tensor_parallel_size",
    "--pipeline-parallel-size": "pipeline_parallel_size",
    "-pp": "pipeline_parallel_size",
    "--data-parallel-size": "data_parallel_size",
    "-dp": "data_parallel_size",
    "--speculative-config": "speculative",
    "-sc": "speculative",
    "--enforce-eager": "enforce_eager",
    "--enable-lora": "enable_lora",
    "--lora-modules": "lora_modules",
    "--max-lora-rank": "max_lora_rank",
    "--max-loras": "max_loras",
    "--seed": "seed",
    "--shutdown-timeout": "shutdown_timeout_s",
    "--enable-log-requests": "log_requests",
    "--disable-uvicorn-access-log": "access_log",
}
REFUSED_OPTIONS: dict[str, str] = {
    "--config": "a second configuration file could override every setting unseen; put the options here instead",
    "--uds": "the server must listen on host and port, where its readiness is proved",
    "--grpc": "the server must speak HTTP, where its readiness is proved",
    "--headless": "a headless engine has no HTTP server to measure",
    "--ssl-keyfile": "end TLS in a proxy in front of the server",
    "--ssl-certfile": "end TLS in a proxy in front of the server",
}


def extra_arg_problem(argument: str, first: bool = False) -> str | None:
    """Why `argument` may not go to vLLM past the settings, or None when it may.

    vLLM's parser takes underscores for dashes, `--option.key`, `--no-option` and unambiguous abbreviations;
    all of these spellings are recognised.
    """
    if not argument.startswith("-") or re.fullmatch(r"-\d+(\.\d+)?", argument):
        if first:
            return (
                f"{argument!r} is a bare word that vLLM would take for its model; name the model with the setting model"
            )
        return None
    option = _option_of(argument)
    if option in {"-", "--"}:
        return f"{argument!r} is not an option"
    positive = "--" + option.removeprefix("--no-") if option.startswith("--no-") else option
    for owned, setting in OWNED_OPTIONS.items():
        if positive == owned or (positive.startswith("--") and owned.startswith(positive)):
            return f"{argument!r} belongs to the setting {setting}"
    for refused, reason in REFUSED_OPTIONS.items():
        if positive == refused or (positive.startswith("--") and refused.startswith(positive)):
            return f"{argument!r} is refused: {reason}"
    return None


def passes_option(arguments: Iterable[str], option: str) -> bool:
    """Whether `arguments` hold vLLM's `option` (such as "--worker-cls") in any spelling that its parser takes."""
    spelled = {_option_of(argument) for argument in arguments if argument.startswith("--")}
    return any(len(one) > len("--") and option.startswith(one) and len(one) > len(option) // 2 for one in spelled)


def _option_of(argument: str) -> str:
    """The option's name in an argument, with dashes: "--worker_cls=x" is "--worker-cls"."""
    option = argument.partition("=")[0].partition(".")[0]
    return "--" + option[2:].replace("_", "-") if option.startswith("--") else option
