"""What hidden states cost: `make bench-hidden`. One run on the trained demo model in 32 bit, all of it by ratios.

Each comparison asks its sides in turn, milliseconds or seconds apart, so that other work on the machine falls on both.

1. One prompt of 128 tokens: `/v1/hidden_states` beside the same request without capture (`/v1/completions` with
   max_tokens=1) on the same server. From the request's sending to the answer's last byte.
2. Batches of 64 prompts of 32 tokens: with their states, and as plain requests of one token.
3. The same prompts through Hugging Face transformers, after the servers have ended.
4. Ordinary completions on two servers, one with the plugin (hooked), one without it (stock), of which one has work at
   a time: pairs of equal loads, the order alternating, on several pairs of starts. Single requests are not compared
   that way: a server's threads spin for a while after its request and would slow the other server's next one.

Writes `hidden.json` and `README.md` into a folder of its own under reports/published/, named after the machine.
"""

import itertools
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from bench.cell.measurement import measure
from bench.errors import BenchError
from bench.plans.loads import Lengths, Load
from bench.plans.workload import Vocabulary
from bench.run import store
from bench.studies import hidden_report, pairs
from bench.target import Target
from checkpoints.prepare import Checkpoint, prepare
from monitoring.machine import describe
from serve.engine import server
from serve.engine.settings import parse

PUBLISHED = Path(__file__).parents[2] / "reports" / "published"
PROMPT_TOKENS = 128
BATCH, BATCH_TOKENS, BATCHES = 64, 32, 10
LOAD = Load(
    name="plain", concurrency=8, requests=200, prompt_tokens=Lengths(mean=64), output_tokens=Lengths(mean=32)
)  # fmt: skip
WARM_UP = 10
# what is asked: server, path and body; the prompts go in beside
Kind = tuple[str, str, dict[str, Any]]
PLAIN: Kind = ("/v1/completions", "prompt", {"max_tokens": 1, "temperature": 0})
CAPTURED: Kind = ("/v1/hidden_states", "prompts", {"layer": -2})
BASE64: Kind = ("/v1/hidden_states", "prompts", {"layer": -2, "encoding_format": "base64"})
SINGLE = {
    "captured": ("hooked", *CAPTURED),
    "captured_base64": ("hooked", *BASE64),
    "plain": ("hooked", *PLAIN),
}
BATCHED = {"captured": ("hooked", *BASE64), "plain": ("hooked", *PLAIN)}

Prompts = list[list[int]]
console = Console(stderr=True, highlight=False)


@contextmanager
def servers(checkpoint: Checkpoint, folder: Path, start: int) -> Iterator[dict[str, server.Server]]:
    """The demo model in fp32 on two servers, with the plugin and without; which is started first alternates."""
    with ExitStack() as stack:
        running = {}
        for name in ("hooked", "stock") if start % 2 else ("stock", "hooked"):
            values = {
                "model": checkpoint.path, "served_model_name": checkpoint.name, "port": 0, "dtype": "float32",
                "max_num_seqs": 16, "hidden_states": name == "hooked",
            }  # fmt: skip
            log_path = folder / f"{name}-{time.monotonic_ns()}.log"
            running[name] = stack.enter_context(server.start(parse(values, "bench-hidden"), log_path=log_path))
        yield running


def latencies(
    running: dict[str, server.Server], kinds: dict[str, tuple[str, str, str, dict[str, Any]]], asks: Iterator[Prompts]
) -> dict[str, list[float]]:
    """Seconds per request of each kind, in random turn, until `asks` ends; no prompt is ever sent twice."""
    found: dict[str, list[float]] = {name: [] for name in kinds}
    with ExitStack() as stack:
        clients = {
            name: stack.enter_context(httpx.Client(base_url=each.base_url, timeout=60, trust_env=False))
            for name, each in running.items()
        }
        for turn, asked in enumerate(zip(*[asks] * len(kinds), strict=False)):
            order = random.Random(turn).sample(list(kinds), len(kinds))  # noqa: S311
            for name, prompts in zip(order, asked, strict=True):
                where, path, field, body = kinds[name]
                content = json.dumps({"model": running[where].model_name, **body, field: prompts})
                headers = {"Content-Type": "application/json"}
                begin_s = time.perf_counter()
                answer = clients[where].post(path, content=content, headers=headers)
                found[name].append(time.perf_counter() - begin_s)
                answer.raise_for_status()
    return found


def hugging_face(path: str, asks: list[Prompts], *, warm_up: int) -> list[float]:
    """Seconds per forward pass with all hidden states, one ask (prompts of equal lengths) at a time, on all cores."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    seconds = []
    with torch.inference_mode():
        for prompts in asks:
            ids = torch.tensor(prompts)
            begin_s = time.perf_counter()
            model(ids, output_hidden_states=True, use_cache=False)
            seconds.append(time.perf_counter() - begin_s)
    return seconds[warm_up:]


def throughput(running: server.Server, folder: Path, vocabulary: Vocabulary, pair: int, name: str) -> float:
    """Output tokens/s of the plain load; raises BenchError when the measurement did not work."""
    cell: dict[str, Any] = {"id": f"{name}-r{pair}", "repeat": pair, "outcome": "pending"}
    target = Target(running.base_url, running.model_name, None, vocabulary, 1024, running.pids)
    measure(folder, cell, target, LOAD, slo=None, timeout_s=600)
    if not cell["metrics"] or cell["metrics"]["output_throughput_tok_s"] is None or not cell["reconciliation"]["exact"]:
        raise BenchError(f"{cell['id']}: {cell['outcome']}: {cell['reason']}")
    return float(cell["metrics"]["output_throughput_tok_s"])


def throughputs(
    running: dict[str, server.Server], folder: Path, vocabulary: Vocabulary, start: int, count: int
) -> list[dict[str, Any]]:
    """`count` pairs of equal loads on this pair of servers; who is first alternates."""
    for name, each in running.items():
        throughput(each, folder, vocabulary, 0, f"warm-up-{start}-{name}")
    found = []
    for number in range(1, count + 1):
        pair = start * 100 + number  # the prompts' seed: no prompt is sent twice to one server
        order = ("hooked", "stock") if number % 2 else ("stock", "hooked")
        rates = {name: throughput(running[name], folder, vocabulary, pair, name) for name in order}
        found.append({"start": start, "first": order[0], **rates})
        console.print(f"  pair {number}: hooked / stock {rates['hooked'] / rates['stock']:.3f}")
    return found


def single_prompts(vocabulary: Vocabulary, seed: int, tokens: int, batch: int) -> Iterator[Prompts]:
    """Batches of random prompts of `tokens` ordinary tokens, without end."""
    rng = random.Random(seed)  # noqa: S311
    while True:
        yield [rng.choices(vocabulary.ordinary_ids, k=tokens) for _ in range(batch)]


def run(
    folder: Path, requests: int, starts: int, pairs_per_start: int, say: Callable[[str], None] = console.print
) -> dict[str, Any]:
    """Measure everything and return the document that is published."""
    checkpoint = prepare("demo-1m", progress=say)
    vocabulary = Vocabulary.load(Path(checkpoint.path))
    load_before = os.getloadavg()[0]

    def asks(seed: int, tokens: int, batch: int, count: int) -> Iterator[Prompts]:
        return itertools.islice(single_prompts(vocabulary, seed, tokens, batch), count)

    loads: list[dict[str, Any]] = []
    single: dict[str, list[float]] = {}
    batched: dict[str, list[float]] = {}
    for start in range(1, starts + 1):
        say(f"start {start} of {starts}: two servers")
        with servers(checkpoint, folder, start) as running:
            if start == 1:
                say(f"latency: {requests} requests of each kind, in turn")
                latencies(running, SINGLE, asks(1, PROMPT_TOKENS, 1, WARM_UP * len(SINGLE)))
                single = latencies(running, SINGLE, asks(2, PROMPT_TOKENS, 1, requests * len(SINGLE)))
                latencies(running, BATCHED, asks(3, BATCH_TOKENS, BATCH, 2 * len(BATCHED)))
                batched = latencies(running, BATCHED, asks(4, BATCH_TOKENS, BATCH, BATCHES * len(BATCHED)))
            say(f"throughput: {pairs_per_start} pairs")
            loads += throughputs(running, folder, vocabulary, start, pairs_per_start)
    say("Hugging Face")
    single["hugging_face"] = hugging_face(
        checkpoint.path, list(asks(2, PROMPT_TOKENS, 1, requests + WARM_UP)), warm_up=WARM_UP
    )
    batched["hugging_face"] = hugging_face(checkpoint.path, list(asks(4, BATCH_TOKENS, BATCH, BATCHES + 2)), warm_up=2)
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": "demo-1m, float32",
        "prompt_tokens": PROMPT_TOKENS,
        "layer": -2,
        "latency": {name: pairs.spread(seconds) for name, seconds in single.items()},
        "to_plain_p50": {
            name: pairs.median_ratio(single[name], single["plain"]) for name in ("captured", "captured_base64")
        },
        "batch": {
            "prompts": BATCH,
            "tokens": BATCH_TOKENS,
            "latency": {k: pairs.spread(v) for k, v in batched.items()},
        },
        "load": LOAD.model_dump(mode="json", include={"concurrency", "requests", "prompt_tokens", "output_tokens"}),
        "throughput_tok_s": loads,
        "hooked_to_stock": pairs.typical_ratio([(pair["start"], pair["hooked"] / pair["stock"]) for pair in loads]),
        "starts": starts,
        "load_average_1min": {"before": load_before, "after": os.getloadavg()[0]},
        "environment": describe(),
    }


def main(
    out: Annotated[
        Path | None, typer.Option(help="Folder to write. Default: reports/published/<this machine>-hidden.")
    ] = None,
    requests: Annotated[int, typer.Option(min=20, help="Requests of each kind.")] = 400,
    starts: Annotated[int, typer.Option(min=1, help="Starts of the two servers; six give an interval.")] = 6,
    pairs_per_start: Annotated[int, typer.Option(min=1, help="Pairs of loads on each of them.")] = 2,
) -> None:
    """Measure what hidden states cost; write the figures and print the table."""
    with tempfile.TemporaryDirectory() as name:
        document = run(Path(name), requests, starts, pairs_per_start)
    if out is None:
        out = PUBLISHED / f"{hidden_report.machine(document['environment'])}-hidden"
    store.write_json(out / "hidden.json", document)
    (out / "README.md").write_text(hidden_report.markdown(document), encoding="utf-8")
    console.print(hidden_report.markdown(document), markup=False, soft_wrap=True)
    console.print(f"written: {out}/hidden.json, {out}/README.md", soft_wrap=True)
    print(json.dumps(document))  # noqa: T201


if __name__ == "__main__":
    typer.run(main)
