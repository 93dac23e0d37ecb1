"""Which of vLLM's options the settings own, so that nothing passed on to vLLM can override them."""

import re
from collections.abc import Iterable, Sequence

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


# Options that take a secret, by the last word of their name, and what a secret looks like wherever it stands.
_SECRET_OPTION = re.compile(r"(?:^|[-_.])(?:token|key|secret|passw(?:or)?d|credentials?)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[\w-]{16,}|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}|\bAKIA[0-9A-Z]{16}\b|"
    r"\bxox[abprs]-[\w-]{10,}|\bBearer\s+\S{8,}|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s@]+@|"
    r"[\"'][\w-]*(?:token|api_?key|access_key|secret|password)[\w-]*[\"']\s*:\s*[\"'][^\"']+[\"']",
    re.IGNORECASE,
)
_PLACES = {
    "--hf-token": "the environment variable HF_TOKEN",
    "--api-key": "an environment variable, and the variable's name into the setting api_key_env",
}
_ANY_PLACE = "an environment variable that vLLM reads"


def extra_args_problem(arguments: Sequence[str]) -> str | None:
    """Why `arguments` may not go to vLLM past the settings, or None when they may; no value is repeated in it.

    vLLM's parser takes underscores for dashes, `--option.key`, `--no-option` and unambiguous abbreviations;
    all of these spellings are recognised.
    """
    for position, argument in enumerate(arguments):
        following = arguments[position + 1] if position + 1 < len(arguments) else None
        problem = _secret_problem(argument, following) or _owned_problem(argument, first=position == 0)
        if problem:
            return problem
    return None


def _secret_problem(argument: str, following: str | None) -> str | None:
    name, equals, _ = argument.partition("=")
    if is_option(argument) and _SECRET_OPTION.search(name):
        # `--hf-token` alone means the one that `hf auth login` has kept.
        is_given = bool(equals) or (following is not None and not is_option(following))
        return _no_secret(f"What {name} takes", _PLACES.get(option_of(argument), _ANY_PLACE)) if is_given else None
    if _SECRET_VALUE.search(argument):
        what = f"The value of {name}" if equals and is_option(argument) else "One of the values"
        return _no_secret(what, _PLACES["--hf-token"] if "hf_" in argument else _ANY_PLACE)
    return None


def _no_secret(what: str, place: str) -> str:
    return (
        f"{what} is a secret, and a command line is seen by everybody on this machine and kept in logs: put it into "
        f"{place}; the server inherits the environment"
    )


def holds_secret(text: str) -> bool:
    """Whether a text looks like a token, a key, or an address with a password."""
    return _SECRET_VALUE.search(text) is not None


def is_option(argument: str) -> bool:
    """Whether vLLM's parser takes a word for an option: it begins with a dash and is no negative number."""
    return argument.startswith("-") and not re.fullmatch(r"-\d+(\.\d+)?", argument)


def _owned_problem(argument: str, *, first: bool) -> str | None:
    if not is_option(argument):
        bare = f"{argument!r} is a bare word that vLLM would take for its model; name it with the setting model"
        return bare if first else None
    option, name = option_of(argument), argument.partition("=")[0]
    if option in {"-", "--"}:
        return f"{name!r} is not an option"
    positive = "--" + option.removeprefix("--no-") if option.startswith("--no-") else option
    for owned, setting in OWNED_OPTIONS.items():
        if positive == owned or (positive.startswith("--") and owned.startswith(positive)):
            short = "" if positive == owned else f" ({owned}, if that is meant: write it out)"
            return f"{name!r} belongs to the setting {setting}{short}"
    for refused, reason in REFUSED_OPTIONS.items():
        if positive == refused or (positive.startswith("--") and refused.startswith(positive)):
            return f"{name!r} is refused: {reason}"
    return None


def passes_option(arguments: Iterable[str], option: str) -> bool:
    """Whether `arguments` hold vLLM's `option` (such as "--worker-cls") in any spelling that its parser takes."""
    spelled = {option_of(argument) for argument in arguments if argument.startswith("--")}
    return any(len(one) > len("--") and option.startswith(one) and len(one) > len(option) // 2 for one in spelled)


def option_of(argument: str) -> str:
    """The option's name in an argument, with dashes: "--worker_cls=x" is "--worker-cls"."""
    option = argument.partition("=")[0].partition(".")[0]
    return "--" + option[2:].replace("_", "-") if option.startswith("--") else option
