"""The same loads on servers of different make, one after the other, as anybody measures them: `make bench-servers`.

Each make serves the trained demo model on the loopback address, alone on the machine and on half of its cores, and
`nbridge bench --target` measures it with one plan from the other half. What was learnt of each and what was measured
stand beside each other in reports/published/servers.json; the table goes into docs/servers.md. A make that needs
packages of its own gets a virtual environment of its own (`--environments`), from the package index.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.errors import BenchError
from bench.run import store
from bench.studies.servers.makes import MAKES, MODEL, environment_of, halves, on, running, version
from checkpoints.prepare import prepare
from inputs.quantities import count, number, seconds
from monitoring.machine import describe

ROOT = Path(__file__).parents[3]
FIGURES = ROOT / "reports" / "published" / "servers.json"
PLAN = """
name = "servers"

[defaults.load]
scenario = "chat"
prompt_tokens = 64
output_tokens = 32

[[loads]]
concurrency = 1
requests = 100

[[loads]]
concurrency = 4
requests = 200
"""
_METRICS = ("requests", "window_s", "output_throughput_tok_s", "output_tokens", "prompt_tokens")
_TIMES = ("ttft_s", "tpot_s", "e2e_s")
console = Console(stderr=True, highlight=False)


def measure(name: str, model: Path, programs: Path, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """One make's line: its version, what was learnt of it, and each cell's figures. Raises BenchError."""
    make = MAKES[name]
    (folder / "plan.toml").write_text(PLAN, encoding="utf-8")
    say(f"{make.title}: starting")
    with running(name, model, folder, programs) as (url, key):
        command = [sys.executable, "-m", "nbridge", "bench", str(folder / "plan.toml"), "--target", url, "--json"]
        command += ["--no-report", "--out", str(folder / "runs"), *make.said(model)]
        command += [part for variable in key for part in ("--api-key-env", variable)]
        environment = {**os.environ, **key}
        command = on(halves()[1], command)
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment, check=False)
    if not ended.stdout.strip():
        raise BenchError(f"{make.title} was not measured: see above.")
    run = json.loads(ended.stdout)
    return {
        "make": name,
        "title": make.title,
        "version": version(name, programs),
        "before": make.before,
        "learnt": run["target"]["learnt"],
        "notes": run["target"]["dialect"]["notes"],
        "cells": [_cell(cell) for cell in run["cells"]],
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average_1min_after": os.getloadavg()[0],
    }


def _cell(cell: dict[str, Any]) -> dict[str, Any]:
    metrics, reconciled = cell.get("metrics") or {}, cell.get("reconciliation") or {}
    return {
        "load": cell["load"]["name"],
        "concurrency": cell["load"]["concurrency"],
        "outcome": cell["outcome"],
        "reason": cell["reason"],
        **{name: metrics.get(name) for name in (*_METRICS, *_TIMES, "absent")},
        "server_output_tokens": (reconciled.get("output_tokens") or {}).get("server"),
    }


def page(lines: list[dict[str, Any]]) -> str:
    """The table, as Markdown."""
    rows = [
        "| server | users | answers | output tokens (server's) | TTFT p50 | TPOT p50 | output tok/s | outcome |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        behind = f", before {MAKES[line['before']].title}" if line["before"] else ""
        rows += [f"| {line['title']} {line['version']}{behind} | {_row(cell)} |" for cell in line["cells"]]
    return "\n".join(rows)


def _row(cell: dict[str, Any]) -> str:
    requests, served = cell["requests"] or {}, cell["server_output_tokens"]
    rate = cell["output_throughput_tok_s"]
    return " | ".join(
        [
            str(cell["concurrency"]),
            f"{requests.get('ok', 0)} of {requests.get('total', 0)}",
            _or_absent(cell["output_tokens"], count) + (f" ({count(served)})" if served is not None else ""),
            *(_or_absent((cell[name] or {}).get("p50"), seconds) for name in ("ttft_s", "tpot_s")),
            _or_absent(rate, number),
            cell["outcome"] + (f": {cell['reason']}" if cell["reason"] else ""),
        ]
    )


def _or_absent(value: float | None, write: Callable[[float], str]) -> str:
    return "absent" if value is None else write(value)


def main(
    only: Annotated[list[str] | None, typer.Argument(help=f"Makes; all by default: {', '.join(MAKES)}.")] = None,
    environments: Annotated[Path, typer.Option(help="Where foreign servers' virtual environments lie.")] = Path(
        ".servers"
    ),
    out: Annotated[Path, typer.Option(help="The file that is written; makes not measured now keep their lines.")] = (
        FIGURES
    ),
) -> None:
    """Start each make, measure it, write the figures, print the table."""
    if unknown := set(only or ()) - set(MAKES):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: known are {', '.join(MAKES)}.")
    model = Path(prepare(MODEL, progress=console.print).path)
    programs = {name: environment_of(name, environments.absolute(), console.print) for name in only or MAKES}
    known: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))["servers"] if out.exists() else []
    lines = {line["make"]: line for line in known}
    for name, where in programs.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                lines[name] = measure(name, model, where, Path(folder), console.print)
            except BenchError as error:
                console.print(str(error), markup=False)
    ordered = [lines[name] for name in MAKES if name in lines]
    store.write_json(
        out, {"model": f"{MODEL}, as stored", "plan": PLAN.strip(), "environment": describe(), "servers": ordered}
    )
    sys.stdout.write(page(ordered) + "\n")


if __name__ == "__main__":
    typer.run(main)
