"""The number that `nbridge bench` ends with, from what became of the cells."""

from typing import Any

import pytest

from bench.run.beforehand import longest, short_loads
from bench.run.outcome import exit_code


def cell(outcome: str, **more: Any) -> dict[str, Any]:
    name = f"{outcome}-{more.pop('n', 1)}"
    return {"id": name, "outcome": outcome, "metrics": {} if outcome in ("ok", "invalid") else None, **more}


@pytest.mark.parametrize(
    ("cells", "code", "reasons"),
    [
        ([cell("ok"), cell("ok", n=2)], 0, []),
        ([cell("ok"), cell("oom", known_beforehand=True)], 0, []),  # by arithmetic, before a server was started
        ([cell("ok"), cell("oom", known_beforehand=False)], 1, ["oom: oom-1"]),
        ([cell("ok"), cell("unsupported")], 1, ["unsupported: unsupported-1"]),
        ([cell("ok"), cell("invalid")], 1, ["invalid: invalid-1"]),
        ([cell("invalid")], 1, ["invalid: invalid-1"]),
        ([cell("ok"), cell("failed"), cell("failed", n=2)], 1, ["failed: failed-1, failed-2"]),
        ([cell("ok"), *(cell("failed", n=n) for n in range(6))], 1,
         ["failed: failed-0, failed-1, failed-2, failed-3 and 2 more"]),
        ([cell("failed"), cell("timeout")], 4, ["failed: failed-1", "timeout: timeout-1"]),
        ([cell("oom", known_beforehand=True)], 4, ["no cell could be measured on this machine"]),
        ([cell("ok", metrics={"slo_share": 0.94})], 1, ["SLO missed: ok-1"]),
        ([cell("ok", metrics={"slo_share": 0.95})], 0, []),
        ([cell("ok", metrics={"slo_share": None})], 0, []),
    ],
)  # fmt: skip
def test_exit_code(cells: list[dict[str, Any]], code: int, reasons: list[str]) -> None:
    assert exit_code({"plan": {"slo": {"ttft_s": 1.0, "share": 0.95}}, "cells": cells}) == (code, reasons)


def test_a_run_of_an_earlier_version_has_no_share_to_miss() -> None:
    assert exit_code({"plan": {"slo": {"ttft_s": 1.0}}, "cells": [cell("ok", metrics={"slo_share": 0.1})]}) == (0, [])


def test_loads_too_short_for_a_p95_are_named() -> None:
    def of(**load: Any) -> dict[str, Any]:
        return {"load": {"kind": "closed", "requests": None, **load}}

    loads = [of(name="c1", requests=20), of(name="c16", requests=208), of(name="talk", scenario="conversation")]
    loads += [of(name="r8", kind="open", rate_rps=8.0, seconds=10.0)]
    said = short_loads({"cells": loads})
    assert said == "No p95 of c1 (20), r8 (80): it takes 200 answers, so medians are what these loads tell."
    assert short_loads({"cells": loads[1:3]}) == ""


def test_how_long_the_loads_may_take_is_known_where_each_ends_in_time() -> None:
    def of(engine: str, **load: Any) -> dict[str, Any]:
        return {"engine": {"name": engine}, "repeat": 1, "outcome": "pending", "load": {"requests": None, **load}}

    cells = [of("a", seconds=120.0), of("a", seconds=60.0, requests=20), of("b", seconds=120.0)]
    plan: dict[str, Any] = {"capacity": None}
    said = longest({"plan": plan, "cells": cells})
    assert said == "The loads take 5 min at most; starts of servers come on top."
    plan["capacity"] = {"max_time_s": 55.0}
    assert "another 1.8 min" in longest({"plan": plan, "cells": cells})  # 110 s
    cells[0]["outcome"] = "ok"
    assert "take 3 min at most" in longest({"plan": plan, "cells": cells})  # of a run that was taken up again
    cells[1]["load"]["seconds"] = None
    assert longest({"plan": plan, "cells": cells}) == ""
