"""What a server's log, its exit status and the kernel's counters say about why it ended. Pure: text in, `Failure` out.

The engine's own words are the root cause's line, not the last line: vLLM ends with "Engine core initialization
failed. See root cause above" whatever happened. The next steps follow the deployment guide's troubleshooting.
"""

import re
import signal
from dataclasses import dataclass
from pathlib import Path

from serve import errors
from serve.processes.memory_kills import NOT_LOOKED, MemoryVerdict

WORDS_LIMIT = 400

# "(EngineCore pid=7328) ERROR 11-22 08:39:56 [core.py:1510] " before a message.
_PREFIX = re.compile(r"^(?:\([^()]*pid=\d+\)\s*)?(?:(?:ERROR|CRITICAL|WARNING|INFO) [\d-]+ [\d:.]+ \[[^\]]*\]\s*)?")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?(?:[A-Z]\w*(?:Error|Exception)|Exception|KeyError)\b(?::|$)")
_EMPTY_WORDS = (
    "Engine core initialization failed",
    "EngineCore failed to start",
    "please check the stack trace above",
    "validation error for",
    "WorkerProc initialization failed",
)
# Lines that repeat what a client sent (paths in the access log, the journal of requests, logged prompts): whatever
# stands in them, they are no report of the engine.
_QUOTES_CLIENTS = re.compile(r"^(?:\([^()]*pid=\d+\)\s*)?(?:INFO\b|DEBUG\b)|^\{|^nbridge ")
# A core or worker that ended by signal 9, and a worker that ended without the traceback that it otherwise leaves.
_SILENT_END = re.compile(r"Failed core proc\(s\): \{.*: -9\}|WorkerProc initialization failed")

_LESS_MEMORY_GPU = (
    "Lower gpu_memory_utilization (0.8 instead of 0.9), max_model_len or max_num_seqs, quantize the model, or "
    "split it over more GPUs with tensor_parallel_size."
)
_LESS_MEMORY_CPU = (
    "Lower cpu_kv_cache_gib, max_model_len or max_num_seqs, quantize the model, or end other programs that use memory."
)
_IF_MEMORY = f"If it was memory: {_LESS_MEMORY_CPU[0].lower()}{_LESS_MEMORY_CPU[1:]}"
_MORE_KV = (
    "Lower max_model_len or max_num_seqs, or make room for the KV cache: a higher gpu_memory_utilization on a GPU, "
    'a higher cpu_kv_cache_gib on the CPU, a quantized model, or kv_cache_dtype = "fp8".'
)
_READ_LOG = "Look into the log for what happened before."
_HUB = (
    "Accept the model's licence on its page, put a token that may read it into the environment variable HF_TOKEN, "
    "and check the name."
)


@dataclass(frozen=True)
class Failure:
    """Why a server ended: the error class to raise, its summary, the engine's own words and the next step."""

    error: type[errors.ServeError]
    summary: str
    engine_words: str | None
    next_step: str

    def to_error(self, log_path: Path | None = None) -> errors.ServeError:
        return self.error(self.summary, engine_words=self.engine_words, next_step=self.next_step, log_path=log_path)


@dataclass(frozen=True)
class _Cause:
    pattern: re.Pattern[str]
    error: type[errors.ServeError]
    summary: str
    next_step: str


def _cause(pattern: str, error: type[errors.ServeError], summary: str, next_step: str) -> _Cause:
    return _Cause(re.compile(pattern), error, summary, next_step)


# The first cause that any telling line shows wins, so the particular stand before the general.
_CAUSES = (
    _cause(
        r"\bContractError: ",
        errors.Unsupported,
        "The hidden-states plugin and this vLLM, or these settings, do not go together.",
        "Set hidden_states = false (--no-hidden-states) to serve without hidden states.",
    ),
    _cause(
        r"No module named '?vllm(?:\.entrypoints[\w.]*)?'?\s*(?:\)|$)|No package metadata was found for vllm",
        errors.MissingPackage,
        "vLLM is not installed in this Python environment.",
        'Install it with the extra "cpu" or "gpu" of this project: pip install -e ".[gpu]".',
    ),
    _cause(
        r"address already in use|Errno 98",
        errors.PortInUse,
        "The port is in use.",
        "Choose another port, or 0 for any free one.",
    ),
    _cause(
        r"(?:torch\.)?(?:cuda\.)?OutOfMemoryError|CUDA out of memory|HIP out of memory|not enough GPU memory|"
        r"Free memory on device .* is less than desired GPU memory utilization|CUBLAS_STATUS_ALLOC_FAILED|"
        r"CUDA error: out of memory",
        errors.OutOfMemory,
        "The GPU does not have the memory for this model and these settings.",
        _LESS_MEMORY_GPU,
    ),
    _cause(
        r"is larger than the available KV cache|larger than the maximum number of tokens that can be stored in KV|"
        r"No available memory for the cache blocks|not enough GPU memory available to serve",
        errors.OutOfMemory,
        "The KV cache is too small for these settings.",
        _MORE_KV,
    ),
    _cause(
        r"Available memory on node .* is less than (?:desired|requested)|DefaultCPUAllocator|std::bad_alloc|"
        r"^MemoryError|Cannot allocate memory|[Nn]ot enough memory",
        errors.OutOfMemory,
        "The machine does not have the memory for this model and these settings.",
        _LESS_MEMORY_CPU,
    ),
    _cause(
        r"GatedRepoError|401 Client Error|403 Client Error|Cannot access gated repo|gated repo|"
        r"Invalid (?:user )?(?:token|credentials)|Unauthorized",
        errors.Unauthorized,
        "The model hub refused access to this model.",
        _HUB,
    ),
    _cause(
        r"Cannot find any model weights|No model weights found|Could not find .*model weights|"
        r"no file named .*(?:safetensors|pytorch_model)|weights were not initialized from checkpoint|"
        r"SafetensorError|Error while deserializing header",
        errors.MissingWeights,
        "The model directory has no weights that vLLM can load.",
        'Download or copy its *.safetensors files, or set load_format = "dummy" to measure speed with random weights.',
    ),
    _cause(
        r"[Qq]uantization|quant_method|[Qq]uantized|_quant\(\)|bitsandbytes|scaled_mm|Marlin|[Mm]in capability|"
        r"compute capability|is not supported (?:on|by|for) (?:the )?(?:current platform|CPU|CUDA|this)|"
        r"NotImplementedError|fp8|"
        r"not supported (?:on|for) (?:the )?CPU|No .*backend.* (?:found|available)|No valid attention backend",
        errors.Unsupported,
        "This machine, or this build of vLLM, cannot run the model with these settings.",
        "Choose another quantization, dtype or kv_cache_dtype, or run without; what works depends on the hardware.",
    ),
    _cause(
        r"Repo id must be|is not a local folder|not a valid (?:model|JSON)|Invalid repository ID|"
        r"RepositoryNotFoundError|404 Client Error|does not appear to have a file named|no config file|config\.json|"
        r"couldn't connect to|LocalEntryNotFound|OfflineMode|does not recognize this architecture|"
        r"[Mm]odel architectures? .*(?:not supported|failed to be inspected)|has no vLLM implementation|"
        r"instantiate the backend tokenizer|[Tt]okenizer",
        errors.BadModel,
        "The model cannot be opened: its name, directory or configuration is not one that vLLM knows.",
        "Check the path (it needs config.json, tokenizer files and weights) or the hub name and the network.",
    ),
    _cause(
        r"error: (?:unrecognized arguments|argument |ambiguous option|the following arguments)|"
        r"ArgumentTypeError|ValidationError|^Value error, |"
        r"^(?:AssertionError|ValueError|TypeError)",
        errors.BadArgument,
        "vLLM refused one of its options.",
        "Correct the setting that the message names; after `--` go only options of this vLLM version.",
    ),
)


def classify(log: str, exit_status: int | None, memory: MemoryVerdict = NOT_LOOKED) -> Failure:
    """Why a start failed, from the log's text and the exit status (negative: a signal; None: still running).

    `memory` says whether the kernel killed for want of memory; a silent end is called that only when it did.
    """
    told = telling_lines(log)
    if cause := _first_cause(told):
        return cause
    words = _readable(told[-1]) if told else last_line(log)
    if exit_status == -signal.SIGKILL or (not told and _SILENT_END.search(log)):
        summary = "A process of the server was killed, or ended without a word."
        if exit_status == -signal.SIGKILL or ": -9}" in log:
            summary = "A process of the server was killed by signal 9."
        if memory.happened:
            return Failure(errors.OutOfMemory, f"{summary} {memory.words}", words, _LESS_MEMORY_CPU)
        return Failure(errors.StartFailed, summary, words, f"{memory.words} {_IF_MEMORY}")
    return Failure(errors.StartFailed, f"The server ended {_exit_words(exit_status)}.", words, _READ_LOG)


def died(log: str, exit_status: int | None, memory: MemoryVerdict = NOT_LOOKED) -> Failure:
    """Why a server that was ready has ended, from its log since it was ready and the kernel's counters."""
    lines = log.splitlines(keepends=True)
    # What stands before the engine's own obituary belongs to requests that merely failed.
    first = next((i for i, line in enumerate(lines) if says_engine_is_dead(line)), max(0, len(lines) - 100))
    told = [line for line in telling_lines("".join(lines[first:])) if "EngineDeadError" not in line]
    cause = _first_cause(told)
    if cause and cause.error is errors.OutOfMemory:
        summary = f"The server died while it served: {cause.summary[0].lower()}{cause.summary[1:]}"
        return Failure(errors.EngineDied, summary, cause.engine_words, cause.next_step)
    if exit_status not in (None, 0):
        summary = f"The server died while it served, {_exit_words(exit_status)}."
    else:
        summary = "The server's engine core died while it served" + ("." if told else ", without a word of why.")
    next_step = _READ_LOG
    if exit_status == -signal.SIGKILL or not told:
        next_step = f"{memory.words} {_LESS_MEMORY_CPU if memory.happened else _IF_MEMORY}"
    return Failure(errors.EngineDied, summary, _readable(told[0]) if told else None, next_step)


def _first_cause(told: list[str]) -> Failure | None:
    for cause in _CAUSES:
        for line in told:
            if cause.pattern.search(line):
                return Failure(cause.error, cause.summary, _readable(line), cause.next_step)
    return None


def says_engine_is_dead(line: str) -> bool:
    """Whether a log line of a server that was ready says that its engine has died."""
    return not _QUOTES_CLIENTS.match(line) and any(
        words in line
        for words in (
            "EngineDeadError",
            "died unexpectedly",
            "EngineCore encountered a fatal error",
            "Engine core proc",
        )
    )


def telling_lines(log: str) -> list[str]:
    """The messages of exceptions and parser errors, root causes in the order they were written, repeats left out.

    A message runs on over following lines when the exception's own line says nothing ("1 validation error for
    ModelConfig" is followed by its reason).
    """
    lines = [_PREFIX.sub("", raw) for raw in re.split(r"\r\n|[\r\n]", log) if not raw.startswith(("{", "nbridge "))]
    told: list[str] = []
    for number, line in enumerate(lines):
        text = line.strip()
        if "validation error for" in line and number + 1 < len(lines):
            text = lines[number + 1].strip()
        elif _EXCEPTION.match(line):
            following = lines[number + 1].strip() if number + 1 < len(lines) else ""
            if text.endswith(":") and following:
                text = f"{text} {following}"
        elif not re.search(r": error: |No module named |terminate called|std::bad_alloc|Error parsing config", line):
            continue
        if not any(empty in text for empty in _EMPTY_WORDS) and text not in told:
            told.append(text)
    return told


def last_line(log: str) -> str | None:
    """The log's last message, None when it has none."""
    lines = [line for line in (_PREFIX.sub("", raw).strip() for raw in log.splitlines()) if line]
    return _readable(lines[-1]) if lines else None


def _readable(text: str) -> str:
    text = text.removeprefix("Value error, ").partition(" [type=")[0]
    return text if len(text) <= WORDS_LIMIT else text[:WORDS_LIMIT].rstrip() + "…"


def _exit_words(exit_status: int | None) -> str:
    if exit_status is None:
        return "without an exit status"
    return f"by signal {-exit_status}" if exit_status < 0 else f"with exit status {exit_status}"
