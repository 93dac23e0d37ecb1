"""One cell from its inputs to its result: the load is driven, and what was recorded is brought home and judged."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.cell.inputs import make_requests, write_inputs
from bench.cell.judgement import judge
from bench.cell.locust_process import ENOUGH, Enough, Machines, drive, record_files
from bench.client import pages
from bench.errors import PlanError
from bench.plans.loads import Load
from bench.run import records, store
from bench.run.counting import counter
from bench.target import Target
from monitoring.sampler import Reading, Sampler
from monitoring.scrape import metrics as metrics_page


def measure(
    run_dir: Path,
    cell: dict[str, Any],
    target: Target,
    load: Load,
    *,
    slo: dict[str, float] | None,
    timeout_s: float,
    seed: int | None = None,
    machines: Machines | None = None,
    tick: Callable[[int], None] = lambda _: None,
    enough: Enough | None = None,
) -> None:
    """Measure one cell and write the result into `cell`: outcome, reason, metrics, reconciliation, validity.

    `machines` are to carry the load in place of this one; `seed` (the repeat's number unless given) sets prompts and
    arrivals apart from those of the same load elsewhere. `enough` is shown the records as they come; what it returns
    ends the load early (`ended_early`), and what is in flight then is aborted. `tick` is told how many requests have
    ended. On KeyboardInterrupt the load is stopped, what was recorded stays on disk, and the interrupt goes on.
    """
    folder = store.cell_dir(run_dir, cell["id"])
    seed = cell["repeat"] if seed is None else seed
    store.require_room(folder)
    with store.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        made = make_requests(target, load, seed)
    except PlanError as error:
        cell["outcome"], cell["reason"] = "unsupported", str(error)
        return
    if made.said and made.said not in (cell.get("prompts") or ""):
        cell["prompts"] = f"{cell['prompts']}; {made.said}" if cell.get("prompts") else made.said
    load_path = write_inputs(folder, target, load, seed, made, machines=machines is not None)
    del made  # the load generator has its own; a long trace's prompts would stay in memory beside it
    sampler = Sampler(target.base_url, target.pids, read=partial(_metrics, target))
    stopped = drive(folder, load_path, target, load, timeout_s, sampler, tick, enough, machines)
    phase = _read_phase(folder / "phase.json")
    tokenizer = target.settings.tokenizer
    table = _collect(folder, phase, sampler.readings, counter(tokenizer) if tokenizer else None)
    samples = store.Run(run_dir, {}).samples(cell["id"])
    judge(cell, table, load, phase, samples, slo, tokenizer)
    cell["ended_early"] = stopped[1] if stopped is not None and stopped[0] == ENOUGH else None
    if cell["ended_early"]:
        return
    if stopped is not None:
        cell["outcome"], cell["reason"] = stopped
    elif phase.get("stopped"):
        cell["outcome"], cell["reason"] = "failed", f"The load generator gave up: {phase['stopped']}"
    elif cell["outcome"] == "failed" and (death := target.failure()):
        cell["outcome"], cell["reason"] = death


def _read_phase(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _metrics(target: Target) -> str:
    page = pages.metrics(target.address(), timeout_s=2.0)
    if page is None:
        raise metrics_page.MetricsError(f"{target.base_url} has no metrics page")
    return page


def _collect(
    folder: Path, phase: dict[str, Any], readings: list[Reading], count: records.Amend | None = None
) -> pa.Table:
    """Turn a cell's raw files into requests.parquet, samples.parquet and two metrics pages; returns the requests."""
    sources = record_files(folder)
    zero = phase.get("zero")
    if zero is None:  # the load generator was killed before it could say: the first measured request then sets the zero
        zero = min((r["sent"] for s in sources for r in _measured(s) if r.get("sent") is not None), default=0.0)
    with store.explained(folder):
        records.write_parquet(sources, folder / "requests.parquet", zero, count)
        _write_samples(readings, folder / "samples.parquet", zero)
        for name in ("metrics_before", "metrics_after"):
            if phase.get(name):
                (folder / f"{name}.prom").write_text(phase[name], encoding="utf-8")
    for path in [*sources, folder / "prompts.jsonl", folder / "load.json", folder / "phase.json"]:
        path.unlink(missing_ok=True)
    return pq.read_table(folder / "requests.parquet", pre_buffer=False)


def _measured(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        return [record for record in records.parse_lines(lines) if not record.get("warmup")]


def _write_samples(readings: list[Reading], path: Path, zero: float) -> None:
    if not readings:
        return
    table = pa.table(
        {
            "t_s": [reading.at_s - zero for reading in readings],
            "source": [reading.source for reading in readings],
            "name": [reading.name for reading in readings],
            "labels": [reading.labels for reading in readings],
            "value": [reading.value for reading in readings],
        }
    )
    pq.write_table(table, path, compression="zstd")


def set_aside(run_dir: Path, cell_id: str) -> Path | None:
    """Move what an earlier attempt at a cell left behind aside, keeping it; None if nothing is there."""
    folder = store.cell_dir(run_dir, cell_id)
    if not folder.exists():
        return None
    number = 1
    while (kept := folder.with_name(f"{cell_id}{store.SET_ASIDE}{number}")).exists():
        number += 1
    shutil.move(folder, kept)
    return kept
