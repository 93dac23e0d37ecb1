"""What vLLM says about itself while it starts: log lines and the labels of `vllm:cache_config_info`. Pure."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

GIB = 1 << 30


@dataclass(frozen=True)
class StartupFacts:
    """One server's start; what vLLM did not say is None.

    `ready_s` runs from the execution of the process to the first check that found it ready. `weights_bytes`,
    `activation_peak_bytes` and `cuda_graph_bytes` are vLLM's own measurements of one GPU's memory.
    """

    ready_s: float | None = None
    engine_version: str | None = None
    attention_backend: str | None = None
    max_model_len: int | None = None
    weights_bytes: int | None = None
    load_s: float | None = None
    activation_peak_bytes: int | None = None
    cuda_graph_bytes: int | None = None
    cuda_graph_s: float | None = None
    compile_s: float | None = None
    engine_init_s: float | None = None
    kv_cache_tokens: int | None = None
    kv_cache_bytes: int | None = None
    block_size: int | None = None
    num_gpu_blocks: int | None = None
    max_concurrency: float | None = None
    prefix_caching: bool | None = None
    gpu_memory_total_bytes: int | None = None
    gpu_memory_requested_bytes: int | None = None

    def as_dict(self) -> dict[str, str | int | float]:
        """The facts that are known."""
        return {key: value for key, value in asdict(self).items() if value is not None}


_NUMBER = r"([\d.,]+)"
# (pattern, one (fact, unit) for each group); GiB are vLLM's binary ones. Wording of vLLM 0.26 to 0.33.
_PATTERNS: tuple[tuple[re.Pattern[str], tuple[tuple[str, str], ...]], ...] = (
    (re.compile(r"(?:█.* |vLLM API server )version (\d\S*)"), (("engine_version", "text"),)),
    (re.compile(r"LLM engine \(v(\S+)\)"), (("engine_version", "text"),)),
    (re.compile(r"Using (\w+) attention backend"), (("attention_backend", "text"),)),
    (re.compile(r"Using ([A-Z0-9_]+) backend(?:\.| out of| \(selected)"), (("attention_backend", "text"),)),
    (re.compile(rf"Using max model len {_NUMBER}"), (("max_model_len", "count"),)),
    (
        re.compile(rf"Model loading took {_NUMBER} ?GiB(?: memory)? and {_NUMBER} seconds"),
        (("weights_bytes", "gib"), ("load_s", "number")),
    ),
    (re.compile(rf"Loading weights took {_NUMBER} seconds"), (("load_s", "number"),)),
    (re.compile(rf"{_NUMBER} ?GiB for peak activation"), (("activation_peak_bytes", "gib"),)),
    (re.compile(rf"PyTorch activation peak memory takes {_NUMBER} ?GiB"), (("activation_peak_bytes", "gib"),)),
    (
        re.compile(rf"Graph capturing finished in {_NUMBER} secs, took {_NUMBER} GiB"),
        (("cuda_graph_s", "number"), ("cuda_graph_bytes", "gib")),
    ),
    (re.compile(rf"torch\.compile (?:took|takes) {_NUMBER} s"), (("compile_s", "number"),)),
    (re.compile(rf"init engine .*took {_NUMBER} s"), (("engine_init_s", "number"),)),
    (re.compile(rf"Available KV cache memory: {_NUMBER} ?GiB"), (("kv_cache_bytes", "gib"),)),
    (re.compile(rf"KV cache size: {_NUMBER} tokens"), (("kv_cache_tokens", "count"),)),
    (re.compile(rf"Maximum concurrency for [\d,]+ tokens per request: {_NUMBER}x"), (("max_concurrency", "number"),)),
    (
        re.compile(rf"Free memory on device \S*\({_NUMBER}/{_NUMBER} GiB\) on startup"),
        (("", ""), ("gpu_memory_total_bytes", "gib")),
    ),
    (
        re.compile(rf"Desired GPU memory utilization is \({_NUMBER}, {_NUMBER} GiB\)"),
        (("", ""), ("gpu_memory_requested_bytes", "gib")),
    ),
)
_CACHE_LABELS = {
    "kv_cache_size_tokens": ("kv_cache_tokens", "count"),
    "kv_cache_memory_bytes": ("kv_cache_bytes", "count"),
    "num_gpu_blocks": ("num_gpu_blocks", "count"),
    "block_size": ("block_size", "count"),
    "kv_cache_max_concurrency": ("max_concurrency", "number"),
    "enable_prefix_caching": ("prefix_caching", "flag"),
}

Fact = str | int | float | bool


def line_facts(line: str) -> dict[str, Fact]:
    """The facts that one log line states; empty for nearly all lines."""
    found: dict[str, Fact] = {}
    for pattern, groups in _PATTERNS:
        if match := pattern.search(line):
            for (fact, unit), text in zip(groups, match.groups(), strict=True):
                if fact and (value := _convert(text, unit)) is not None:
                    found[fact] = value
    return found


def cache_facts(metrics: str) -> dict[str, Fact]:
    """The facts in the labels of `vllm:cache_config_info`; labels that are "None" or absent give none."""
    found: dict[str, Fact] = {}
    for line in metrics.splitlines():
        if line.startswith("vllm:cache_config_info{"):
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', line))
            for label, (fact, unit) in _CACHE_LABELS.items():
                if (value := _convert(labels.get(label, "None"), unit)) is not None:
                    found[fact] = value
            break
    return found


def gather(facts: Iterable[dict[str, Fact]], ready_s: float | None = None) -> StartupFacts:
    """All the facts in one record; a later source overrides an earlier one."""
    merged: dict[str, Fact] = {}
    for some in facts:
        merged |= some
    known = {f.name for f in fields(StartupFacts)}
    values = {key: value for key, value in merged.items() if key in known}
    return StartupFacts(**{**values, "ready_s": ready_s})  # type: ignore[arg-type]


def _convert(text: str, unit: str) -> Fact | None:
    if unit == "text":
        return text
    if unit == "flag":
        return {"True": True, "False": False}.get(text)
    try:
        number = float(text.replace(",", "").rstrip("."))
    except ValueError:
        return None
    match unit:
        case "gib":
            return round(number * GIB)
        case "count":
            return int(number)
        case _:
            return number
