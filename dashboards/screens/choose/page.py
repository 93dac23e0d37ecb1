"""Choose: which model on which GPU meets the requirements, and why not the others; then API or own hardware."""

import streamlit as st

from bench.run.store import open_run
from dashboards import layout, links, tabular
from dashboards.layout import note
from dashboards.library import Entry, Shelf
from dashboards.screens.choose import charts, view
from dashboards.screens.cost.view import tokens as tokens_words
from inputs.quantities import plural
from planning import catalogs
from planning.catalogs import GIB, QUALITY_CLASSES, Catalog, measured_on
from planning.choice import candidates, selection
from planning.choice.candidates import Candidate
from planning.choice.selection import Judged, Requirements, Selection
from planning.cost import api_prices
from planning.cost.assembly import assemble
from planning.cost.assumptions import EXAMPLE, Case, read_document
from planning.cost.decide import Decision, decide

SHOWN = 12
TOKENS = tuple(m * 10.0**e for e in range(5, 12) for m in (1, 2, 5))
Lengths = tuple[int, int, int]


@st.cache_resource
def catalog() -> Catalog:
    return catalogs.load()


@st.cache_resource
def api_models() -> list[str]:
    return api_prices.known()


@st.cache_resource(max_entries=32)
def bounded(models: tuple[str, ...], gpus: tuple[str, ...], lengths: Lengths) -> list[Candidate]:
    """The catalogue's candidates, and models by any name or directory, at their bounds."""
    prompt, output, concurrency = lengths
    known = catalog()
    return candidates.from_catalog(
        known,
        gpus=[(known.gpu(name), 1) for name in gpus],
        models=models,
        prompt_tokens=prompt,
        output_tokens=output,
        concurrency=concurrency,
    )


@st.cache_resource(max_entries=32)
def decided(document: str, model: str | None, proof: str) -> Decision:
    return decide(Case.model_validate_json(document), model=model, proof=proof)


def show() -> None:
    layout.heading(
        "Choose", "Which model on which GPU meets what you need, why not the others, and is it worth owning?"
    )
    layout.guarded(everything)


def everything() -> None:
    shelf = layout.runs()
    asked, lengths = required()
    names, gpus, runs = among(shelf)
    found = [*of_runs(runs), *bounded(names, gpus, lengths)]
    made = selection.select(found, asked)
    layout.verdict(view.verdict(made))
    accepted(made)
    rejected(made)
    if made.accepted:
        layout.guarded(lambda: decision(made, shelf))


def required() -> tuple[Requirements, Lengths]:
    """What the visitor asks for; a limit at its end does not matter."""
    st.subheader("What it must do", anchor=False)
    one, two, three = st.columns(3)
    ttft_ms = one.number_input("Longest TTFT (ms; 0: any)", 0, 60_000, 0, 50, key="max_ttft_ms", bind="query-params")
    tpot_ms = one.number_input("Longest TPOT (ms; 0: any)", 0, 2_000, 0, 5, key="max_tpot_ms", bind="query-params")
    quality = two.selectbox("Quality", ["any", *QUALITY_CLASSES], key="min_quality", bind="query-params")
    spoken = sorted({one for model in catalog().models.values() for one in model.languages or ()})
    languages = two.multiselect("Languages", spoken, key="languages", bind="query-params")
    rent = three.number_input(
        "Highest rent (USD an hour; 0: any)", 0.0, 1_000.0, 0.0, 0.25, key="max_usd_per_hour", bind="query-params"
    )
    memory = three.number_input("Most GPU memory (GiB; 0: any)", 0, 10_000, 0, 8, key="max_gib", bind="query-params")
    prefer = st.segmented_control(
        "Of those that fit", list(view.PREFERENCES), default="cost", format_func=view.PREFERENCES.__getitem__,
        key="prefer", bind="query-params", required=True,
    )  # fmt: skip
    links.shown_as("prefer", view.PREFERENCES[prefer or "cost"])
    with st.expander("The requests it shall answer"):
        first, second, third = st.columns(3)
        prompt = first.number_input(
            "Prompt (tokens)", 1, 1_000_000, 1024, 256, key="prompt_tokens", bind="query-params"
        )
        output = second.number_input("Answer (tokens)", 1, 100_000, 256, 64, key="output_tokens", bind="query-params")
        many = third.number_input("Requests at once", 1, 10_000, 1, 1, key="at_once", bind="query-params")
    asked = Requirements(
        max_ttft_s=ttft_ms / 1000 or None,
        max_tpot_s=tpot_ms / 1000 or None,
        min_quality=None if quality == "any" else quality,
        languages=tuple(languages),
        max_memory_bytes=memory * GIB or None,
        max_usd_per_hour=rent or None,
        prefer=prefer or "cost",  # type: ignore[arg-type]  # checked by Requirements
    )
    return asked, (int(prompt), int(output), int(many))


def among(shelf: Shelf) -> tuple[tuple[str, ...], tuple[str, ...], list[Entry]]:
    """Which models, GPUs and runs to choose among; nothing chosen means: all of the catalogue."""
    with st.expander("Among which models, GPUs and runs (default: the whole catalogue)"):
        models = st.multiselect(
            "Models", list(catalog().models), key="models", accept_new_options=True,
            help="Known names, or the path of a directory with config.json, or of a safetensors or GGUF file.",
        )  # fmt: skip
        gpus = st.multiselect(
            "GPUs at hand, one of each", list(catalog().gpus), key="gpus_at_hand", bind="query-params"
        )
        known = {entry.id: entry for entry in shelf.runs if entry.measured}
        runs = st.multiselect("Runs, judged as measured", list(known), key="measured", bind="query-params")
    return tuple(models), tuple(gpus), [known[one] for one in runs]


def of_runs(runs: list[Entry]) -> list[Candidate]:
    found: list[Candidate] = []
    for entry in runs:
        document = open_run(entry.path).document
        found += candidates.from_run(document, catalog(), measured_on(document, catalog()))
    return found


def accepted(made: Selection) -> None:
    rows = view.points(made)
    if rows:
        drawn = [row for row in rows if row["says"] != "rejected"]
        layout.figure(
            charts.trade(rows, layout.palette()), rows, name="choose", title="Quality against cost",
            caption="Each point is a model in a quantization on a GPU. Quality is the makers' MMLU, lowered by what "
            "the deployment guide says a quantization loses; speeds that were not measured are bounds, which no "
            "server reaches, so costs are at least these.",
            words=f"{plural(len(drawn), 'candidate')} of {len(rows)} meet the requirements.",
        )  # fmt: skip
    numeric = ("TTFT", "TPOT", "tok/s", "$/h", "$/M out", "Memory", "Quality")
    shown = made.accepted if st.session_state.get("all_accepted") else made.accepted[:SHOWN]
    caption = f"{plural(len(made.accepted), 'candidate')} that would do, the best first"
    tabular.table(view.accepted_rows(shown), caption, numeric=numeric, words=("Met at its bound only",))
    if len(made.accepted) > SHOWN:
        st.toggle(f"Show all {len(made.accepted)}", key="all_accepted")
    tabular.csv_button(view.accepted_rows(made.accepted), "accepted", "All that would do as CSV")


def rejected(made: Selection) -> None:
    if not made.rejected:
        return
    tabular.table(view.reasons(made), "Why candidates are rejected", numeric=("Candidates",))
    with st.expander(f"All {plural(len(made.rejected), 'rejected candidate')}, each with its reasons"):
        word = st.text_input("Only those with this word in the name", key="rejected_word", bind="query-params")
        chosen: list[Judged] = [one for one in made.rejected if (word or "").lower() in one.candidate.name.lower()]
        tabular.table(view.rejected_rows(chosen[:100]), "Rejected", words=("Why not",))
        if len(chosen) > 100:
            note(f"The first 100 of {len(chosen)}; the CSV has all.")
        tabular.csv_button(view.rejected_rows(chosen), "rejected", "All rejected as CSV")


def decision(made: Selection, shelf: Shelf) -> None:
    """API, the same model by API, or own hardware, for one of the accepted."""
    st.subheader("API or own hardware", anchor=False)
    priced = [one.candidate for one in made.accepted if one.candidate.gpu]
    if not priced:
        note("What was measured here ran on no GPU of the catalogue, so there is no rent to hold against an API.")
        return
    names = {one.name: one for one in reversed(priced)}
    first, second, third = st.columns([3, 3, 2])
    name = first.selectbox(
        "Candidate", list(dict.fromkeys(one.name for one in priced)), key="candidate", bind="query-params"
    )
    api = second.selectbox(
        "API model", api_models(), index=api_models().index("openai/gpt-4o"), key="api_model", bind="query-params"
    )
    tokens = third.select_slider(
        "Tokens a month", TOKENS, value=5e8, format_func=tokens_words, key="demand",
        bind="query-params",
    )  # fmt: skip
    candidate = names[name or priced[0].name]
    found = decided(case(candidate, api or "openai/gpt-4o", float(tokens), shelf).model_dump_json(), candidate.model,
                    view.proof(candidate))  # fmt: skip
    layout.verdict(found.sentence)
    rows = view.way_rows(found)
    layout.figure(
        charts.ways(rows, layout.palette()), rows, name="decide", title="A month, each way",
        caption="Point: the median of 20,000 draws; bar: its 5th to 95th percentile. Every assumption, and how to "
        "change it, is on the Cost page.",
        words="; ".join(f"{row['way']}: {row['usd_p50']:,.0f} USD" for row in rows),
    )  # fmt: skip
    if found.sellers == 0:
        note(f"Nobody in the price list sells {candidate.model} by the token under that name.")
    st.markdown("**What would change it**")
    layout.notes(found.changes)
    tabular.table(
        [{"Way": row["way"], "Rests on": row["basis"]} for row in rows], "On what each rests", words=("Rests on",)
    )


def case(candidate: Candidate, api: str, tokens: float, shelf: Shelf) -> Case:
    """The example's case with this candidate, by its run's speed or by its bounds."""
    values = {"tokens_per_month": tokens}
    entry = next((one for one in shelf.runs if candidate.measured and one.id in candidate.source), None)
    if entry is not None:
        document = open_run(entry.path).document
        return assemble(
            read_document(None),
            source=EXAMPLE,
            catalog=catalog(),
            run=document,
            gpu=candidate.gpu,
            api=api,
            values=values,
        )
    return assemble(
        read_document(None), source=EXAMPLE, catalog=catalog(), gpu=candidate.gpu, gpus=candidate.gpus,
        model=candidate.model, quantization=candidate.quantization, api=api, values=values,
    )  # fmt: skip


show()
