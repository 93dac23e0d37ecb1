"""How near to the truth a search comes: whole searches on golden servers whose limit is known, and many simulated ones.

    python -m bench.studies.capacity.study --minutes 9            # searches until there are ten of each limit
    python -m bench.studies.capacity.study --publish reports/published/cpu-2-cores-capacity

The golden server takes up at most `limit` requests a second, so equal gaps between arrivals are carried up to exactly
that rate. Poisson arrivals queue before it: what they may come to is what the simulation says.
"""

import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.errors import BenchError
from bench.golden.running import golden
from bench.studies.capacity.page import page, summary
from bench.studies.capacity.simulated import searches
from monitoring.machine import describe

ROOT = Path(__file__).parents[3]
LIMITS_RPS = (10.0, 40.0, 160.0)
SLO = "ttft_p95<0.5,errors<0.01"
SERVER = ("ttft_s=0.05", "gap_s=0.005", "output_tokens=8")
SEARCH_S = 420.0  # at most, of the longest
SIMULATED = 100

Json = dict[str, Any]


def search(limit_rps: float, arrival: str) -> Json:
    """One search on a golden server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "golden.jsonl"
        with golden(log, *SERVER, "--limit-rps", f"{limit_rps:g}") as server:
            argv = [sys.executable, "-m", "nbridge", "capacity", "--target", server.url, "--slo", SLO, "--json"]
            argv += ["--arrival", arrival, "--no-report", "--out", str(Path(folder) / "runs")]
            done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
        if not done.stdout:
            raise BenchError(f"A search ended with status {done.returncode} and said: {done.stderr[-500:]}")
        document = json.loads(done.stdout)
    (answer,) = document["capacity"]
    points = [cell["point"] for cell in document["cells"] if cell["point"]["level"] is not None]
    return {
        "limit_rps": limit_rps,
        "arrival": arrival,
        "began": document["created"],
        "exit_code": done.returncode,
        **{name: answer[name] for name in ("ended", "low", "value", "high", "limiting", "goodput_rps", "took_s")},
        "points": [{name: point.get(name) for name in ("level", "verdict", "why")} for point in points],
    }


def main(
    count: Annotated[int, typer.Option(min=0, help="Searches of each limit.")] = 10,
    arrival: Annotated[str, typer.Option(help="constant or poisson.")] = "constant",
    results: Annotated[Path, typer.Option(help="File that searches go to; those in it are not made again.")] = Path(
        "runs/capacity.jsonl"
    ),
    minutes: Annotated[float, typer.Option(min=0, help="Begin no search that may end later than that.")] = 1e6,
    simulate: Annotated[bool, typer.Option(help="Simulated searches, too, with --publish.")] = True,
    publish: Annotated[Path | None, typer.Option(help="Folder for capacity.json and README.md.")] = None,
) -> None:
    """Make the searches that are not made yet, one of each limit at a time, then print what all came to."""
    console = Console(stderr=True, highlight=False)
    results.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * minutes - SEARCH_S
    while time.monotonic() < until:
        done = read(results)
        todo = [limit for limit in LIMITS_RPS if sum(_is(one, limit, arrival) for one in done) < count]
        if not todo:
            break
        with ThreadPoolExecutor(len(todo)) as pool:
            for found in pool.map(lambda limit: search(limit, arrival), todo):
                with results.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(found, ensure_ascii=False) + "\n")
                console.print(f"{found['limit_rps']:g} requests/s, {arrival}: {found['value']} ({found['ended']})")
    document: Json = {"slo": SLO, "server": list(SERVER), "searches": read(results), "environment": describe()}
    if publish is not None and simulate:
        document["simulated"] = [
            searches(limit, kind, SLO, SIMULATED) for kind in ("constant", "poisson") for limit in LIMITS_RPS
        ]
    text = page(document)
    if publish is not None:
        publish.mkdir(parents=True, exist_ok=True)
        (publish / "capacity.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        (publish / "README.md").write_text(text)
    typer.echo(text if publish is None else json.dumps(summary(document["searches"])))


def read(results: Path) -> list[Json]:
    """The searches that were made before."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def _is(one: Json, limit_rps: float, arrival: str) -> bool:
    return bool(one["limit_rps"] == limit_rps and one["arrival"] == arrival)


if __name__ == "__main__":
    typer.run(main)
