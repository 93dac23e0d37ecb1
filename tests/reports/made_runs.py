"""Run folders with made-up but plausible records, for the tests of the reports."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.run import quality
from bench.run.records import SCHEMA
from bench.run.stats.summary import summarise

MIB = 1024**2
# engine → (weights MiB, prefill s at 1, decode s per token at 1), and concurrency → (TTFT factor, decode factor)
SPEED = {"bf16": (186, 0.43, 0.034), "int8": (101, 0.08, 0.022), "int4": (62, 0.16, 0.026)}
CROWD = {
    "bf16": {1: (1.0, 1.0), 4: (3.9, 3.5), 16: (14.9, 8.2)},
    "int8": {1: (1.0, 1.0), 4: (3.2, 1.3), 16: (11.0, 2.1)},
    "int4": {1: (1.0, 1.0), 4: (3.4, 1.7), 16: (12.0, 3.9)},
}
ENVIRONMENT = {
    "nbridge": "0.1.0",
    "python": "3.11.2",
    "os": "Linux 6.1 (Debian 12)",
    "cpu": {"model": "Example CPU @ 2.60 GHz", "cores": 2, "flags": ["avx2", "avx512f", "avx512_vnni"]},
    "memory_bytes": 24 * 1024**3,
    "gpus": [],
    "packages": {"vllm": "0.32.0", "torch": "2.13.0", "locust": "2.47.0"},
    "git": {"commit": "0123abc", "dirty": False},
    "hostname_hash": "9f2c41d0",
}


def closed_requests(
    *, users: int, count: int, ttft_s: float, token_s: float, tokens: int = 32, seed: int = 0, failed: int = 0
) -> pa.Table:
    """Records of a closed loop: each user sends its next request when the last one is answered."""
    rng = np.random.default_rng(seed)
    free_at = np.linspace(0.001, 0.05, users)
    rows: list[dict[str, Any]] = []
    for index in range(count):
        user = int(free_at.argmin())
        sent = float(free_at[user])
        first = sent + ttft_s * float(rng.lognormal(0.0, 0.18))
        gaps = token_s * rng.lognormal(-0.02, 0.22, tokens - 1)
        chunks = np.concatenate([[first], first + np.cumsum(gaps)])
        ended = float(chunks[-1]) + 0.001
        free_at[user] = ended + 0.0005
        row = dict.fromkeys(SCHEMA.names)
        row |= {
            "request_id": f"r{index}",
            "scenario": "fixed",
            "scheduled_s": sent,
            "sent_s": sent,
            "prompt_tokens": 64,
        }
        row |= {"headers_s": first - 0.001, "ended_s": ended, "reads": tokens, "coalesced_reads": 0, "chunk_s": []}
        if index < failed:
            row |= {"outcome": "http_error", "http_status": 500, "error_kind": "http", "error": "Internal Server Error"}
        else:
            row |= {"outcome": "ok", "http_status": 200, "first_token_s": first, "last_token_s": float(chunks[-1])}
            row |= {
                "chunk_s": chunks.tolist(),
                "chunk_tokens": [1] * tokens,
                "output_tokens": tokens,
                "cached_tokens": 0,
            }
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def held_out_rows(loss: float) -> pa.Table:
    """Twelve pieces of 20 tokens; every second piece loses twice as much as the others."""
    columns: dict[str, list[Any]] = {name: [] for name in quality.SCHEMA.names}
    for index in range(12 * 20):
        piece, place = divmod(index, 20)
        lost = loss * (4 / 3 if piece % 2 else 2 / 3)
        right = 0.5 * math.exp(-lost)
        token = 3 + index % 7
        row = (0, piece, place + 1, token, math.log(right), [str(token), "1"], [math.log(right), math.log(0.4)])
        for name, value in zip(columns, row, strict=True):
            columns[name].append(value)
    return pa.table(columns, schema=quality.SCHEMA)


def engine(name: str, **settings: Any) -> dict[str, Any]:
    quantization = {"bf16": "none", "int8": "int8", "int4": "int4"}.get(name, name)
    return {
        "name": name,
        "model": "demo-100m",
        "quantization": quantization,
        "dtype": "bfloat16",
        "max_model_len": 512,
        "max_num_seqs": 16,
        "prefix_caching": False,
        **settings,
    }


def closed_load(users: int, **settings: Any) -> dict[str, Any]:
    return {
        "name": f"c{users}",
        "scenario": "fixed",
        "kind": "closed",
        "concurrency": users,
        "requests": 6 * users,
        "prompt_tokens": {"kind": "fixed", "mean": 64},
        "output_tokens": {"kind": "fixed", "mean": 32},
        "seed": 0,
        **settings,
    }


def valid(value: float = 0.4e-3) -> dict[str, Any]:
    def check(
        name: str, value: float, limit: float, unit: str, *, ok: bool = True, at_least: bool = False
    ) -> dict[str, Any]:
        return {
            "name": name,
            "ok": ok,
            "value": value,
            "limit": limit,
            "unit": unit,
            "at_least": at_least,
            "detail": "",
        }

    checks = [
        check("requests failed", 0.0, 0.01, "share"),
        check("dispatch lateness p99", value, 0.02, "s", ok=value < 0.02),
        check("coalesced reads", 0.0, 0.01, "share"),
        check("concurrency held", 0.98, 0.95, "share", at_least=True),
        check("output tokens, client − server", 0, 0, "tokens"),
        check("mean TTFT, client − server, unexplained", 0.0, 0.005, "s"),
    ]
    reasons = [] if value < 0.02 else [f"The client was saturated: dispatch lateness p99 {value * 1e3:.0f} ms > 20 ms."]
    return {"valid": not reasons, "reasons": reasons, "checks": checks}


def reconciled(metrics: dict[str, Any]) -> dict[str, Any]:
    def same(value: Any) -> dict[str, Any]:
        return {"client": value, "server": value, "equal": True}

    def mean(name: str) -> dict[str, Any]:
        client = metrics[name]["mean"]
        tolerance = max(0.005, 0.03 * client)
        return {
            "client": client,
            "server": client - 0.0007,
            "difference": 0.0007,
            "to_head": 0.002,
            "unexplained": 0.0,
            "tolerance": tolerance,
            "agree": True,
        }

    return {
        "exact": True,
        "output_tokens": same(metrics["output_tokens"]),
        "prompt_tokens": same(metrics["prompt_tokens"]),
        "requests": same(metrics["requests"]["ok"]),
        "ttft_mean_s": mean("ttft_s"),
        "e2e_mean_s": mean("e2e_s"),
        "preemptions": 0,
        "server_queue_mean_s": 0.0021,
        "prefix_cache_hit_share": None,
        "notes": [],
    }


@dataclass
class RunFolder:
    """A run folder under construction."""

    path: Path
    cells: list[dict[str, Any]] = field(default_factory=list)
    plan: dict[str, Any] = field(default_factory=lambda: {"name": "default"})
    quality: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        name: str,
        load: dict[str, Any],
        requests: pa.Table | None,
        *,
        repeat: int = 1,
        outcome: str = "ok",
        reason: str | None = None,
        settings: dict[str, Any] | None = None,
        validity: dict[str, Any] | None = None,
        weights_mib: float | None = None,
        weightless: bool = True,
    ) -> dict[str, Any]:
        """Add a cell; `requests` become its records, and its stored metrics when it ran to its end."""
        number = f"c{load['concurrency']}" if load["kind"] == "closed" else f"q{load['rate_rps']:g}"
        slug = "".join(c if c.isascii() and c.isalnum() else "-" for c in name).strip("-")[:40]
        slug = slug or "x"
        if any(cell["id"].startswith(f"{slug}-") and cell["engine"]["name"] != name for cell in self.cells):
            slug += f"-{len(self.cells)}"
        cell: dict[str, Any] = {
            "id": f"{slug}-{load['kind']}-{number}-r{repeat}",
            "engine": engine(name, **(settings or {})),
        }
        cell |= {"load": load, "repeat": repeat, "outcome": outcome, "reason": reason}
        cell |= {"startup": None, "metrics": None, "reconciliation": None, "validity": None}
        if requests is not None:
            folder = self.path / "cells" / cell["id"]
            folder.mkdir(parents=True)
            pq.write_table(requests, folder / "requests.parquet")
        if outcome in ("ok", "invalid") and requests is not None:
            weights = (weights_mib or 100) * MIB
            metrics = summarise(requests, load, self.plan.get("slo"))
            metrics["memory"] = {"server_peak_bytes": weights + 1900 * MIB, "gpu_used_peak_bytes": None}
            metrics["client"] = {"cpu_share": 0.03, "dispatch_lateness_p99_s": 0.0004}
            cell["metrics"], cell["reconciliation"] = metrics, reconciled(metrics)
            cell["validity"] = validity or valid()
            cell["startup"] = {
                "ready_s": 39.5,
                "weights_bytes": int(weights),
                "kv_cache_bytes": 1024 * MIB,
                "kv_cache_tokens": 32768,
                "weightless": weightless,
            }
        self.cells.append(cell)
        return cell

    def _quality(self) -> dict[str, Any] | None:
        if not self.quality:
            return None
        texts = {"name": "heldout.txt", "sha256": "dc7c984c3334" + "0" * 52, "texts": 1}
        document = {
            "baseline": self.quality[0]["engine"],
            "baseline_run": None,
            "texts": texts,
            "engines": self.quality,
        }
        tables = {e["engine"]: self.path / "quality" / f"{e['engine']}.parquet" for e in self.quality}
        rows = {name: pq.read_table(path) for name, path in tables.items() if path.exists()}
        document["engines"] = quality.results({"quality": document}, rows.get)
        return document

    def judge(self, engine: str, loss: float | None, **fields: Any) -> dict[str, Any]:
        """Quality of an engine that gives every held-out token e to the −`loss` of the probability that the first one
        gives it, more in some pieces and less in others; None: it has none."""
        scheme = {"int8": "w8a8-int8", "int4": "w4a16"}.get(engine, "none")
        entry: dict[str, Any] = {"engine": engine, "model": "demo-1m", "scheme": scheme, "kv_cache_dtype": "auto"}
        entry |= {"outcome": "ok", "reason": None, "known_beforehand": False, "form": "prompt_logprobs", "top": 2}
        entry |= {"pieces": 12, "repeat_kl": 0.0, "seconds": 2.5, "tokens_sha256": None, "rounded": False, **fields}
        if loss is not None:
            rows = held_out_rows(loss)
            path = self.path / "quality" / f"{engine}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(rows, path)
            entry["tokens_sha256"] = fields.get("tokens_sha256", quality.tokens_sha256(rows))
        self.quality.append(entry)
        return entry

    def write(self, **fields: Any) -> Path:
        document = {
            "format": 1,
            "run_id": "20261122T101500Z-default-3f2a",
            "created": "2026-11-22T10:15:00Z",
            "finished": "2026-11-22T10:21:40Z",
            "command": "nbridge bench",
            "plan": self.plan,
            "environment": ENVIRONMENT,
            "cells": self.cells,
            "quality": self._quality(),
            **fields,
        }
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "run.json").write_text(json.dumps(document), encoding="utf-8")
        return self.path


def add_measured(
    run: RunFolder, name: str, users: int, *, repeat: int = 1, requests: int | None = None, **more: Any
) -> None:
    """A cell with the made-up speed of engine `name`, each repeat with a little luck of its own."""
    weights, ttft, token = SPEED[name]
    crowd_ttft, crowd_token = CROWD[name][users]
    luck = 1 + 0.02 * ((repeat * 7 + users) % 5 - 2)
    count = requests or 6 * users
    table = closed_requests(
        users=users,
        count=count,
        ttft_s=ttft * crowd_ttft * luck,
        token_s=token * crowd_token * luck,
        seed=users + repeat,
        failed=more.pop("failed", 0),
    )
    run.add(name, closed_load(users, requests=count), table, repeat=repeat, weights_mib=weights, **more)


def nine_cells(path: Path, *, repeats: int = 1, plan: dict[str, Any] | None = None) -> RunFolder:
    """Three engines × three loads, all fine."""
    run = RunFolder(path, plan={"name": "default", **(plan or {})})
    for repeat in range(1, repeats + 1):
        for name in SPEED:
            for users in (1, 4, 16):
                add_measured(run, name, users, repeat=repeat)
    return run


def with_failures(path: Path) -> RunFolder:
    """Two good engines, and a cell for each way to go wrong."""
    run = RunFolder(path)
    for users in (1, 4):
        add_measured(run, "bf16", users)
    run.add(
        "bf16",
        closed_load(16),
        None,
        outcome="oom",
        reason="The engine ran out of memory while reserving the KV cache: `ValueError: No available memory for the "
        "cache blocks.` Lower max_num_seqs or max_model_len, or raise cpu_kv_cache_gib.",
    )
    add_measured(run, "int8", 1)
    add_measured(run, "int8", 4, failed=2)
    add_measured(run, "int8", 16, outcome="invalid", validity=valid(0.031), reason="The client was saturated.")
    for users in (1, 4, 16):
        run.add(
            "fp8",
            closed_load(users),
            None,
            outcome="unsupported",
            reason="vLLM refused this configuration on this machine: `NotImplementedError: fp8 is not supported on the "
            "CPU backend`. Use int8 (w8a8-int8) or int4 (w4a16).",
        )
    partial = closed_requests(users=4, count=9, ttft_s=0.5, token_s=0.04, failed=2)
    run.add(
        "int4", closed_load(4), partial, outcome="failed", reason="The server died: `Segmentation fault` (exit -11)."
    )
    run.add("int4", closed_load(16), None, outcome="pending")
    return run
