"""The line that an objective is written as: what it means, what is refused and with which words."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import PlanError
from bench.plans.plan import expand
from bench.plans.tables import Slo
from bench.run.outcome import exit_code
from bench.run.slo import EXAMPLE, STATISTICS, Condition, limits, parse, text


def test_a_line_is_conditions_on_figures() -> None:
    assert parse(" TTFT_p95 < 500 ms, tpot_p95<=0.05 ,errors<1%,") == (
        Condition("ttft", "p95", 0.5),
        Condition("tpot", "p95", 0.05, strict=False),
        Condition("errors", None, 0.01),
    )
    assert parse("e2e_mean<2min,itl_median≤40ms,error_rate<0.02") == (
        Condition("e2e", "mean", 120.0),
        Condition("itl", "p50", 0.04, strict=False),
        Condition("errors", None, 0.02),
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "is empty. For example: ttft_p95<0.5"),
        ("ttft_p95<500", "'500' is 500 s, longer than makes sense here (30 s at most); 500ms? (500s if you mean it)"),
        ("tpot<20", "tpot needs a statistic. Known: tpot_p50, tpot_p90, tpot_p95, tpot_p99, tpot_mean"),
        ("tpot_p95<20", "20ms?"),
        ("ttft_p95<0", "a limit of time is above 0"),
        ("ttft_p95<-1", "'-1' is no duration"),
        ("ttft_p95<nan", "'nan' is no duration"),
        ("ttft_p95<1e999", "a limit of time is above 0"),
        ("ttft_p95>0.5", "a limit is set with < or <="),
        ("ttft_p95=0.5", "a limit is set with < or <="),
        ("ttft_p95 0.5", "expected FIGURE<LIMIT"),
        ("ttft_p97<1", "'p97' is no statistic"),
        ("tftt_p95<1", "tftt_p95 is no figure. Did you mean ttft_p95?"),
        ("throughput<5", "throughput is no figure. Known: ttft, tpot, itl, e2e with _p50 … _p99 or _mean; errors."),
        ("ttft_p95<0.5,,errors<0.01", "an empty condition between two commas"),
        ("ttft_p95<0.5,ttft_p95<0.6", "ttft_p95 is limited twice, by ttft_p95<0.5 and ttft_p95<0.6"),
        ("errors<1", "For percent write errors<1%."),
        ("errors<101%", "above 0 and below 1"),
        ("errors<0", "above 0 and below 1"),
        ("errors<5ms", "above 0 and below 1"),
        # as other tools write them: vllm bench --goodput, aiperf --goodput, k6's thresholds, Artillery's ensure, PromQL
        ("ttft:500 tpot:50", "that is how other tools write a limit per request, in ms"),
        ("time_to_first_token:300 inter_token_latency:25", "in ms"),
        ("p(95)<500", "expected FIGURE<LIMIT"),
        ("http.response_time.p95<200", "expected FIGURE<LIMIT"),
        ("histogram_quantile(0.95, rate(x[5m])) < 0.5", "expected FIGURE<LIMIT"),
        ("ttft_p95<" + "9" * 2000, "2,009 characters are no objective"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_the_reason(line: str, words: str) -> None:
    with pytest.raises(PlanError) as refused:
        parse(line)
    assert words in str(refused.value)
    assert str(refused.value).startswith("--slo")


def test_with_its_unit_a_long_limit_is_taken_and_stays_so() -> None:
    (slow,) = parse("ttft_p95<500s")
    assert (slow.limit, slow.text) == (500.0, "ttft_p95<500s")
    assert parse(slow.text) == (slow,)


conditions = st.builds(
    Condition,
    st.sampled_from(["ttft", "tpot", "itl", "e2e"]),
    st.sampled_from(STATISTICS),
    st.floats(1e-6, 1e6).map(lambda value: float(f"{value:.12g}")),
    st.booleans(),
)


@given(st.lists(conditions, min_size=1, max_size=20, unique_by=lambda one: one.name))
def test_what_is_written_is_read_back(wanted: list[Condition]) -> None:
    assert parse(text(wanted)) == tuple(wanted)


@given(st.one_of(st.text(max_size=60), st.from_regex(r"[a-z_0-9]{1,9}[<=>:]{1,2}.{0,9}")))
def test_whatever_is_typed_is_read_or_refused(line: str) -> None:
    try:
        found = parse(line)
    except PlanError as refused:
        assert str(refused).startswith("--slo")
    else:
        assert parse(text(found)) == found


def test_goodput_counts_by_the_highest_percentile_of_each_latency() -> None:
    line = parse("ttft_p50<0.2,ttft_p99<2,tpot_mean<0.03,itl_p95<0.05,e2e_p95<9,errors<0.1")
    assert limits(line) == {"ttft_s": 2.0, "e2e_s": 9.0}
    assert Slo(conditions="ttft_p95<0.5", ttft_s=0.4).limits() == {"ttft_s": 0.4}


METRICS: dict[str, Any] = {
    "requests": {"total": 110, "ok": 97, "failed": 2, "dropped": 1, "aborted": 10},
    "ttft_s": {"n": 97, "mean": 0.2, "p50": 0.1},
    "ttft_from_schedule_s": {"n": 97, "mean": 0.3, "p50": 0.2},
    "tpot_s": None,
    "slo_share": 0.9,
}


@pytest.mark.parametrize(
    ("line", "from_schedule", "value"),
    [
        ("ttft_p50<1", False, 0.1),
        ("ttft_p50<1", True, 0.2),
        ("ttft_mean<1", True, 0.3),
        ("ttft_p95<1", False, None),  # too few for it
        ("tpot_p50<1", False, None),  # nobody counted tokens
        ("errors<0.5", False, 0.03),  # of the hundred that were not aborted
    ],
)
def test_a_figure_is_read_from_a_cells_metrics(line: str, from_schedule: bool, value: float | None) -> None:
    (condition,) = parse(line)
    assert condition.value(METRICS, from_schedule=from_schedule) == (None if value is None else pytest.approx(value))


def test_a_plan_says_it_as_a_line_or_as_a_table() -> None:
    def slo(given: Any) -> Slo:
        document = {
            "defaults": {"engine": {"model": "demo-1m"}},
            "loads": [{"concurrency": 1, "requests": 2}],
            "slo": given,
        }
        return expand(document, source="plan.toml").slo

    line = slo("ttft_p95<500ms, errors<1%")
    assert line == slo({"conditions": "ttft_p95<0.5,errors<0.01"})
    assert [one.text for one in line.all_conditions()] == ["ttft_p95<0.5", "errors<0.01"]
    table = slo({"ttft_s": 0.5, "tpot_s": 0.05, "share": 0.9})
    assert [one.text for one in table.all_conditions()] == ["missed<=0.1"]
    assert table.limits() == {"ttft_s": 0.5, "tpot_s": 0.05}
    assert slo({}).all_conditions() == ()
    with pytest.raises(PlanError, match=r"plan\.toml: slo.*tpot needs a statistic"):
        slo("tpot<20")


def test_a_cell_misses_a_line_by_its_figures() -> None:
    def code(line: str) -> int:
        cell = {"id": "a", "outcome": "ok", "metrics": METRICS, "load": {"kind": "closed"}}
        return exit_code({"plan": {"slo": {"conditions": line, "share": 0.95}}, "cells": [cell]})[0]

    assert code("ttft_p50<0.11,errors<0.04") == 0  # the share is of tables with limits per request
    assert code("ttft_p50<0.1") == 1
    assert code("ttft_p95<0.01") == 0  # not known


def test_the_example_is_one() -> None:
    assert text(parse(EXAMPLE)) == EXAMPLE
