"""Measure: pick or write a plan, start it, watch it, cancel it, go on with one that was cut off."""

from datetime import datetime
from pathlib import Path

import streamlit as st

from bench.errors import BenchError
from bench.run.store import is_at_work
from dashboards import layout
from dashboards.errors import DashboardError
from dashboards.layout import note
from dashboards.library import Entry, Shelf
from dashboards.screens.measure import jobs, plans, progress
from dashboards.screens.measure.plans import Checked
from inputs.quantities import plural, seconds
from monitoring.scrape.address import normalised

settings = layout.settings()
OWN = "your own"
PRESSED = "start_pressed"
LINES = 14  # of what it printed, while it runs


def show() -> None:
    layout.heading("Measure", "Start a measurement on this machine, or of a server that runs, and watch it.")
    if not allowed():
        note(
            "Measurements are started from this machine alone: this page came through a proxy or from another address. "
            "`nbridge dashboard --allow-measuring` allows it to whoever can open the page.",
            bad=True,
        )
        return
    shelf = layout.runs()
    busy = jobs.at_work(settings.runs)
    if busy is not None:
        watching(busy.id)
    else:
        ended()
    elsewhere = [run.id for run in shelf.runs if not run.finished and is_at_work(run.path)] if busy is None else []
    if elsewhere:
        note(f"A bench that was not started here is at work in {elsewhere[0]}: two at once would measure each other.")
    st.subheader("A new measurement", anchor=False)
    chosen(shelf, bool(busy or elsewhere))
    layout.guarded(lambda: unfinished(shelf, bool(busy or elsewhere)))


def allowed() -> bool:
    """Whether this visitor may start processes here."""
    return jobs.may_start(dict(st.context.headers), st.context.ip_address, settings.allow_measuring)


@st.fragment(run_every=2)
def watching(job_id: str) -> None:
    """The measurement at work; when it ends, the whole page is drawn anew."""
    job = next((one for one in jobs.jobs(settings.runs) if one.id == job_id), None)
    if job is None or not jobs.is_alive(job):
        st.rerun()
    assert job is not None  # noqa: S101 (st.rerun does not return; this tells the type checker)
    st.subheader(f"At work: {job.what}", anchor=False)
    run_dir, began_with = jobs.run_of(job)
    found = None if run_dir is None else progress.progress(run_dir)
    if found is None:
        note("It looks at the plan and the machine; the run folder comes next.")
    else:
        left_s = found.remaining_s(job.seconds, began_with)
        st.progress(found.share, progress.words(found, left_s))
        if found.figures:
            layout.facts(found.figures)
        if found.failed:
            note(f"So far without a valid measurement: {'; '.join(found.failed[:6])}.", bad=True)
    where = f", in {layout.place(run_dir)}" if run_dir else ""
    note(f"Since {seconds(job.seconds)}{where}. It goes on without this page.")
    if st.button("Cancel", key="cancel", help="What is measured stays, and the run can be gone on with."):
        jobs.cancel(job)
        note("Asked to end: the cell in work is cut off, what was measured is kept, and the report is written.")
    with st.expander("What it prints"):
        st.code("\n".join(jobs.said(job).splitlines()[-LINES:]) or "nothing yet", language=None)


def ended() -> None:
    """What became of the newest measurement that was started here."""
    job = next(iter(jobs.jobs(settings.runs)), None)
    if job is None:
        return
    run_dir, _ = jobs.run_of(job)
    code = jobs.exit_code(job)
    st.subheader(f"Ended: {job.what}", anchor=False)
    outcome = {0: "Every cell is ok.", 1: "Some cells are invalid or failed, or missed the SLO.", 2: "It was refused.",
               3: "This machine lacks something.", 4: "Nothing was measured.", 130: "It was cancelled."}  # fmt: skip
    if code is not None:
        note(outcome.get(code, f"It ended with exit code {code}."), bad=code not in (0, 130))
    if run_dir is not None and (run_dir / "run.json").exists():
        st.page_link("screens/benchmarks/page.py", label="All its figures", icon=":material/bar_chart:",
                     query_params={"run": run_dir.name})  # fmt: skip
    with st.expander("What it printed at its end", expanded=run_dir is None or code in (2, 3, 4)):
        st.code("\n".join(jobs.said(job).splitlines()[-40:]) or "nothing", language=None)


def chosen(shelf: Shelf, busy: bool) -> None:
    left, right = st.columns(2)
    options = [*plans.BUNDLED, OWN]
    name = left.selectbox("Plan", options, index=options.index("default"), key="plan", bind="query-params") or "default"
    url = right.text_input(
        "A server that already runs (its address; empty: the plan's engines are started here)", key="target",
        bind="query-params", placeholder="http://127.0.0.1:8000",
    )  # fmt: skip
    target, problem = address(url)
    if problem:
        st.error(problem, icon=":material/error:")
    text = edited(name)
    checked = plans.check(text, base=settings.runs / jobs.FOLDER, remote=bool(target))
    judged(checked, text, shelf, remote=bool(target))
    ready = checked.plan is not None and problem is None and not busy
    what = f"{checked.plan.name if checked.plan else name}{f' on `{target}`' if target else ''}"
    if st.button("Start", key="start", disabled=not ready, on_click=press):
        begin(what, plan=text, target=target)
    elif st.session_state.pop(PRESSED, False):  # on a page that was drawn before another visitor started one
        note(f"Not started: {'another measurement is at work' if busy else 'what is wrong stands above'}.", bad=True)


def press() -> None:
    """Start was pressed, whether or not it may still be when the page is drawn anew."""
    st.session_state[PRESSED] = True


def address(url: str | None) -> tuple[str | None, str | None]:
    """The server's address, and what is wrong with it."""
    if not url or not url.strip():
        return None, None
    try:
        return normalised(url), None
    except ValueError as error:
        return None, f"{error}."


def edited(name: str) -> str:
    """The plan's text, as it comes or as the visitor wrote it; each plan keeps its own edits."""
    key = f"text_{name}"
    first = plans.bundled("default" if name == OWN else name)
    with st.expander("The plan, to read and to change", expanded=name == OWN):
        found = st.text_area(
            "Plan (TOML)", first, key=key, height=340, max_chars=1_000_000,
            help="docs/measuring.md has every key. Ctrl+Enter, or leaving the field, checks what you wrote.",
        )  # fmt: skip
    return found or ""


def judged(checked: Checked, text: str, shelf: Shelf, *, remote: bool) -> None:
    """How much the plan does, or what is wrong with it and where."""
    if checked.plan is None:
        where = f"Line {checked.line}: " if checked.line else ""
        st.error(f"{where}{checked.problem}", icon=":material/error:")
        if checked.line:
            lines = text.splitlines()
            first = max(0, checked.line - 3)
            marked = [f"{'→' if n + 1 == checked.line else ' '} {n + 1:>3}  {lines[n]}"
                      for n in range(first, min(len(lines), checked.line + 2))]  # fmt: skip
            st.code("\n".join(marked), language=None)
        return
    paid = "a server elsewhere may charge for these tokens; " if remote else ""
    cost = f"Cost: {paid}on this machine it takes its processors or GPUs for that time. Stop what else is at work here."
    said = (plans.size(checked.plan, remote=remote), plans.short(checked.plan),
            plans.took(checked.plan, shelf.runs, finished(shelf)), cost)  # fmt: skip
    layout.notes([text for text in said if text])


def finished(shelf: Shelf) -> dict[str, datetime]:
    """When the newest finished runs ended, by their id; a few, because each run.json is read."""
    found = {}
    for run in [run for run in shelf.runs if run.finished][:20]:
        try:
            ended = datetime.fromisoformat(str(layout.report(run).document.get("finished")))
        except (ValueError, OSError, BenchError):  # or it was deleted since the list was read
            continue
        found[run.id] = ended if ended.tzinfo else ended.astimezone()
    return found


def begin(what: str, *, plan: str | None = None, target: str | None = None, resume: Path | None = None) -> None:
    st.session_state.pop(PRESSED, None)
    try:
        jobs.start(settings.runs, what, plan=plan, target=target, resume=resume)
    except DashboardError as error:
        st.error(str(error), icon=":material/error:")
        return
    st.rerun()


def unfinished(shelf: Shelf, busy: bool) -> None:
    """The runs that were cut off, each to be gone on with."""
    left = [run for run in shelf.runs if not run.finished and run.cells and not is_at_work(run.path)][:8]
    if not left:
        return
    st.subheader("Cut off, to be gone on with", anchor=False)
    for run in left:
        with st.container(horizontal=True, vertical_alignment="center"):
            note(f"{run.id}: {run.measured} of {plural(run.cells, 'cell')} valid, {pending(run)} to be measured.")
            if st.button("Resume", key=f"resume-{run.id}", disabled=busy):
                begin(f"{run.name}, resumed", resume=run.path)


def pending(run: Entry) -> int:
    return sum(cell.outcome == "pending" for cell in layout.report(run).every)


show()
