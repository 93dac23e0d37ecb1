"""How many servers a demand needs, by the goodput of one, and how near each engine came to the GPU's bound. Pure."""

from inputs.quantities import count, number, share
from planning.catalog_entries import Gpu
from planning.errors import MissingMeasurement, PlanningError
from planning.memory.shapes import Shape
from planning.speed.capacity import DEFAULT_HEADROOM, Goodput, goodputs, replicas
from planning.speed.roofline import above, cell_bound
from reports.measured.cells import Json, Report
from reports.sections.memory import engines, shape_of
from reports.sections.section import Section
from reports.statements.ranking import slo_words
from reports.tables import Column, Entry, Table, table

PEAKS_RPS = (1.0, 10.0, 100.0)
SPARES = 1


def servers(report: Report, machine: Gpu | None) -> Section:
    """Servers for a demand from the goodput of this run; against the bounds of `machine`, the GPU it was made on."""
    cells = measured_cells(report)
    paragraphs: list[str] = []
    tables: list[Table] = []
    try:
        found = goodputs(cells)
        paragraphs.append(
            f"Servers for a peak demand: peak ÷ goodput of one ÷ {share(DEFAULT_HEADROOM)} headroom, rounded up, and "
            f"{SPARES} spare. The goodput is this run's, on the machine that it was made on."
        )
        if found:
            tables.append(_servers(found))
        else:
            paragraphs = [
                "No engine met the SLO for nine in ten of its requests at any load, so no number of servers carries a "
                "demand."
            ]
    except MissingMeasurement as error:
        paragraphs.append(str(error))
    if machine is not None and (bounds := _bounds(cells, _shapes(report), machine)):
        tables.append(bounds)
    return Section("servers", "Servers for a demand", tuple(paragraphs), tuple(tables))


def measured_cells(report: Report) -> list[Json]:
    """The cells whose numbers may be compared, as run.json has them, with metrics recomputed from the records."""
    return [{**cell.document, "metrics": cell.metrics} for cell in report.every if cell.measured]


def _servers(found: list[Goodput]) -> Table:
    columns = [
        Column("Engine", numeric=False),
        Column("Goodput of one server"),
        Column("at load", numeric=False),
        Column("Met the SLO"),
        *(Column(f"{count(peak)} /s", "Servers for a peak of") for peak in PEAKS_RPS),
        Column("Load of the most, one down"),
    ]
    rows: list[list[str | Entry]] = []
    for one in found:
        needed = [replicas(peak, one.goodput_rps, spares=SPARES) for peak in PEAKS_RPS]
        lost = needed[-1].load_with_one_down
        rows.append(
            [
                one.engine,
                f"{number(one.goodput_rps)} requests/s",
                one.load,
                share(one.attainment),
                *(count(each.total) for each in needed),
                share(lost) if lost is not None else "",
            ]
        )
    notes = [
        f"SLO: {slo_words(dict(found[0].slo))}. Peaks in requests per second; the last column is the share of their "
        f"goodput that {count(PEAKS_RPS[-1])} requests per second take when one server is lost."
    ]
    notes += [
        f"{one.engine}: no heavier load was measured, so it may carry more." for one in found if one.highest_measured
    ]
    return table("servers-for-peaks", "Servers by the peak of the demand", columns, rows, tuple(notes))


def _shapes(report: Report) -> dict[str, Shape]:
    shapes = {}
    for engine, document in engines(report).items():
        try:
            shapes[engine] = shape_of(document)
        except PlanningError:
            continue  # the section on memory says why
    return shapes


def _bounds(cells: list[Json], shapes: dict[str, Shape], gpu: Gpu) -> Table | None:
    columns = [
        Column("Cell", numeric=False),
        Column("Measured, tok/s"),
        Column("Bound, tok/s"),
        Column("Reached"),
        Column("Limited by", numeric=False),
    ]
    flagged = above(cells, shapes, gpu)
    impossible = {one.cell_id for one in flagged}
    rows: list[list[str | Entry]] = []
    for cell in cells:
        shape, tok_s = shapes.get(cell["engine"]["name"]), cell["metrics"].get("output_throughput_tok_s")
        bound = cell_bound(cell, shape, gpu) if shape is not None and shape.kv_bytes_per_token is not None else None
        if bound is None or not tok_s:
            continue
        reached = Entry(share(tok_s / bound.tok_s), "bad" if cell["id"] in impossible else "")
        rows.append([cell["id"], number(tok_s), number(bound.tok_s), reached, bound.limited_by])
    if not rows:
        return None
    notes = [
        f"The bound is what {gpu.label} can give at best at the cell's mean batch and context: its bandwidth ÷ "
        "(weights + cache read in a step), or its compute. Links between GPUs are taken to be free."
    ]
    notes += [
        f"{one.cell_id}: the {one.what} of {number(one.measured_tok_s)} tok/s is above the bound of "
        f"{number(one.bound_tok_s)}: it was not measured right, or not on this GPU."
        for one in flagged
    ]
    return table("roofline", "Output throughput against the GPU's bound", columns, rows, tuple(notes))
