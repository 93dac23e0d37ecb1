"""What a cell sends, and the two files from which the Locust process learns it."""

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

from bench.errors import PlanError
from bench.plans.conversations import told
from bench.plans.loads import Load
from bench.plans.workload import prompts
from bench.prompts.requests import Requests, refusal, requests
from bench.run import store
from bench.target import Target

_MAX_PROMPTS = 20_000
_WARMUP_TOKENS = 16


def request_count(load: Load) -> int:
    """How many prompts to make: as many as the load sends, or enough of them where only its time is known."""
    if (known := load.conversations if load.is_conversation else load.requests) is not None:
        return known
    seconds = load.seconds or 0.0
    if load.rate_rps is not None:
        expected = load.rate_rps * seconds
        return math.ceil(expected + 6 * math.sqrt(expected) + 16)  # six sigma of a Poisson count
    most = _MAX_PROMPTS // 10 if load.is_conversation else _MAX_PROMPTS
    return min(most, math.ceil((load.concurrency or 1) * (10 * seconds + 1)))


def warmup_count(load: Load) -> int:
    """Requests before the measured ones, not measured: kernels, allocators and connections are then warm."""
    return min(load.concurrency or 2, 8) if load.warmup_requests is None else load.warmup_requests


def make_requests(target: Target, load: Load, repeat: int) -> Requests:
    """What a cell sends. Raises PlanError when a prompts file has nothing that the target can take."""
    warm, count = warmup_count(load), request_count(load)
    if load.scenario != "file":
        made = prompts(load, warm + count, target.vocabulary, repeat=repeat, max_model_len=target.max_model_len)
        first = list(islice(made, warm))
        if not load.is_conversation:
            return Requests(first, made)
        measured = list(made)
        return Requests(first, measured, said=told(measured, target.max_model_len))
    found = requests(load, warm, count, target.vocabulary, repeat=repeat, max_model_len=target.max_model_len)
    if found.media is not None and (why := refusal(found.media, target.base_url, target.model, target.headers())):
        raise PlanError(f"{load.prompts_file} has pictures, sound or files, which this server does not take: {why}")
    return found


def write_inputs(
    folder: Path, target: Target, load: Load, repeat: int, made: Requests, *, machines: bool = False
) -> Path:
    """Write prompts.jsonl and load.json, what the Locust process reads; returns the latter's path."""
    with store.explained(folder), (folder / "prompts.jsonl").open("w", encoding="utf-8") as out:
        for body in made.warm:
            short = {"max_tokens": min(body["max_tokens"], _WARMUP_TOKENS)} if "max_tokens" in body else {}
            first = {key: value for key, value in body.items() if key not in ("then", "cut")}
            out.write(_line({**first, **short, "endpoint": target.endpoint_of(body), "warmup": True}))
        for body in made.measured:
            out.write(_line({**body, "endpoint": target.endpoint_of(body), "warmup": False}))
    document = {
        "target": target.base_url,
        "model": target.model,
        **target.access(),
        "dialect": target.dialect.as_dict(),
        "extra_body": target.settings.extra_body,
        "keep_text": target.settings.tokens == "client",
        "endpoint": "completions",
        "records_path": str(folder / "requests.jsonl"),
        "phase_path": str(folder / "phase.json"),
        "prompts_path": str(folder / "prompts.jsonl"),
        "warmup_requests": len(made.warm),
        **load.model_dump(
            include={
                "kind", "concurrency", "rate_rps", "arrival", "burstiness", "rates_rps", "seconds", "requests",
                "timeout_s", "max_in_flight", "ignore_eos", "temperature",
            }
        ),
        **({"requests": load.conversations} if load.is_conversation else {}),
        "seed": load.seed + repeat,
        "machines": machines,
        **({} if made.due_s is None else {"due_s": made.due_s, "requests": len(made.due_s)}),
    }  # fmt: skip
    store.write_json(folder / "load.json", document)
    return folder / "load.json"


def _line(body: dict[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":")) + "\n"
