"""A plan as it is written: is it one, where is it wrong, and how much will it do? Pure."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bench.errors import BenchError
from bench.plans.loads import Lengths, Load
from bench.plans.plan import PLANS, Plan, expand
from dashboards.library import Entry
from inputs.quantities import plural
from reports.names import listing

BUNDLED = tuple(sorted(path.stem for path in PLANS.glob("*.toml")))
P95_ANSWERS = 200
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Checked:
    """A plan, or what is wrong with its text and in which line, where that can be told."""

    plan: Plan | None
    problem: str | None = None
    line: int | None = None


def bundled(name: str) -> str:
    """The text of a plan that comes with Neural Bridge."""
    return (PLANS / f"{name}.toml").read_text(encoding="utf-8")


def check(text: str, *, base: Path, remote: bool) -> Checked:
    """The plan in `text`; `remote`: it is for a server that already runs. Files that it names are found from `base`."""
    try:
        return Checked(expand(tomllib.loads(text), source="the plan", base=base, remote=remote))
    except tomllib.TOMLDecodeError as error:
        said = re.search(r"line (\d+)", str(error))
        return Checked(None, f"This is not TOML: {error}.", int(said.group(1)) if said else None)
    except BenchError as error:
        return Checked(None, str(error), _line(text, str(error)))


def _line(text: str, problem: str) -> int | None:
    """The line that a problem speaks of: that of a key with the value it names, else of a key in its first words."""
    lines = text.splitlines()
    head = problem.removeprefix("the plan: ")
    if named := re.search(r"`([A-Za-z_]\w*)`", head):
        return _first(lines, named.group(1), "")
    if valued := re.match(r"(?:.*[.\]])?([A-Za-z_]\w*) = (.+?): ", head):
        key, value = valued.groups()
        return _first(lines, key, re.escape(value.strip("'"))) or _first(lines, key, "")
    for key in reversed(_KEY.findall(re.split(r":\s", head, maxsplit=1)[0])):
        if line := _first(lines, key, ""):
            return line
    return None


def _first(lines: list[str], key: str, value: str) -> int | None:
    """The first line in which `key` is set, to something that begins with `value`."""
    wanted = re.compile(rf"""(^|[\s{{,\[.]){re.escape(key)}\s*(=\s*["']?{value}|\])""")
    return next((number for number, line in enumerate(lines, 1) if wanted.search(line)), None)


def size(plan: Plan, *, remote: bool) -> str:
    """How much a plan does: engines, loads, cells, requests and tokens, as far as it says."""
    engines, loads = (1 if remote else len(plan.engines)), len(plan.loads)
    cells = engines * loads * plan.repeats
    what = "one server that runs" if remote else plural(engines, "engine")
    text = f"{what} × {plural(loads, 'load')} × {plural(plan.repeats, 'repeat')}: {plural(cells, 'cell')}"
    asked = [requests(load) for load in plan.loads]
    known = [one for one in asked if one is not None]
    if known:
        total = sum(known) * engines * plan.repeats
        at_least = "" if len(known) == len(asked) else "at least "
        text += f", {at_least}{total:,} requests"
        tokens = [_tokens(load, count) for load, count in zip(plan.loads, asked, strict=True) if count]
        if all(one is not None for one in tokens):
            text += f" of about {sum(one or 0 for one in tokens) * engines * plan.repeats:,.0f} tokens"
    return f"{text[0].upper()}{text[1:]}."


def requests(load: Load) -> int | None:
    """How many requests a load sends, None where that depends on the server."""
    if load.requests is not None:
        return load.requests
    if load.kind == "open" and load.rate_rps and load.seconds and not load.is_conversation:
        return round(load.rate_rps * load.seconds)
    return None


def _tokens(load: Load, count: int) -> float | None:
    lengths = [_mean(load.prompt_tokens), _mean(load.output_tokens)]
    return None if None in lengths else sum(one or 0.0 for one in lengths) * count


def _mean(length: Lengths | None) -> float | None:
    if length is None:
        return None
    if length.mean is not None:
        return length.mean
    return None if length.low is None or length.high is None else (length.low + length.high) / 2


def short(plan: Plan) -> str:
    """Which loads end before a p95 can be told; "" when none does."""
    few = [f"{load.name} ({asked})" for load in plan.loads if (asked := requests(load)) and asked < P95_ANSWERS]
    return f"No p95 of {listing(few, 6)}: it takes {P95_ANSWERS} answers." if few else ""


def took(plan: Plan, runs: Sequence[Entry], finished: dict[str, datetime]) -> str:
    """How long the newest finished run of a plan of this name took, as a guess; what is not known is said."""
    for run in runs:
        ended = finished.get(run.id)
        if run.name.removeprefix("target-") == plan.name and run.created and ended and run.cells:
            minutes = (ended - run.created).total_seconds() / 60
            per = f" ({run.cells} cells)"
            return f"The last run called {plan.name} took {max(minutes, 0.1):.1f} min{per}."
    return "How long it takes is known after its first cell: then the time that remains is shown."
