"""Cost: API or own hardware, with ranges instead of points, and which assumption decides."""

import streamlit as st

from dashboards import layout, links, tabular
from dashboards.layout import note
from dashboards.screens.cost import charts, view
from dashboards.screens.cost.case_file import case_toml
from planning.claims.audit import roi_table
from planning.cost import api_prices, measured, wording
from planning.cost.assumptions import EXAMPLE, PERFORMANCE, Case, label, load_case, parse_case, quantities, rule
from planning.cost.estimate import DemandCurve, Estimate, demand_curve, estimate, utilization_curve
from planning.cost.uncertainty import Quantity
from planning.errors import PlanningError

DRAWS = 20_000  # enough for two digits, and fast enough to follow a slider


@st.cache_resource
def example() -> Case:
    return load_case()


@st.cache_resource
def api_models() -> list[str]:
    return api_prices.known()


@st.cache_resource(max_entries=64)
def estimated(document: str, draws: int) -> Estimate:
    return estimate(Case.model_validate_json(document), draws=draws)


@st.cache_resource(max_entries=64)
def curve(document: str, tokens: tuple[float, ...]) -> DemandCurve:
    return demand_curve(Case.model_validate_json(document), tokens, draws=2_000)


@st.cache_resource
def guide_rows() -> view.Rows:
    return view.roi_rows(roi_table())


def show() -> None:
    layout.heading(
        "Cost", "Is own hardware cheaper than an API, by how much, from which demand on, and how sure is that?"
    )
    layout.guarded(everything)


def everything() -> None:
    case = assumed()
    if case is None:
        return
    document = case.model_dump_json()
    exact = st.toggle("200,000 draws instead of 20,000", key="exact", bind="query-params")
    found = estimated(document, 200_000 if exact else DRAWS)
    layout.verdict(view.verdict(found))
    layout.facts(view.facts(found))
    layout.notes(found.warnings)
    demanded(case, found, document)
    utilized(case, found)
    tornado(found)
    tables(case, found)
    guide_table()


def assumed() -> Case | None:
    """The case as the visitor set it; None when it cannot be."""
    case, variant = from_run(api_and_hosting(example()))
    st.subheader("What matters most", anchor=False)
    columns = st.columns(3)
    names = [name for name in view.SLIDERS if name in case.inputs]
    for index, name in enumerate(names):
        with columns[index % 3]:
            case = slider(case, name, variant)
    texts = edits(case, [name for name in quantities(case) if name not in names], variant)
    case, problems = view.edited(case, texts)
    for problem in problems:
        st.error(problem, icon=":material/error:")
    return case


def api_and_hosting(case: Case) -> Case:
    models = api_models()
    first, second, third, fourth = st.columns([3, 2, 1, 1])
    api = first.selectbox(
        "API model", models, index=models.index("openai/gpt-4o") if "openai/gpt-4o" in models else 0, key="api",
        bind="query-params",
    )  # fmt: skip
    kind = second.segmented_control(
        "Own hardware", ["rent", "buy"], default="rent", key="hosting", bind="query-params", required=True
    )
    gpus = third.number_input("GPUs per replica", 1, 64, 1, 1, key="gpus", bind="query-params")
    spares = fourth.number_input("Spare replicas", 0, 64, 0, 1, key="spare", bind="query-params")
    inputs = kinds_of_input(case, kind or "rent")
    hosting = case.hosting.model_copy(
        update={"kind": kind or "rent", "gpus_per_replica": gpus, "spare_replicas": spares, "gpu": None}
    )
    update = {"api": case.api.model_copy(update={"model": api or models[0]}), "hosting": hosting, "inputs": inputs}
    return Case.model_validate(case.model_copy(update=update).model_dump())


def kinds_of_input(case: Case, kind: str) -> dict[str, Quantity]:
    """The inputs that the way of hosting uses, at the example's values."""
    known = parse_case({"hosting": {"kind": kind}}, source=EXAMPLE).inputs
    return {**known, **{name: quantity for name, quantity in case.inputs.items() if name in (*known, *PERFORMANCE)}}


def from_run(case: Case) -> tuple[Case, str]:
    """The case with the speed of a measured run, where the visitor picks one, and what tells its inputs apart.

    A run brings other starting values, so its inputs are others than those of the assumed speed, in the URL too.
    """
    shelf = layout.runs()
    known = {entry.id: entry for entry in layout.entries(shelf)}
    labels = {one: layout.entry_label(entry) for one, entry in known.items()} | {"": "assumed (the example's)"}
    chosen = links.pick(["", *known], "speed_from", "Speed of a replica", labels)
    if not chosen:
        return case, ""
    report = layout.report(known[chosen])
    engine = st.selectbox("Engine of that run", report.engines, key="engine", bind="query-params")
    try:
        return measured.with_run(case, report.document, engine=engine), f"_{chosen[-4:]}_{engine}"
    except PlanningError as error:
        note(f"{error} The assumed speed is used instead.", bad=True)
        return case, ""


def slider(case: Case, name: str, variant: str) -> Case:
    quantity, known = quantities(case)[name], rule(name)
    options = sorted({*(value for value in view.SLIDERS[name]), quantity.mode})
    chosen = st.select_slider(
        f"{known.label[0].upper()}{known.label[1:]} ({known.unit})", options, value=quantity.mode,
        format_func=lambda value: view.tokens(value) if name == "tokens_per_month" else f"{value:,.6g}",
        key=f"{name}{variant}", bind="query-params", help=quantity.source,
    )  # fmt: skip
    if name == "tokens_per_month":
        links.shown_as(f"{name}{variant}", view.tokens(chosen))
    return case if chosen == quantity.mode else view.with_slider(case, name, float(chosen))


def edits(case: Case, names: list[str], variant: str) -> dict[str, str]:
    """What the visitor wrote for the other assumptions: low / most likely / high."""
    texts = {}
    with st.expander("All other assumptions: low / most likely / high"):
        columns = st.columns(3)
        for index, name in enumerate(names):
            quantity, known = quantities(case)[name], rule(name)
            shown, said = view.quantity_text(quantity), label(case, name)
            texts[name] = (
                columns[index % 3].text_input(
                    f"{said[0].upper()}{said[1:]} ({known.unit})",
                    shown,
                    key=f"a_{name.replace('.', '_')}{variant}",  # of its own: other pages have inputs of the same name
                    bind="query-params",
                    help=quantity.source,
                )
                or shown
            )
    return texts


def demanded(case: Case, found: Estimate, document: str) -> None:
    axis = view.demand_axis(case, found.break_even_tokens)
    rows = view.demand_rows(curve(document, tuple(axis)))
    chart = charts.demand(
        rows,
        layout.palette(),
        asked_tokens=quantities(case)["tokens_per_month"].median,
        even=view.even_rows(found.break_even_tokens),
    )
    layout.figure(
        chart, rows, name="break-even", title="Cost against demand",
        caption=f"{wording.break_even_text(found)} Lines: medians; bands: 5th to 95th percentile of the draws. A "
        "line that ends: more demand than the replicas allowed carry.",
        words=view.verdict(found),
    )  # fmt: skip


def utilized(case: Case, found: Estimate) -> None:
    rows = view.utilization_rows(utilization_curve(case, view.shares()))
    api = [{"name": found.price.name, "usd_per_mtok": found.api_usd_per_mtok.p50}]
    actual = found.utilization.p50
    words = (
        f"At full load a million tokens cost {view.usd(rows[-1]['usd_per_mtok'])} on own hardware, at 1 % utilization "
        f"about {view.usd(100 * rows[-1]['usd_per_mtok'])}; {found.price.name} asks "
        f"{view.usd(found.api_usd_per_mtok.p50)}."
    )
    layout.figure(
        charts.utilization(rows, layout.palette(), api=api, actual=actual), rows, name="utilization",
        title="Cost per token against utilization",
        caption=f"{words} Line: median; band: 5th to 95th percentile. The dotted line: the utilization that the demand "
        "gives. Idle hardware costs the same.",
        words=words,
    )  # fmt: skip


def tornado(found: Estimate) -> None:
    rows = view.tornado_rows(found)
    if not rows:
        note("No assumption has a range, so none can be said to matter more than another.")
        return
    centre = found.saving_usd.p50
    words = "; ".join(
        f"{row['assumption']}: {view.usd(row['saving_at_low_usd'] or 0)} to {view.usd(row['saving_at_high_usd'] or 0)}"
        for row in rows
    )
    layout.figure(
        charts.tornado(rows, layout.palette(), centre_usd=centre), rows, name="tornado",
        title="Which assumption decides",
        caption="The median saving with one assumption at its low and at its high, all others drawn. The widest is the "
        "one worth finding out.",
        words=f"Saving a month at low and high: {words}.",
    )  # fmt: skip


def tables(case: Case, found: Estimate) -> None:
    st.subheader("The figures", anchor=False)
    rows = view.result_rows(found)
    tabular.table(rows, f"Ranges over {found.draws:,} draws, seed {found.seed}", numeric=("P5", "Median", "P95"))
    tabular.csv_button(rows, "cost")
    parts = view.parts_rows(found)
    tabular.table(
        parts,
        "What a month on own hardware is paid for; each part's median is its own, so they need not add up",
        numeric=("P5", "Median", "P95"),
    )
    with st.expander("Every assumption, with source and date"):
        assumptions = view.assumption_rows(case)
        tabular.table(
            [{k: v for k, v in row.items() if k != "name"} for row in assumptions], "Assumptions",
            numeric=("Low", "Most likely", "High"), words=("Source",),
        )  # fmt: skip
        with st.container(horizontal=True):
            tabular.csv_button(assumptions, "assumptions", "Assumptions as CSV")
            st.download_button(
                "The case as case.toml", case_toml(case), "case.toml", "application/toml", key="case_toml",
                on_click="ignore", type="tertiary", icon=":material/download:",
                help="`nbridge cost case.toml` goes on from here.",
            )  # fmt: skip
    note(f"API prices: {found.price.package}, list prices of {found.price.on}.")


def guide_table() -> None:
    with st.expander("The deployment guide's return on investment, recomputed"):
        rows = guide_rows()
        tabular.table(
            rows,
            "From its own inputs",
            numeric=("Upfront", "Monthly", "12 months", "24 months"),
            words=("The guide prints",),
        )
        tabular.csv_button(rows, "roi")
        note("The totals follow from the guide's inputs; the inputs do not all hold. The claims page says which.")


show()
