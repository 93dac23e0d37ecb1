"""What hidden states cost: `make bench-hidden`. Three comparisons in one run, on the trained demo model.

1. One prompt of 128 tokens: `/v1/hidden_states` beside the same request without capture (`/v1/completions` with
   max_tokens=1), asked in turn of one server. Latency from the request's sending to the answer's last byte.
2. The same prompts through Hugging Face transformers, one at a time, after the server has ended.
3. Ordinary completions on a server with the plugin loaded but unused beside one without it: pairs of server starts, in
   alternating order, the same load; the ratio of output throughput pair by pair.
"""

import json
import random
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from bench import store
from bench.cell import measure
from bench.errors import BenchError
from bench.plan import Lengths, Load
from bench.target import Target
from bench.workload import Vocabulary
from checkpoints.prepare import Checkpoint, prepare
from monitoring.machine import describe
from serve import server
from serve.settings import parse

PROMPT_TOKENS = 128
LOAD = Load(
    name="plain", concurrency=8, requests=400, prompt_tokens=Lengths(mean=64), output_tokens=Lengths(mean=32)
)  # fmt: skip
console = Console(stderr=True, highlight=False)


def start(checkpoint: Checkpoint, folder: Path, *, hooked: bool) -> server.Server:
    """A server of the demo model in fp32, with the plugin or without."""
    values = {
        "model": checkpoint.path, "served_model_name": checkpoint.name, "port": 0, "dtype": "float32",
        "max_num_seqs": 16, "hidden_states": hooked,
    }  # fmt: skip
    log_path = folder / f"{'hooked' if hooked else 'stock'}-{time.monotonic_ns()}.log"
    return server.start(parse(values, "bench-hidden"), log_path=log_path)


def latencies(base_url: str, model: str, prompts: list[list[int]]) -> dict[str, list[float]]:
    """Seconds per request, plain and captured in turn, each prompt new to the server's prefix cache."""
    bodies = {
        "plain": ("/v1/completions", {"model": model, "max_tokens": 1, "temperature": 0}),
        "captured": ("/v1/hidden_states", {"model": model, "layer": -2}),
        "captured_base64": ("/v1/hidden_states", {"model": model, "layer": -2, "encoding_format": "base64"}),
    }
    found: dict[str, list[float]] = {name: [] for name in bodies}
    with httpx.Client(base_url=base_url, timeout=60, trust_env=False) as client:
        for number, prompt in enumerate(prompts):
            for name in random.Random(number).sample(list(bodies), len(bodies)):  # noqa: S311
                path, body = bodies[name]
                own = [*prompt[:-3], len(found[name]) % 500 + 3, number % 500 + 3, list(bodies).index(name) + 3]
                field = "prompt" if name == "plain" else "prompts"
                begin = time.perf_counter()
                answer = client.post(path, json={**body, field: own[::-1]})
                found[name].append(time.perf_counter() - begin)
                answer.raise_for_status()
    return found


def hugging_face(path: str, prompts: list[list[int]]) -> list[float]:
    """Seconds per forward pass with all hidden states, one prompt at a time, on all cores."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    seconds = []
    with torch.inference_mode():
        for prompt in prompts:
            begin = time.perf_counter()
            model(torch.tensor([prompt]), output_hidden_states=True)
            seconds.append(time.perf_counter() - begin)
    return seconds


def throughput(checkpoint: Checkpoint, folder: Path, vocabulary: Vocabulary, repeat: int, *, hooked: bool) -> float:
    """Output tokens/s of the plain load on one newly started server; raises when the measurement did not work."""
    cell: dict[str, Any] = {
        "id": f"{'hooked' if hooked else 'stock'}-r{repeat}",
        "repeat": repeat,
        "outcome": "pending",
    }
    with start(checkpoint, folder, hooked=hooked) as running:
        target = Target(running.base_url, running.model_name, None, vocabulary, 1024, running.pids)
        measure(folder, cell, target, LOAD, slo=None, timeout_s=600)
    if not cell["metrics"] or cell["metrics"]["output_throughput_tok_s"] is None or not cell["reconciliation"]["exact"]:
        raise BenchError(f"{cell['id']}: {cell['outcome']}: {cell['reason']}")
    return float(cell["metrics"]["output_throughput_tok_s"])


def summary(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "n": len(ordered),
        "p50_s": statistics.median(ordered),
        "p95_s": ordered[int(0.95 * len(ordered))],
        "min_s": ordered[0],
        "max_s": ordered[-1],
    }


def main(
    out: Annotated[Path | None, typer.Option(help="Write the result there as JSON, too.")] = None,
    requests: Annotated[int, typer.Option(min=20, help="Requests of each kind.")] = 300,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of server starts, with and without the plugin.")] = 3,
) -> None:
    """Measure what hidden states cost and print the table."""
    checkpoint = prepare("demo-1m", progress=console.print)
    vocabulary = Vocabulary.load(Path(checkpoint.path))
    rng = random.Random(0)  # noqa: S311
    prompts = [rng.choices(vocabulary.ordinary_ids, k=PROMPT_TOKENS) for _ in range(requests)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        console.print(f"latency: {requests} requests of each kind, in turn …")
        with start(checkpoint, folder, hooked=True) as running:
            latencies(running.base_url, running.model_name, prompts[:10])  # warm-up
            timed = {k: summary(v) for k, v in latencies(running.base_url, running.model_name, prompts).items()}
        timed["hugging_face"] = summary(hugging_face(checkpoint.path, prompts))
        rates = []
        for repeat in range(1, pairs + 1):
            console.print(f"throughput: pair {repeat} of {pairs} …")
            order = (True, False) if repeat % 2 else (False, True)
            rates.append({
                "hooked" if hooked else "stock": throughput(checkpoint, folder, vocabulary, repeat, hooked=hooked)
                for hooked in order
            })  # fmt: skip
    ratios = sorted(pair["hooked"] / pair["stock"] for pair in rates)
    document = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": "demo-1m, float32",
        "prompt_tokens": PROMPT_TOKENS,
        "latency": timed,
        "captured_to_plain_p50": timed["captured"]["p50_s"] / timed["plain"]["p50_s"],
        "captured_base64_to_plain_p50": timed["captured_base64"]["p50_s"] / timed["plain"]["p50_s"],
        "throughput_tok_s": rates,
        "hooked_to_stock": {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1], "pairs": pairs},
        "environment": describe(),
    }
    if out is not None:
        store.write_json(out, document)
    show(document)
    print(json.dumps(document))  # noqa: T201


def show(document: dict[str, Any]) -> None:
    for name, row in document["latency"].items():
        console.print(f"{name:16} p50 {row['p50_s'] * 1000:6.1f} ms   p95 {row['p95_s'] * 1000:6.1f} ms   n {row['n']}")
    ratio = document["hooked_to_stock"]
    console.print(f"captured / plain, p50: {document['captured_to_plain_p50']:.3f} (goal ≤ 1.15)")
    console.print(
        f"hooked / stock throughput: median {ratio['median']:.3f}, {ratio['min']:.3f} to {ratio['max']:.3f} "
        f"over {ratio['pairs']} pairs (goal ≥ 0.98)"
    )


if __name__ == "__main__":
    typer.run(main)
