"""`make gateway-overhead`: what a door adds to the time to the first token and how many chunks it carries, beside none.

python -m bench.studies.gateway.overhead [--rounds 5] [--peers vllm-router,litellm] [--out FOLDER]

A golden server behind, the barest client in front. Of each request the server's own time to the first token is known,
so what a door adds is what the client saw less that, less the same without a door. Doors come by turns; two loads:
`paced`, where neither side is near its limit, and `full`, where the server sends as fast as it can.
"""

import argparse
import itertools
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.errors import BenchError
from bench.golden.running import golden
from bench.studies.chaos.doors import Door, Replica, opened
from bench.studies.chaos.peers import PEERS, program
from bench.studies.clients.measure import FILES, ROOT, Watch
from bench.studies.clients.seen import compare, from_lines, main_part, spent_s, window
from monitoring.machine import describe

DIRECT, OURS = "direct", "gateway"
DOORS = (DIRECT, OURS, "haproxy alone", "nginx by default")
TOKENS, LATE_S = 64, 300.0
# What the issue of a gateway must hold: added at 64 users, share of the direct chunks.
P50_MAX_S, P99_MAX_S, SHARE_MIN = 0.001, 0.005, 0.9


@dataclass(frozen=True)
class Load:
    """A closed load. `gap_s` 0: the server sends as fast as it can."""

    name: str
    users: int
    requests: int
    ttft_s: float
    gap_s: float


LOADS = (Load("paced", 64, 640, 0.1, 0.02), Load("full", 64, 1280, 0.01, 0.0))


def cell(kind: str, load: Load) -> dict[str, Any]:
    """One load through one door: what the client saw beside what the server did, and the door's processor time."""
    with tempfile.TemporaryDirectory(prefix="nbridge-overhead-") as name:
        folder = Path(name)
        words = (f"ttft_s={load.ttft_s}", f"gap_s={load.gap_s}", "jitter=0.3", f"output_tokens={TOKENS}")
        with golden(folder / "golden.jsonl", *words) as server, _door(kind, folder, server.url) as door:
            out = folder / "seen.jsonl"
            argv = [str(out), str(load.users), str(load.requests), str(TOKENS)]
            command = [sys.executable, "-m", "bench.studies.clients.bare", "raw", door.url, *argv]
            watched = Watch(door.process.pid) if door.process is not None else nullcontext()
            with watched as spent, Watch(server.process.pid) as served:
                done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=LATE_S, check=False)
            if done.returncode or not out.exists():
                return {"error": f"the client ended with status {done.returncode}: {done.stderr[-500:]}"}
            seen = from_lines(out.read_text(encoding="utf-8").splitlines())
            log = server.log()
    # Canaries of the agent are in the server's log, too, and have no such name; a peer may give its own.
    named = [entry for entry in log if re.fullmatch(r"r\d+", str(entry["request_id"]))]
    entries = named if len(named) == load.requests else main_part(log, load.requests)
    figures = compare(seen, entries, load.requests)
    begin_s, end_s = window(entries)
    chunks = figures["chunks"]
    cpu_s = spent_s(spent.samples, begin_s, end_s) if isinstance(spent, Watch) else None
    return {
        "ok": figures["requests"]["ok"],
        "lost": load.requests - figures["requests"]["ok"],
        "beyond_server_s": figures["ttft_bias"],
        "chunks_per_s": chunks / (end_s - begin_s),
        "coalesced": figures["coalesced"],
        "door_cpu_s": cpu_s,
        "door_cpu_us_per_chunk": None if cpu_s is None else cpu_s / chunks * 1e6,
        "server_cpu_share": spent_s(served.samples, begin_s, end_s) / (end_s - begin_s),
    }


@contextmanager
def _door(kind: str, folder: Path, url: str) -> Iterator[Door]:
    if kind == DIRECT:
        yield Door(kind, url, folder)
        return
    replica = Replica("a", folder, urlsplit(url).port or 0)
    with opened(kind, folder, [replica], "golden") as door:
        yield door


def summary(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per load and door, over rounds: medians, and what a door adds to (or takes from) none in the same round."""
    found = []
    for load, kind in dict.fromkeys((one["load"], one["door"]) for one in cells):
        own = {one["round"]: one for one in cells if (one["load"], one["door"]) == (load, kind) and "error" not in one}
        direct = {
            one["round"]: one for one in cells if (one["load"], one["door"]) == (load, DIRECT) and "error" not in one
        }
        both = sorted(own.keys() & direct.keys())
        found.append(
            {
                "load": load,
                "door": kind,
                "rounds": len(own),
                "lost": sum(one["lost"] for one in own.values()),
                "added_p50_s": _median(_less(own[n], direct[n], "median_s") for n in both),
                "added_p99_s": _median(_less(own[n], direct[n], "p99_s") for n in both),
                "chunks_per_s": _median(one["chunks_per_s"] for one in own.values()),
                "share_of_direct": _median(own[n]["chunks_per_s"] / direct[n]["chunks_per_s"] for n in both),
                "cpu_us_per_chunk": _median(one["door_cpu_us_per_chunk"] for one in own.values()),
            }
        )
    return found


def _less(own: Mapping[str, Any], direct: Mapping[str, Any], which: str) -> float | None:
    mine, none = own["beyond_server_s"][which], direct["beyond_server_s"][which]
    return None if mine is None or none is None else mine - none


def _median(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def table(document: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    heads = [
        "load",
        "door",
        "added to the first token, p50",
        "p99",
        "chunks/s",
        "of direct",
        "µs of CPU a chunk",
        "lost",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for one in document["summary"]:
        added = [None if one["door"] == DIRECT else one[key] for key in ("added_p50_s", "added_p99_s")]
        cells = [one["load"], one["door"], *(None if s is None else f"{s * 1000:+.2f} ms" for s in added)]
        rate, share, cpu = one["chunks_per_s"], one["share_of_direct"], one["cpu_us_per_chunk"]
        cells += [None if rate is None else f"{rate:,.0f}", None if share is None else f"{share:.0%}"]
        cells += [None if cpu is None else f"{cpu:.0f}", one["lost"]]
        lines.append("| " + " | ".join("–" if value is None else str(value) for value in cells) + " |")
    return "\n".join([*lines, "", *(f"- {goal}" for goal in goals(document["summary"]))]) + "\n"


def goals(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was to be reached, and whether it was."""
    by = {(one["load"], one["door"]): one for one in rows}

    def value_of(load: str, door: str, key: str) -> float | None:
        row = by.get((load, door))
        return None if row is None else row[key]

    said = []
    for words, value, most in (
        ("added at 64 users, p50 ≤ 1 ms", value_of("paced", OURS, "added_p50_s"), P50_MAX_S),
        ("added at 64 users, p99 ≤ 5 ms", value_of("paced", OURS, "added_p99_s"), P99_MAX_S),
        ("≥ 90 % of the direct chunks/s", value_of("full", OURS, "share_of_direct"), None),
    ):
        holds = value is not None and (value >= SHARE_MIN if most is None else value <= most)
        said.append(f"{words}: {'not measured' if value is None else 'yes' if holds else 'NO'}")
    ours, theirs = (value_of("full", door, "cpu_us_per_chunk") for door in (OURS, "litellm"))
    if ours and theirs:
        said.append(f"chunks per core beside LiteLLM: {theirs / ours:.1f} times (≥ 10 wanted)")
    return said


def main() -> None:
    """Measure by turns and write down after each cell."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--out", type=Path, default=Path("runs/gateway-overhead"), help="folder for the results")
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--doors", nargs="*", default=list(DOORS), choices=DOORS)
    asked.add_argument("--peers", default="", help=f"also {', '.join(PEERS)}, separated by commas")
    asked.add_argument("--loads", nargs="*", default=[one.name for one in LOADS], choices=[one.name for one in LOADS])
    asked.add_argument("--scale", type=float, default=1.0, help="share of the requests, to try it")
    options = asked.parse_args()
    others = [name for name in options.peers.split(",") if name]
    if unknown := sorted(set(others) - set(PEERS)):
        raise SystemExit(f"--peers {unknown[0]}: expected {', '.join(PEERS)}")
    for name in others:
        program(name)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES if hard == resource.RLIM_INFINITY else min(FILES, hard), hard))
    document: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "loads": [vars(one) for one in LOADS if one.name in options.loads],
        "cells": [],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    kinds = [*options.doors, *others]
    for number, load in itertools.product(range(1, options.rounds + 1), (o for o in LOADS if o.name in options.loads)):
        turn = (number - 1) % len(kinds)
        few = Load(
            load.name, load.users, max(load.users, round(load.requests * options.scale)), load.ttft_s, load.gap_s
        )
        for kind in kinds[turn:] + kinds[:turn]:
            try:
                found = cell(kind, few)
            except (BenchError, subprocess.TimeoutExpired) as error:
                found = {"error": str(error)}
            about = {"load": load.name, "door": kind, "round": number, "load_average": round(os.getloadavg()[0], 1)}
            document["cells"].append({**about, **found})
            document["summary"] = summary(document["cells"])
            sys.stderr.write(f"{number} {load.name:<6} {kind:<17} {found}\n")
            (options.out / "overhead.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            (options.out / "overhead.md").write_text(table(document), encoding="utf-8")
    sys.stdout.write(table(document))


if __name__ == "__main__":
    main()
