"""Capacity and VRAM: does a model fit, how fast can it be at best, how many servers does the demand need."""

import contextlib
import datetime

import streamlit as st

from dashboards import layout, tabular
from dashboards.layout import note
from dashboards.screens.capacity import charts, view
from inputs.quantities import number
from planning import catalogs
from planning.catalogs import Catalog
from planning.errors import PlanningError
from planning.memory import models, smallest, vram
from planning.memory.shapes import Shape
from planning.memory.sharding import Setting
from planning.memory.vram import Estimate
from planning.speed import capacity
from reports.measured.cells import Report

QUANTIZATIONS = ("none", "int8", "int4", "awq", "gptq", "fp8")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@st.cache_resource
def catalog() -> Catalog:
    """The catalogue in use."""
    return catalogs.load()


@st.cache_resource(max_entries=64)
def shape_of(model: str, quantization: str) -> Shape:
    return models.read(model, quantization)


def show() -> None:
    layout.heading(
        "Capacity and VRAM", "Does a model fit on a GPU, how fast can it be there, and how many does it take?"
    )
    layout.guarded(everything)


def everything() -> None:
    known = catalog()
    fit(known)
    st.subheader("How many servers", anchor=False)
    measured = goodput(known)
    servers(measured)


@st.fragment
def fit(known: Catalog) -> None:
    """Whether the model fits, and how fast it can be there; a choice redraws this part alone."""
    layout.guarded(lambda: fitted(known))


def fitted(known: Catalog) -> None:
    made = chosen(known)
    memory(made)
    trade(made)
    others(made, known)
    speed(made)


def chosen(known: Catalog) -> Estimate:
    """The estimate for what the visitor chose; every choice stands in the URL."""
    first, second, third = st.columns(3)
    model = first.selectbox(
        "Model", list(known.models), key="model", bind="query-params", accept_new_options=True,
        help="A known name, or the path of a directory with config.json, or of a safetensors file.",
    )  # fmt: skip
    scheme = second.selectbox("Quantization", QUANTIZATIONS, key="quantization", bind="query-params")
    labels = view.gpu_labels(known)
    gpu = third.selectbox("GPU", list(labels), format_func=labels.__getitem__, key="gpu", bind="query-params")
    columns = st.columns(4)
    context = columns[0].number_input(
        "Context of each request (tokens)", 1, 1_048_576, 8192, 1024, key="context", bind="query-params"
    )
    many = columns[1].number_input("Requests at once", 1, 100_000, 8, 1, key="at_once", bind="query-params")
    tensor = columns[2].selectbox("GPUs, tensor parallel", SIZES[:5], key="tp", bind="query-params")
    cache = columns[3].selectbox(
        "KV cache",
        ("auto", "fp8"),
        format_func={"auto": "16 bit", "fp8": "8 bit"}.__getitem__,
        key="kv",
        bind="query-params",
    )
    share = st.slider(
        "Share of the GPU's memory that vLLM may use", 0.5, 1.0, 0.92, 0.01, key="utilization", bind="query-params"
    )
    setting = Setting(tensor_parallel=tensor or 1, gpu_memory_utilization=share, kv_cache_dtype=cache or "auto")
    shape = shape_of(model or next(iter(known.models)), scheme or "none")
    longest = shape.context_tokens or context
    if context > longest:
        note(f"{shape.name} is made for at most {longest:,} tokens: that is what is reckoned with.", bad=True)
    return vram.estimate(
        shape, known.gpu(gpu or "rtx-4090"), setting, context_tokens=min(context, longest), concurrency=many
    )


def memory(made: Estimate) -> None:
    layout.verdict(view.verdict(made))
    rows = view.memory_rows(made)
    layout.figure(
        charts.stack(rows, layout.palette(), budget_bytes=made.budget.mode, total_bytes=made.total.mode),
        rows,
        name="vram",
        title=f"Memory of {'each GPU' if made.setting.gpus > 1 else 'the GPU'}",
        caption="What vLLM takes of a GPU, with estimates at their most likely values. Beyond the budget it does not "
        "start, or has no room for these requests.",
        words=view.memory_words(made),
    )
    with st.expander("Each part, its range and why"):
        tabular.table(view.memory_table(made), "Parts of one GPU's memory", numeric=("Size",), words=("Why so much",))


def trade(made: Estimate) -> None:
    rows = view.trade_rows(made)
    if not rows:
        note("No sequence of 512 tokens or more fits, so there is no trade between context and concurrency to show.")
        return
    words = "; ".join(f"{row['context_tokens']:,} tokens: {row['sequences_mode']:,}" for row in rows)
    layout.figure(
        charts.trade(rows, layout.palette(), context_tokens=made.context_tokens, concurrency=made.concurrency),
        rows,
        name="context",
        title="Context against concurrency",
        caption="How many requests of a length hold their cache at once. The band: every estimate at its worst and at "
        "its best. The cross: what is asked for.",
        words=f"Sequences that fit at once: {words}.",
    )


def others(made: Estimate, known: Catalog) -> None:
    st.subheader("The smallest set of each GPU", anchor=False)
    found = smallest.smallest_sets(
        made.shape, known, made.setting, context_tokens=made.context_tokens, concurrency=made.concurrency
    )
    rows = view.set_rows(found)
    if not rows:
        note("On no known GPU does this fit in eight machines.", bad=True)
        return
    tabular.table(
        rows,
        "Cheapest rent first; prices per GPU are of the catalogue",
        numeric=("Room for the cache", "Sequences at once"),
    )
    tabular.csv_button(rows, "gpu-sets")
    if stale := catalogs.stale_note(known, datetime.datetime.now().astimezone().date()):
        note(stale)


def speed(made: Estimate) -> None:
    gpus, context = made.setting.gpus, made.context_tokens
    try:
        rows = view.bound_rows(made.shape, made.gpu, gpus, context)
        words = view.bound_words(made.shape, made.gpu, gpus, context)
    except PlanningError as error:
        note(str(error), bad=True)
        return
    layout.figure(
        charts.bounds(rows, layout.palette()),
        rows,
        name="roofline",
        title="How fast at best",
        caption=f"{words} Bounds from memory bandwidth and compute, not predictions: what is measured lies below, and "
        "a figure above was not measured right.",
        words=words,
    )


@st.fragment
def servers(measured: float | None) -> None:
    layout.guarded(lambda: served(measured))


def served(measured: float | None) -> None:
    columns = st.columns(4)
    month = columns[0].number_input(
        "Requests a month", 1.0, 1e12, 1_000_000.0, 100_000.0, format="%.0f", key="requests", bind="query-params"
    )
    ratio = columns[1].number_input(
        "Busiest hour over the mean", 1.0, 1000.0, 4.0, 0.5, key="peak", bind="query-params"
    )
    rate = columns[2].number_input(
        "Goodput of one server (requests/s)",
        0.001,
        1e6,
        measured or 1.0,
        0.1,
        format="%.3f",
        key="goodput",
        bind="query-params",
    )
    spares = columns[3].number_input("Spare servers", 0, 100, 1, 1, key="spares", bind="query-params")
    headroom = st.slider("Part of the goodput to plan with", 0.1, 1.0, 0.7, 0.05, key="headroom", bind="query-params")
    demand = capacity.of_month(month, ratio)
    found = capacity.replicas(demand.peak_rps, rate, headroom=headroom, spares=spares)
    words = view.replica_words(found)
    rows = view.replica_rows(rate, demand.peak_rps, headroom=headroom, spares=spares)
    layout.verdict(words)
    layout.figure(
        charts.steps(rows, layout.palette(), peak_rps=demand.peak_rps),
        rows,
        name="servers",
        title="Servers against demand",
        caption=f"Mean {number(demand.mean_rps)} requests/s, peak {number(demand.peak_rps)}; spares included. "
        "The dashed line: the peak asked for.",
        words=words,
    )


def goodput(known: Catalog) -> float | None:
    """The best measured goodput of a run that the visitor picks; None when it has none."""
    shelf = layout.runs()
    entry = layout.choose(shelf, "run", "Goodput measured in run")
    report = layout.report(entry)
    impossible(report, known)
    try:
        found = capacity.goodputs(report.document["cells"])
    except PlanningError as error:
        note(f"{error} Until then, say yourself what one server carries.")
        return None
    if not found:
        note("In no load of this run did most requests meet the SLO, so it gives no goodput to plan with.", bad=True)
        return None
    tabular.table(view.goodput_rows(found), "Measured goodput", numeric=("Goodput", "Within the SLO", "Output"))
    return max(one.goodput_rps for one in found)


def impossible(report: Report, known: Catalog) -> None:
    """Say which measured figures of a run lie above the bounds of the GPU that it ran on."""
    gpus = report.document.get("environment", {}).get("gpus") or []
    gpu = catalogs.recognise(str(gpus[0].get("name")), known) if gpus else None
    if gpu is None:
        return
    of_engine = {cell.engine: cell.document["engine"] for cell in report.cells}
    found = {}
    for name, engine in of_engine.items():
        with contextlib.suppress(PlanningError):
            found[name] = shape_of(str(engine.get("model")), str(engine.get("quantization") or "none"))
    layout.notes(view.above_words(report.document["cells"], found, gpu), bad=True)


show()
