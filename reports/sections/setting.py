"""What was run and where: engine configurations, loads, machine, packages. Pure."""

import json
import shlex
from typing import Any

from inputs.quantities import MISSING, byte_size, count, number, plural, seconds
from reports.measured.cells import Report
from reports.tables import Column, Entry, Table, table

_FIRST = ("model", "quantization", "dtype", "kv_cache_dtype", "load_format", "max_model_len", "max_num_seqs")
_UNSET = {"quantization": "none", "speculative": "none"}


def engines(report: Report) -> Table:
    """One row per engine with the settings in which they differ; what they share is said below the table."""
    by_name = {cell.engine: cell.document["engine"] for cell in report.every}
    used = [key for key in dict.fromkeys(k for engine in by_name.values() for k in engine) if key != "name"]
    used = [key for key in used if any(_said(engine.get(key)) for engine in by_name.values())]
    used.sort(key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST))
    alone = len(by_name) == 1
    differing = [key for key in used if alone or len({_text(engine.get(key)) for engine in by_name.values()}) > 1]
    common = [key for key in used if key not in differing]
    columns = [Column("Engine", numeric=False), *(Column(key, numeric=False) for key in differing)]
    rows: list[list[str | Entry]] = [
        [name, *(_text(engine.get(key)) or _UNSET.get(key, "default") for key in differing)]
        for name, engine in by_name.items()
    ]
    notes: tuple[str, ...] = ()
    target = report.document.get("target")
    if isinstance(target, dict) and target.get("learnt"):
        notes += (f"What was learnt of the server: {target['learnt']}.",)
    if common:
        first = next(iter(by_name.values()))
        shared = "; ".join(f"{key} = {_text(first[key])}" for key in common)
        notes += (f"The same for all: {shared}.",)
    return table("engines", "Engine configurations", columns, rows, notes)


def _said(value: Any) -> bool:
    return value is not None and value not in ([], {}, "")


def _text(value: Any) -> str:
    if not _said(value):
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def loads(report: Report) -> Table:
    """One row per load."""
    columns = [
        Column("Load", numeric=False),
        Column("Scenario", numeric=False),
        Column("Kind", numeric=False),
        Column("Level", numeric=False),
        Column("Requests"),
        Column("Duration"),
        Column("Prompt tokens", numeric=False),
        Column("Output tokens", numeric=False),
        Column("Warm-up requests"),
        Column("Seed"),
    ]
    documents = {cell.load: cell.document["load"] for cell in reversed(report.cells)}
    rows: list[list[str | Entry]] = []
    for load in report.loads:
        document = documents[load]
        rows.append(
            [
                load.name,
                load.scenario,
                f"{load.kind} loop",
                load.label,
                count(document["requests"]) if document.get("requests") is not None else "",
                seconds(document["seconds"]) if document.get("seconds") is not None else "",
                lengths(document.get("prompt_tokens")),
                lengths(document.get("output_tokens")),
                count(document["warmup_requests"]) if document.get("warmup_requests") is not None else "",
                str(document["seed"]) if document.get("seed") is not None else "",
            ]
        )
    return table("loads", "Loads", columns, rows)


def lengths(distribution: Any) -> str:
    """A token-length distribution for a reader: {"kind": "fixed", "mean": 64} → “64 each”."""
    if isinstance(distribution, int | float):
        return f"{number(distribution)} each"
    if not isinstance(distribution, dict):
        return str(distribution or "")
    if distribution.get("kind") == "fixed" and isinstance(distribution.get("mean"), int | float):
        return f"{count(distribution['mean'])} each"
    parts = ", ".join(f"{key} {_text(value)}" for key, value in distribution.items() if key != "kind" and _said(value))
    return f"{distribution.get('kind', '')} ({parts})" if parts else str(distribution.get("kind", ""))


def environment(report: Report) -> list[tuple[str, str]]:
    """(what, value) of the machine and the software that the run was made with; what is not known is said."""
    found = report.document.get("environment") or {}
    cpu = found.get("cpu") or {}
    packages = found.get("packages") or {}
    gpus = [_gpu(gpu) for gpu in found.get("gpus") or []]
    flags = [flag for flag in cpu.get("flags") or [] if isinstance(flag, str)]
    facts = [
        ("Neural Bridge", found.get("nbridge") or packages.get("neural-bridge")),
        ("Source commit", _commit(found)),
        ("CPU", f"{cpu.get('model') or 'unknown model'}, {cpu.get('cores') or MISSING} cores" if cpu else None),
        ("CPU features", ", ".join(flags) or None),
        ("Memory", byte_size(found["memory_bytes"]) if found.get("memory_bytes") else None),
        ("GPU", "; ".join(gpus) if gpus else "none" if "gpus" in found else None),
        ("Operating system", found.get("os")),
        ("Python", found.get("python")),
        ("Packages", ", ".join(f"{name} {version or MISSING}" for name, version in packages.items()) or None),
        *([("Host (hashed)", found["hostname_hash"])] if found.get("hostname_hash") else []),
        *_placed(report),
        ("Started", report.document.get("created")),
        ("Finished", report.document.get("finished") or "not finished"),
        ("Run", report.document.get("run_id") or report.folder),
    ]
    return [(name, str(value) if value else "not recorded") for name, value in facts]


def _placed(report: Report) -> list[tuple[str, str]]:
    """Of a run on a cluster: on how many machines, and whether engines were on one at the same time."""
    cells = [cell.document["placed"] for cell in report.every if isinstance(cell.document.get("placed"), dict)]
    if not cells:
        return []
    hosts = sorted({str(one.get("host")) for one in cells})
    beside = sum(bool(one.get("beside")) for one in cells)
    on_cpu = (report.document.get("cluster") or {}).get("on") == "cpu"
    shared = "on the same processors, so they took time from each other" if on_cpu else "on other GPUs of it"
    said = f"{beside} of {plural(len(cells), 'cell')} had other engines on their machine, {shared}" if beside else "no"
    machines = f"{plural(len(hosts), 'machine')} of a Ray cluster (hashed): {', '.join(hosts)}"
    return [("Measured on", machines), ("Beside each other", said)]


def _gpu(gpu: dict[str, Any]) -> str:
    memory = f", {byte_size(gpu['memory_bytes'])}" if gpu.get("memory_bytes") else ""
    driver = f", driver {gpu['driver']}" if gpu.get("driver") else ""
    return f"{gpu.get('name') or 'unnamed GPU'}{memory}{driver}"


def _commit(environment: dict[str, Any]) -> str | None:
    git = environment.get("git")
    if not isinstance(git, dict) or not git.get("commit"):
        return None
    return f"{git['commit']}{' with uncommitted changes' if git.get('dirty') else ''}"


def reproduce(report: Report) -> list[str]:
    """The commands that measure the same again and rebuild this report."""
    command = report.document.get("command")
    run = report.document.get("run_id") or report.folder
    return [*([str(command)] if command else []), f"nbridge report {shlex.quote(f'runs/{run}')}"]
