"""What the GPU exporter costs: part of `make bench-monitoring`. Eight GPUs of a fake driver, collected once a second.

The exporter runs as a user runs it, with the test suite's stand-in for NVML in place of NVIDIA's library, so these
figures hold everything but the driver's own time (a real one sleeps 20 ms in each of two PCIe counts per GPU, and takes
what it takes for the rest).

1. Processor time while nobody scrapes: the collection alone.
2. … while one scrape comes each second.
3. Time of a scrape, from sending the request to the page's last byte, one after the other on one connection; beside
   it the same for a page of a few bytes, which shows what the machine's other work adds.
4. The same while one GPU's calls hang in the driver and it counts as down.
"""

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.table import Table

from bench.errors import BenchError
from monitoring.machine import describe
from monitoring.scrape.metrics import parse, total

SOURCE = Path(__file__).parents[2] / "tests" / "monitoring" / "fake_nvml.c"
GPUS = 8
HANGING = 3
PATIENCE_S = 300.0  # with an exporter on a busy machine; only guards against one that hangs
PAUSE_S = 0.02  # between two scrapes: they fall on every moment of a collection
GOAL_P99_S, GOAL_CPU_SHARE = 0.005, 0.01


class MissingCompiler(BenchError):
    exit_code = 3


def fake_driver(folder: Path, *defines: str) -> Path:
    """The folder for LD_LIBRARY_PATH, with the fake `libnvidia-ml.so.1` compiled into it."""
    if not SOURCE.exists():
        raise MissingCompiler(f"{SOURCE} is not here: run this in a checkout of the project, not in an installation.")
    compiler = shutil.which("cc")
    if compiler is None:
        raise MissingCompiler("No C compiler (cc) is here: on Debian, apt-get install gcc.")
    folder.mkdir(parents=True, exist_ok=True)
    words = ["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1", "-pthread"]
    output = ["-o", str(folder / "libnvidia-ml.so.1"), str(SOURCE)]
    done = subprocess.run(
        [compiler, *words, *(f"-D{name}" for name in defines), *output], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"{SOURCE.name} does not compile: {done.stderr.strip()}")
    return folder


@dataclass
class Exporter:
    """A running `nbridge exporter` over the fake driver. `order` replaces what the fake is told to do."""

    base_url: str
    process: subprocess.Popen[str]
    orders: Path
    _connection: http.client.HTTPConnection

    def order(self, *lines: str) -> None:
        fresh = self.orders.with_suffix(".new")
        fresh.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        fresh.replace(self.orders)

    def get(self, path: str = "/metrics") -> str:
        self._connection.request("GET", path)
        return self._connection.getresponse().read().decode()

    def wait(self, holds: Callable[[str], bool], timeout_s: float = PATIENCE_S) -> str:
        """The first page that satisfies `holds`. Raises BenchError after `timeout_s`."""
        until_s = time.monotonic() + timeout_s
        while not holds(page := self.get()):
            if time.monotonic() > until_s:
                raise BenchError(f"the exporter did not come to the state that was asked for; its page:\n{page}")
            time.sleep(PAUSE_S)
        return page

    def end(self) -> int:
        """Ask it to end, by SIGTERM, and give its exit code."""
        self.process.terminate()
        return self.process.wait(timeout=PATIENCE_S)

    def cpu_s(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def exporter(driver: Path, folder: Path, *options: str) -> Iterator[Exporter]:
    """`nbridge exporter` with the library in `driver`, listening; ended with the context."""
    orders = folder / "orders"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver), "FAKE_NVML": str(orders)}
    argv = [sys.executable, "-m", "nbridge", "exporter", "--port", "0", "--json", *options]
    with (folder / "exporter.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        if process.stdout is None or not (line := process.stdout.readline()):
            raise BenchError(f"the exporter did not start: {(folder / 'exporter.log').read_text(encoding='utf-8')}")
        document = json.loads(line)
        where = urlsplit(document["base_url"])
        connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            yield Exporter(document["base_url"], process, orders, connection)
    finally:
        process.kill()  # it holds nothing that an orderly end would save
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def up(count: int) -> Callable[[str], bool]:
    """Does a page say that `count` GPUs are up?"""
    return lambda page: total(parse(page), "nbridge_gpu_up", mig="") == count


def scrapes(running: Exporter, count: int) -> dict[str, Any]:
    """p50, p99 and the longest of `count` scrapes in seconds, and of as many requests for a page of a few bytes.

    Both come in turn: what the machine's other work adds to the one, it adds to the other.
    """
    seconds: dict[str, list[float]] = {"/metrics": [], "/health": []}
    for _ in range(count):
        for path, found in seconds.items():
            began_s = time.perf_counter()
            running.get(path)
            found.append(time.perf_counter() - began_s)
            time.sleep(PAUSE_S / 2)
    return {**_percentiles(seconds["/metrics"]), "scrapes": count, "empty_page": _percentiles(seconds["/health"])}


def _percentiles(seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"p50_s": float(p50), "p99_s": float(p99), "longest_s": max(seconds)}


def cpu_share(running: Exporter, seconds: float, *, scraping: bool) -> float:
    """The share of one core that the exporter takes for `seconds`, with one scrape a second or none."""
    before_s, began_s = running.cpu_s(), time.monotonic()
    while (left_s := began_s + seconds - time.monotonic()) > 0:
        if scraping:
            running.get()
        time.sleep(min(1.0, left_s))
    return (running.cpu_s() - before_s) / (time.monotonic() - began_s)


def run(folder: Path, *, seconds: float, count: int) -> dict[str, Any]:
    """All measurements as one document."""
    load_before = os.getloadavg()[0]
    with exporter(fake_driver(folder / "driver"), folder, "--interval", "1", "--deadline", "1") as running:
        running.wait(up(GPUS))
        page = running.get()
        quiet, scraped = cpu_share(running, seconds, scraping=False), cpu_share(running, seconds, scraping=True)
        well = scrapes(running, count)
        running.order(f"hang {HANGING}")
        running.wait(up(GPUS - 1))
        hanging = scrapes(running, count)
        resident = psutil.Process(running.process.pid).memory_info().rss
        running.order()
    return {
        "gpus": GPUS,
        "interval_s": 1,
        "series": len(parse(page)),
        "page_bytes": len(page),
        "cpu_share": {"collecting": quiet, "collecting_and_one_scrape_per_second": scraped, "seconds": seconds},
        "scrape": {"well": well, "one_gpu_hangs": hanging},
        "resident_bytes": resident,
        "goals": {
            "scrape_p99_s": {"at_most": GOAL_P99_S, "met": max(well["p99_s"], hanging["p99_s"]) <= GOAL_P99_S},
            "cpu_share": {"below": GOAL_CPU_SHARE, "met": scraped < GOAL_CPU_SHARE},
        },
        "load_average_1min": {"before": load_before, "after": os.getloadavg()[0]},
        "environment": describe(),
    }


def table(document: dict[str, Any]) -> Table:
    rows = Table("8 fake GPUs, collected at 1 Hz", "measured", "goal", "", box=None, pad_edge=False)
    marks = {True: "met", False: "MISSED"}
    goals, cpu = document["goals"], document["cpu_share"]
    for name, key in (("all well", "well"), ("one GPU hangs", "one_gpu_hangs")):
        times = document["scrape"][key]
        rows.add_row(f"scrape p50, {name}", f"{times['p50_s'] * 1e3:.2f} ms")
        met = marks[times["p99_s"] <= GOAL_P99_S]
        rows.add_row(f"scrape p99, {name}", f"{times['p99_s'] * 1e3:.2f} ms", f"≤ {GOAL_P99_S * 1e3:g} ms", met)
        empty = times["empty_page"]
        rows.add_row(
            "  an empty page beside it, p50, p99", f"{empty['p50_s'] * 1e3:.2f} ms, {empty['p99_s'] * 1e3:.2f} ms"
        )
    rows.add_row("one core, nobody scrapes", f"{cpu['collecting']:.2%}")
    share = cpu["collecting_and_one_scrape_per_second"]
    rows.add_row(
        "one core, one scrape per second", f"{share:.2%}", f"< {GOAL_CPU_SHARE:.0%}", marks[goals["cpu_share"]["met"]]
    )
    rows.add_row("resident memory", f"{document['resident_bytes'] / 2**20:.0f} MiB")
    rows.add_row("page", f"{document['series']} series, {document['page_bytes'] / 1e3:.0f} kB")
    return rows


def main(
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of each measurement of processor time.")] = 30.0,
    count: Annotated[int, typer.Option("--scrapes", min=1000, help="Scrapes of each kind.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON document into this file.")] = None,
) -> None:
    """Measure what the GPU exporter costs; a table on stderr, one JSON document on stdout."""
    with tempfile.TemporaryDirectory() as name:
        document = run(Path(name), seconds=seconds, count=count)
    text = json.dumps(document, indent=2)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
    Console(stderr=True, highlight=False).print(table(document))
    print(text)  # noqa: T201


if __name__ == "__main__":
    typer.run(main)
