"""The tables of a report, as text that HTML and Markdown lay out alike. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from inputs.quantities import MISSING, byte_size, count, number, ratio, seconds, share
from reports.definitions import PERCENTILES_NEED
from reports.measured.cells import Cell, Report
from reports.measured.repeats import (
    CENTRAL_WORD,
    ENOUGH,
    Spread,
    central,
    measured_pairs,
    metric_spread,
    planned_repeats,
)
from reports.statements import answers, energy
from reports.statements.ranking import THROUGHPUT, slo_words
from reports.statements.verdict import outcome_of


@dataclass(frozen=True)
class Column:
    """A column's heading; neighbours with the same `group` share a heading above."""

    name: str
    group: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Entry:
    """What stands in one place of a table; `tone` is “bad” or “good” and only repeats what the text says."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row."""

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> list[tuple[str, int]]:
        """(group, columns under it) from left to right."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and found[-1][0] == column.group and column.group:
                found[-1] = (column.group, found[-1][1] + 1)
            else:
                found.append((column.group, 1))
        return found


def table(
    name: str, caption: str, columns: list[Column], rows: list[list[str | Entry]], notes: tuple[str, ...] = ()
) -> Table:
    """A Table from rows of texts, without the columns (but the first) in which every row is empty."""
    entries = [[e if isinstance(e, Entry) else Entry(e) for e in row] for row in rows]
    kept = [i for i, _ in enumerate(columns) if not i or any(row[i].text for row in entries)]
    return Table(
        name,
        caption,
        tuple(columns[i] for i in kept),
        tuple(tuple(row[i] for i in kept) for row in entries),
        notes,
    )


def key_figures(report: Report) -> Table:
    """One row per engine: what it needs and the best it delivered."""
    ttft = central(report, "ttft_s")
    itl = central(report, "itl_s")
    lightest = report.loads[0] if report.loads else None
    columns = [
        Column("Engine", numeric=False),
        Column("Valid cells"),
        Column("Weights"),
        Column("KV cache"),
        Column("Ready after"),
        Column("Peak memory"),
        Column("Best output throughput"),
        Column("at load", numeric=False),
        Column("against the baseline there"),
        Column(f"TTFT ({CENTRAL_WORD[ttft]}), lightest load"),
        Column(f"ITL ({CENTRAL_WORD[itl]}), lightest load"),
    ]
    rows: list[list[str | Entry]] = []
    for engine in report.engines:
        cells = report.of_engine(engine)
        measured = sum(cell.measured for cell in cells)
        top, where, against = best(report, engine)
        light = report.repeats(engine, lightest) if lightest else ()
        rows.append(
            [
                engine,
                Entry(f"{measured} of {len(cells)}", "bad" if measured < len(cells) else ""),
                byte_size(startup_value(cells, "weights_bytes")),
                _tokens(startup_value(cells, "kv_cache_tokens")),
                seconds(startup_value(cells, "ready_s")),
                byte_size(peak_memory(cells)),
                f"{number(top.median)} tok/s" if top else MISSING,
                where or MISSING,
                against,
                seconds(_median(light, f"ttft_s.{ttft}")),
                seconds(_median(light, f"itl_s.{itl}")),
            ]
        )
    lightest_label = f" The lightest load is {lightest.label}." if lightest else ""
    baseline = f" The baseline is the plan's first engine, {report.engines[0]}." if report.engines else ""
    return table(
        "key-figures",
        "Key figures by engine",
        columns,
        rows,
        (f"“{MISSING}” means: not measured or not known.{lightest_label}{baseline}",),
    )


def _tokens(value: float | None) -> str:
    return f"{count(value)} tokens" if value is not None else MISSING


def best(report: Report, engine: str) -> tuple[Spread | None, str, str]:
    """(best throughput, at which load, ratio to the baseline at that load)."""
    found = [
        (load, item)
        for load in report.loads
        if (item := metric_spread(report.repeats(engine, load), THROUGHPUT)) is not None
    ]
    if not found:
        return None, "", MISSING
    load, top = max(found, key=lambda pair: pair[1].median)
    if engine == report.engines[0]:
        return top, load.label, "baseline"
    baseline = metric_spread(report.repeats(report.engines[0], load), THROUGHPUT)
    if baseline is None or baseline.median <= 0:
        return top, load.label, MISSING
    return top, load.label, ratio(top.median / baseline.median)


def _median(cells: tuple[Cell, ...], name: str) -> float | None:
    found = metric_spread(cells, name)
    return None if found is None else found.median


def startup_value(cells: tuple[Cell, ...], name: str) -> float | None:
    """What the engine stated at its start, from the first of its cells that has it."""
    values = ((cell.document.get("startup") or {}).get(name) for cell in cells)
    return next((float(value) for value in values if isinstance(value, int | float)), None)


def peak_memory(cells: tuple[Cell, ...]) -> float | None:
    """The largest sampled memory of the engine's processes: the device's where there is a GPU, else resident."""
    for name in ("memory.gpu_used_peak_bytes", "memory.server_peak_bytes"):
        values = [value for cell in cells if (value := cell.value(name)) is not None]
        if values:
            return max(values)
    return None


def throughput(report: Report) -> Table:
    """One row per cell: what became of it and how much it delivered."""
    slo = next((cell.metrics["slo"] for cell in report.cells if cell.metrics and cell.metrics.get("slo")), None)
    columns = [
        Column("Cell", numeric=False),
        Column("Load", numeric=False),
        Column("Outcome", numeric=False),
        Column("answered", "Requests"),
        Column("not answered", "Requests"),
        Column("output tok/s", "Throughput"),
        Column("prompt tok/s", "Throughput"),
        Column("requests/s", "Throughput"),
        Column("goodput/s", "Throughput"),
        Column("in flight (mean)"),
        Column("mean power", "GPU energy"),
        Column("J per output token", "GPU energy"),
        Column("window"),
        Column("peak memory"),
    ]
    rows: list[list[str | Entry]] = []
    for cell in report.cells:
        requests = (cell.metrics or {}).get("requests") if cell.records else None
        lost = None if requests is None else requests["total"] - requests["ok"]
        rows.append(
            [
                cell.id,
                cell.load.label,
                _outcome(cell),
                count(None if requests is None else requests["ok"]),
                Entry(count(lost), "bad" if lost else ""),
                *(_number(cell, name) for name in (THROUGHPUT, "prompt_throughput_tok_s", "request_throughput_rps")),
                _number(cell, "goodput_rps") if slo else "",
                _number(cell, "mean_in_flight"),
                *_energy(cell),
                seconds(cell.value("window_s") if cell.shown else None),
                byte_size(peak_memory((cell,)) if cell.shown else None),
            ]
        )
    notes = ["Rates are taken over the window; a cell that did not run to its end has none."]
    if slo:
        notes.append(f"Goodput counts requests within the SLO: {slo_words(slo)}.")
    notes += [text for text in (answers.counted_by(report), answers.lengths(report)) if text]
    notes += [*answers.absent(report), *answers.oddities(report), *energy.notes(report)]
    return table("cells-throughput", "All cells: outcome and throughput", columns, rows, tuple(notes))


def _outcome(cell: Cell) -> Entry:
    if cell.outcome == "ok" and cell.valid is None and cell.shown:
        return Entry("ok, validity not checked")
    text = outcome_of(cell)
    return Entry("ok, valid" if text == "ok" else text, "" if text == "ok" else "bad")


def _energy(cell: Cell) -> tuple[str, str]:
    """Watts, and joules per output token; empty where no GPU was sampled."""
    found = (cell.metrics or {}).get("energy") if cell.shown else None
    if not found:
        return "", ""
    power, per_token = found["mean_power_w"], found["joules_per_output_token"]
    return f"{number(power)} W" if power is not None else MISSING, number(per_token)


def _number(cell: Cell, name: str) -> str:
    return number(cell.value(name) if cell.shown else None)


_LATENCIES = (
    ("ttft_s", "TTFT"),
    ("ttft_from_schedule_s", "TTFT from schedule"),
    ("itl_s", "ITL"),
    ("tpot_s", "TPOT"),
    ("e2e_s", "E2E"),
)


def latencies(report: Report) -> Table:
    """One row per cell: mean and percentiles of every latency."""
    shown = [cell for cell in report.cells if cell.shown]
    names = [name for name, _ in _LATENCIES if any(cell.value(f"{name}.n") for cell in shown)]
    used = [
        (name, label, statistic)
        for name, label in _LATENCIES
        if name in names
        for statistic in ("mean", "p50", "p95", "p99")
        if statistic == "mean" or any(cell.value(f"{name}.{statistic}") is not None for cell in shown)
    ]
    columns = [Column("Cell", numeric=False)]
    columns += [Column(statistic, label) for _, label, statistic in used]
    rows: list[list[str | Entry]] = [
        [
            cell.id + ("" if cell.measured else " (invalid)"),
            *(seconds(cell.value(f"{name}.{statistic}")) for name, _, statistic in used),
        ]
        for cell in shown
    ]
    notes = [
        f"“{MISSING}”, or no column: too few values for that percentile, which needs {PERCENTILES_NEED}. TTFT, TPOT "
        "and E2E have one value per request, ITL one per token."
    ]
    if any(cell.load.scenario == "hidden_states" for cell in shown):
        notes.append("Hidden states are answered in one piece: those cells have an E2E only.")
    if len(shown) < len(report.cells):
        notes.append("Cells that did not run to their end have no latencies and are not listed.")
    return table("cells-latency", "All cells: latency", columns, rows, tuple(notes))


def repeats(report: Report) -> Table | None:
    """Median and range over the repeats of each engine and load; None when nothing was repeated."""
    if planned_repeats(report) < 2 or not measured_pairs(report):
        return None
    ttft, e2e = central(report, "ttft_s"), central(report, "e2e_s")
    metrics: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        (THROUGHPUT, "Output tok/s", number),
        (f"ttft_s.{ttft}", f"TTFT ({CENTRAL_WORD[ttft]})", seconds),
        (f"e2e_s.{e2e}", f"E2E ({CENTRAL_WORD[e2e]})", seconds),
    )
    columns = [Column("Engine", numeric=False), Column("Load", numeric=False), Column("Valid repeats")]
    columns += [Column(part, label) for _, label, _ in metrics for part in ("median", "range", "interval")]
    rows: list[list[str | Entry]] = []
    for engine, load in measured_pairs(report):
        cells = report.repeats(engine, load)
        row: list[str | Entry] = [engine, load.label, str(len(cells))]
        for name, _, show in metrics:
            row += _spread(metric_spread(cells, name), show)
        rows.append(row)
    note = f"Fewer than {ENOUGH} repeats give no interval: insufficient for a verdict on small differences."
    if max(len(report.repeats(engine, load)) for engine, load in measured_pairs(report)) >= ENOUGH:
        note = (
            "The interval covers the true median with the stated confidence (order statistics, no assumption on the "
            f"distribution). {note}"
        )
    return table("repeats", "Repeats: median and range of each engine under each load", columns, rows, (note,))


def _spread(found: Spread | None, show: Callable[[float], str]) -> list[str]:
    if found is None:
        return [MISSING, MISSING, MISSING]
    interval = ""  # a column without any interval is left out
    if found.n >= ENOUGH:
        interval = f"{show(found.interval[0])} … {show(found.interval[1])} ({share(found.coverage)})"
    return [show(found.median), f"{show(found.low)} … {show(found.high)}", interval]
