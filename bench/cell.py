"""One cell: drive one load against one running server with Locust, and bring home what was recorded."""

import json
import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.client import pages
from bench.errors import PlanError, StorageError
from bench.plans.conversations import told
from bench.plans.loads import Load
from bench.plans.workload import prompts
from bench.prompts.requests import Requests, refusal, requests
from bench.run import records, stats, store
from bench.run.counting import counter
from bench.run.reconcile import Total, reconcile, reconcile_states
from bench.run.validity import dispatch_lateness, validity
from bench.target import Target
from monitoring.sampler import Reading, Sampler
from monitoring.scrape import metrics as metrics_page
from serve.processes.process import OwnedProcess

LOCUSTFILE = Path(__file__).parent / "load" / "locustfile.py"
_POLL_S = 0.2
_MAX_PROMPTS = 20_000
_WARMUP_TOKENS = 16
_STOP_GRACE_S = 15.0
_DISK_FULL_STATUS = 4
_ENOUGH = "enough"  # why a load ended early that is no outcome
_WORKERS_WAIT_S = 120

Enough = Callable[[Sequence[Mapping[str, Any]]], str | None]


@dataclass(frozen=True)
class Machines:
    """Locust workers on other machines (`nbridge worker`), and where they find the master."""

    workers: int
    host: str
    port: int

    def argv(self) -> list[str]:
        where = ["--master-bind-host", self.host, "--master-bind-port", str(self.port)]
        waiting = ["--expect-workers", str(self.workers), "--expect-workers-max-wait", str(_WORKERS_WAIT_S)]
        return ["--master", *where, *waiting]


def processes_argv(count: int) -> list[str]:
    """Locust's arguments for several processes that meet on this machine alone: its own choice is port 5557 of every
    interface, for which two loads at once would fight."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
    return ["--processes", str(count), *where]


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
    stopped = _drive(folder, load_path, target, load, timeout_s, sampler, tick, enough, machines)
    phase = _read_phase(folder / "phase.json")
    tokenizer = target.settings.tokenizer
    table = _collect(folder, phase, sampler.readings, counter(tokenizer) if tokenizer else None)
    _judge(cell, table, load, phase, sampler.readings, slo, tokenizer)
    cell["ended_early"] = stopped[1] if stopped is not None and stopped[0] == _ENOUGH else None
    if cell["ended_early"]:
        return
    if stopped is not None:
        cell["outcome"], cell["reason"] = stopped
    elif phase.get("stopped"):
        cell["outcome"], cell["reason"] = "failed", f"The load generator gave up: {phase['stopped']}"
    elif cell["outcome"] == "failed" and (death := target.failure()):
        cell["outcome"], cell["reason"] = death


def _drive(
    folder: Path,
    load_path: Path,
    target: Target,
    load: Load,
    timeout_s: float,
    sampler: Sampler,
    tick: Callable[[int], None],
    enough: Enough | None,
    machines: Machines | None,
) -> tuple[str, str] | None:
    """Run Locust to its end; (outcome or _ENOUGH, reason) when it had to be stopped before."""
    users = load.concurrency if load.kind == "closed" else machines.workers if machines else load.processes
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--host", target.base_url]
    argv += ["--users", str(users), "--spawn-rate", str(users), "--only-summary", "--exit-code-on-error", "0"]
    if machines is not None:
        argv += machines.argv()
    elif load.processes > 1:
        argv += processes_argv(load.processes)
    environment = {**os.environ, "NBRIDGE_LOAD": str(load_path), "PYTHONUNBUFFERED": "1"}
    progress = _Tail(folder)
    deadline = time.monotonic() + timeout_s
    log_path = folder / "locust.log"
    with sampler, OwnedProcess(argv, environment=environment, log_path=log_path) as locust:
        while locust.exit_status() is None:
            if store.free_bytes(folder) < store.FULL_BYTES:  # what cannot be written may also keep it from ending
                locust.stop(_STOP_GRACE_S)
                store.require_room(folder)
            if stop := _reason_to_stop(target, load, progress, deadline, timeout_s, enough):
                locust.stop(_STOP_GRACE_S)
                return stop
            tick(progress.ended)
            try:
                time.sleep(_POLL_S)
            except KeyboardInterrupt:
                locust.stop(_STOP_GRACE_S)
                raise
        tick(progress.read().ended)
        status = locust.exit_status()
    if death := target.failure():
        return death
    if status == _DISK_FULL_STATUS:
        raise StorageError(
            f"{folder}: the load generator could not write its records: {_not_written(folder, log_path)}"
        )
    if status != 0:
        return "failed", f"The load generator ended with status {status}: {_last_words(log_path)}"
    return None


def _reason_to_stop(
    target: Target, load: Load, progress: "_Tail", deadline: float, timeout_s: float, enough: Enough | None
) -> tuple[str, str] | None:
    if death := target.failure():
        return death
    silent = max(load.concurrency or 1, 3)
    if progress.read().timeouts_in_a_row >= silent:
        return "timeout", (
            f"The server stopped answering: the last {progress.timeouts_in_a_row} requests all ran into the timeout of "
            f"{load.timeout_s:g} s."
        )
    if time.monotonic() > deadline:
        return "timeout", f"The cell did not end within cell_timeout_s = {timeout_s:g} s."
    if enough is not None and (why := enough(progress.fresh)):
        return _ENOUGH, why
    return None


class _Tail:
    """Follows the records as they are written: how many ended, and how many timeouts came last without a success."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}
        self.ended = 0
        self.timeouts_in_a_row = 0
        self.fresh: list[dict[str, Any]] = []  # since the last read

    def read(self) -> "_Tail":
        self.fresh = []
        for path in record_files(self._folder):
            with path.open("rb") as source:
                source.seek(self._offsets.get(path, 0))
                data = source.read()
            complete = data.rpartition(b"\n")[0]
            self._offsets[path] = self._offsets.get(path, 0) + (len(complete) + 1 if complete else 0)
            for record in records.parse_lines(complete.decode(errors="replace").splitlines()):
                self.fresh.append(record)
                self.ended += not record.get("warmup")
                self.timeouts_in_a_row = self.timeouts_in_a_row + 1 if record.get("outcome") == "timeout" else 0
        return self


def record_files(folder: Path) -> list[Path]:
    """The JSONL files of a cell: one per Locust worker."""
    return sorted(folder.glob("requests*.jsonl"))


def _not_written(folder: Path, log_path: Path) -> str:
    """Why the load generator could not write: by its own line among all that Locust prints, else by the disk."""
    said = [
        line.strip()
        for line in log_path.read_text(errors="replace").splitlines()
        if "cannot be written" in line or "cannot be opened" in line
    ]
    if not said:
        store.require_room(folder)
        return _last_words(log_path)
    return f"{said[0]} Everything recorded before is kept; go on with `nbridge bench --resume` once it can be written."


def _last_words(log_path: Path) -> str:
    lines = [line.strip() for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-3:]) or "it said nothing"


def _read_phase(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _line(body: dict[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":")) + "\n"


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


def _judge(
    cell: dict[str, Any],
    table: pa.Table,
    load: Load,
    phase: dict[str, Any],
    readings: list[Reading],
    slo: dict[str, float] | None,
    tokenizer: str | None,
) -> None:
    """Fill in metrics, reconciliation, validity and outcome from what was recorded."""
    described = load.model_dump(mode="json")
    summary = stats.summarise(table, described, slo)
    summary["tokens_by"] = f"client ({tokenizer})" if tokenizer else "server"
    compare = reconcile_states if load.scenario == "hidden_states" else reconcile
    agreement = compare(table, _totals(phase.get("metrics_before")), _totals(phase.get("metrics_after")))
    if tokenizer:
        agreement["exact"] = None
        agreement["notes"].append(f"Output tokens were counted here, by the tokenizer {tokenizer}, not by the server.")
    summary["memory"] = {
        "server_peak_bytes": _peak(readings, "process", "memory_bytes"),
        "gpu_used_peak_bytes": _peak(readings, "gpu", "memory_used_bytes"),
    }
    summary["client"] = _client(table, phase)
    verdict = validity(table, described, summary, agreement, errors_count=not cell.get("point"))
    cell.update(metrics=summary, reconciliation=agreement, validity=verdict)
    if summary["requests"]["ok"] == 0:
        cell["outcome"], cell["reason"] = "failed", _why_none(table)
    elif verdict["valid"]:
        cell["outcome"], cell["reason"] = "ok", None
    else:
        cell["outcome"], cell["reason"] = "invalid", " ".join(verdict["reasons"])


def _client(table: pa.Table, phase: dict[str, Any]) -> dict[str, Any]:
    """What the load generator says of itself: its share of a core, how late it sent, how long it stood still, and
    what became of its clock meanwhile."""
    duration_s = (phase.get("ended") or 0) - (phase.get("zero") or 0)
    cpu_s, paused_s = phase.get("client_cpu_s"), phase.get("paused_s")
    return {
        "cpu_share": cpu_s / duration_s / max(phase.get("workers", 1), 1)
        if cpu_s is not None and duration_s > 0
        else None,
        "dispatch_lateness_p99_s": dispatch_lateness(table),
        **{name: phase.get(name) for name in ("longest_pause_s", "clock_step_s", "clock_slew")},
        "paused_share": paused_s / duration_s if paused_s is not None and duration_s > 0 else None,
        "machines": phase.get("machines"),
    }


def _peak(readings: list[Reading], source: str, name: str) -> int | None:
    """The highest value of a series, added up over its labels at each instant; None if it was never read."""
    sums: dict[float, float] = {}
    for reading in readings:
        if reading.source == source and reading.name == name:
            sums[reading.at_s] = sums.get(reading.at_s, 0.0) + reading.value
    return round(max(sums.values())) if sums else None


def _why_none(table: pa.Table) -> str:
    errors = [str(error) for error in table["error"].to_pylist() if error]
    if not len(table):
        return "No request was recorded."
    common = max(set(errors), key=errors.count) if errors else "no reason was recorded"
    return f"None of {len(table)} requests was answered. Most often: {common}"


def _totals(page: str | None) -> Total | None:
    if not page:
        return None
    try:
        samples = metrics_page.parse(page)
    except metrics_page.MetricsError:
        return None
    return lambda name, **labels: metrics_page.total(samples, name, **labels)


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
