"""`make bench-client`: our client beside others on the golden server.

Per cell, one client drives one closed load against a fresh golden server. Clients come by turns within a point, points
within a round, so that a drift of the machine falls on all of them; the order turns from round to round. Figures: see
docs/golden.md.

    python -m bench.studies.clients.study --peers vllm,guidellm,aiperf --minutes 9   # until all is done
    python -m bench.studies.clients.study --peers … --publish reports/published/cpu-2-cores-clients
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.errors import BenchError, PlanError
from bench.studies.clients import measure, peers
from bench.studies.clients.page import NAMES, goals, page, point_of
from bench.studies.clients.points import ALL, MAIN, Point
from checkpoints.prepare import prepare
from monitoring.machine import describe

LATE = "lateness"  # the open load, in place of a client
START_S = {"nbridge": 8.0, "fasthttp": 6.0, "vllm": 20.0, "guidellm": 25.0, "aiperf": 25.0}  # imports, and the end
Todo = tuple[str, Point | None, int]


def plan(clients: list[str], rounds: int, others: int, picked: list[Point]) -> Iterator[Todo]:
    """What is to be measured, in order: (client, point, round); the point of `LATE` is None."""
    for number in range(1, max(rounds, others) + 1):
        for point in picked:
            if number <= (rounds if point in MAIN else others):
                turn = (number - 1) * 3 % len(clients)
                for client in clients[turn:] + clients[:turn]:
                    yield client, point, number
        if number <= rounds and "nbridge" in clients:
            yield LATE, None, number


def todo_of(cell: dict[str, Any]) -> Todo:
    """What a cell of the results file has measured."""
    return cell["client"], None if cell["client"] == LATE else point_of(cell), cell["round"]


def main(
    with_peers: Annotated[str, typer.Option("--peers", help="Also: vllm, guidellm, aiperf, separated by commas.")] = "",
    only: Annotated[str, typer.Option(help="Only these clients.")] = "",
    points: Annotated[
        str, typer.Option(help="Only these: USERSxTOKENS, with b beside spinning processes: 32x1,256x4b.")
    ] = "",
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of the main points.")] = 3,
    others: Annotated[int, typer.Option(min=0, help="Rounds of the other points.")] = 1,
    results: Annotated[Path, typer.Option(help="File that cells go to; those in it are not measured again.")] = Path(
        "runs/clients.jsonl"
    ),
    minutes: Annotated[float, typer.Option(min=0, help="Begin no cell that would end later than that.")] = 1e6,
    publish: Annotated[Path | None, typer.Option(help="Folder for clients.json and README.md.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the document instead of the tables.")] = False,
) -> None:
    """Measure what is not measured yet, then print the tables."""
    console = Console(stderr=True, highlight=False)
    names, picked = _clients(with_peers, only), _points(points)
    for name in [name for name in names if name in peers.PEERS]:
        peers.program(name, console.print)
    results.parent.mkdir(parents=True, exist_ok=True)
    done = {todo_of(cell) for cell in _read(results)}
    todo = [one for one in plan(names, rounds, others, picked) if one not in done]
    left = _measure(todo, results, minutes, console)
    if left:
        console.print(f"{left} cells are left; the same command goes on with them.")
    cells = _read(results)
    document: dict[str, Any] = {
        "cells": [cell for cell in cells if cell["client"] != LATE],
        "lateness": [cell for cell in cells if cell["client"] == LATE],
        "peers": {name: peers.version(name) for name in names if name in peers.PEERS},
        "environment": describe(),
    }
    document["goals"] = goals(document["cells"], document["lateness"])
    text = page(document["cells"], document["lateness"])
    if publish is not None:
        publish.mkdir(parents=True, exist_ok=True)
        (publish / "clients.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        (publish / "README.md").write_text(_head(document) + text, encoding="utf-8")
    sys.stdout.write((json.dumps(document) if as_json else text) + "\n")


def _measure(todo: list[Todo], results: Path, minutes: float, console: Console) -> int:
    """Measures until all is done or time is up; each cell is written as it ends. How many are left."""
    tokenizer, began_s = Path(prepare("demo-1m").path), time.monotonic()
    for number, (client, point, in_round) in enumerate(todo):
        takes_s = START_S.get(client, 4.0) + (point.seconds if point else 20.0)
        if time.monotonic() - began_s + takes_s > minutes * 60:
            return len(todo) - number
        about = {"round": in_round, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        about["load_average_1min"] = round(os.getloadavg()[0], 2)
        if point is None:
            cell = {"client": client, **about, **measure.lateness()}
        else:
            figures = measure.cell(client, point, tokenizer, console.print)
            cell = {"client": client, **asdict(point), **about, **figures}
        with results.open("a", encoding="utf-8") as out:
            out.write(json.dumps(cell) + "\n")
        console.print(f"{number + 1} of {len(todo)}: {_line(cell, point)}", markup=False, soft_wrap=True)
    return 0


def _line(cell: dict[str, Any], point: Point | None) -> str:
    where = f"{cell['client']}, {point or 'open load'}, round {cell['round']}"
    if "error" in cell:
        return f"{where}: {cell['error']}"
    if point is None:
        return f"{where}: dispatch lateness p99 {1000 * cell['says']['dispatch_lateness_p99_s']:.2f} ms"
    bias_s = cell["ttft_bias"]["median_s"]
    bias = "no TTFT" if bias_s is None else f"TTFT bias {bias_s * 1000:+.2f} ms"
    return f"{where}: {cell['client_cpu_us_per_chunk']:.1f} µs a chunk, {bias}"


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _clients(with_peers: str, only: str) -> list[str]:
    asked = [name for name in with_peers.split(",") if name]
    if unknown := [name for name in asked if name not in peers.PEERS]:
        raise PlanError(f"--peers {unknown[0]}: known are {', '.join(peers.PEERS)}.")
    names = [*measure.OWN, *asked]
    wanted = [name for name in only.split(",") if name]
    if unknown := [name for name in wanted if name not in names]:
        raise PlanError(f"--only {unknown[0]}: here are {', '.join(names)}; others need --peers.")
    return [name for name in names if not wanted or name in wanted]


def _points(text: str) -> list[Point]:
    known = {f"{point.users}x{point.per_event}{'b' if point.busy else ''}": point for point in ALL}
    wanted = [name for name in text.split(",") if name]
    if unknown := [name for name in wanted if name not in known]:
        raise PlanError(f"--points {unknown[0]}: known are {', '.join(known)}.")
    return [known[name] for name in wanted] or list(ALL)


def _head(document: dict[str, Any]) -> str:
    environment = document["environment"]
    cpu, packages = environment["cpu"], environment["packages"]
    tools = [f"{NAMES[name]} {version}" for name, version in document["peers"].items()]
    return (
        "# Our client beside others\n\n"
        f"On {cpu['cores']} cores of {cpu['model']}, Python {environment['python']}, Locust {packages.get('locust')}"
        f"{''.join(f', {tool}' for tool in tools)}. Client and golden server share the machine.\n"
        "What each column means, and how it was measured: [the golden server]"
        "(../../../docs/golden.md#our-client-beside-others).\nEvery cell with all its figures is in "
        "[clients.json](clients.json). Median over the rounds, with the least and the greatest.\n\n"
    )


if __name__ == "__main__":
    try:
        typer.run(main)
    except BenchError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
