"""What the pages of planning show, with numbers worked by hand; and that every figure is one."""

import datetime
import math

import pytest

from dashboards import drawing
from dashboards.screens.benchmarks import charts as benchmarks_charts
from dashboards.screens.benchmarks import view as benchmarks
from dashboards.screens.capacity import charts as capacity_charts
from dashboards.screens.capacity import view as capacity
from dashboards.screens.claims import charts as claims_charts
from dashboards.screens.claims import view as claims
from dashboards.screens.compare import charts as compare_charts
from dashboards.screens.cost import charts as cost_charts
from dashboards.screens.cost import view as cost
from dashboards.theme import DARK, LIGHT
from planning import catalogs
from planning.catalog_entries import Spread
from planning.claims.audit import audit, roi_table
from planning.claims.claimfile import guide
from planning.cost.assumptions import load_case, quantities
from planning.cost.estimate import demand_curve, estimate, utilization_curve
from planning.cost.uncertainty import Quantity, Range
from planning.errors import BadInput
from planning.memory import models, vram
from planning.memory.sharding import Setting
from planning.speed.capacity import replicas
from reports.figures.memory_bars import byte_ticks, stacks
from reports.measured.cells import Report

# --- capacity


@pytest.fixture(scope="module")
def on_4090() -> vram.Estimate:
    known = catalogs.load()
    setting = Setting(gpu_memory_utilization=0.92)
    shape = models.read("llama-3.1-8b")
    return vram.estimate(shape, known.gpu("rtx-4090"), setting, context_tokens=8192, concurrency=8)


def test_the_stack_ends_with_the_cache_that_is_asked_for(on_4090: vram.Estimate) -> None:
    rows = capacity.memory_rows(on_4090)
    assert rows[0]["part"] == "weights"
    assert rows[0]["bytes"] == pytest.approx(8_030_261_248 * 2, rel=0.001)
    assert rows[-1]["part"] == "KV cache needed"
    assert rows[-1]["bytes"] == 8 * 8192 * 131_072
    assert capacity.verdict(on_4090).startswith("It does not fit.")


def test_more_context_leaves_room_for_fewer_sequences(on_4090: vram.Estimate) -> None:
    rows = capacity.trade_rows(on_4090)
    most = [row["sequences_mode"] for row in rows]
    assert most == sorted(most, reverse=True)
    assert all(row["sequences_low"] <= row["sequences_mode"] <= row["sequences_high"] for row in rows)


def test_replicas_are_drawn_as_steps() -> None:
    rows = capacity.replica_rows(2.0, 4.0, headroom=0.5, spares=1)  # a server is planned with 1 request/s
    at = {round(row["peak_rps"], 3): row["servers"] for row in rows}
    assert (at[1.0], at[4.0], at[12.0]) == (2, 5, 13)
    words = capacity.replica_words(replicas(4.0, 2.0, headroom=0.5, spares=1))
    assert words.startswith("4 servers for the peak of 4.00 requests/s and 1 spare: 5 servers in all, 40 % busy")
    assert "With one lost, the others are 50 % busy" in words
    alone = capacity.replica_words(replicas(1.0, 2.0, headroom=1.0, spares=0))
    assert alone.endswith("When it is lost, nothing answers.")


def test_prices_are_told_with_their_range() -> None:
    assert capacity.dollars(Spread(low=0.8, mode=1.2, high=2), "/h") == "$1.20/h ($0.80 to $2.00)"
    assert capacity.dollars(Spread(low=3000, mode=3000, high=3000), "") == "$3,000"
    assert capacity.dollars(None, "") == "no price known"


def test_impossible_measurements_are_told() -> None:
    shape, gpu = models.read("llama-3.1-8b"), catalogs.load().gpu("rtx-4090")
    cell = {
        "id": "a-c1-r1", "engine": {"name": "a"}, "load": {"concurrency": 1},
        "metrics": {"requests": {"ok": 10}, "mean_in_flight": 1.0, "prompt_tokens": 640, "output_tokens": 320,
                    "output_throughput_tok_s": 200.0},
    }  # fmt: skip
    (said,) = capacity.above_words([cell], {"a": shape}, gpu)
    assert said.startswith("a-c1-r1: output throughput 200 tokens/s is")  # 1,008 GB/s ÷ 15 GB: about 67 tokens/s


# --- cost


def test_an_assumption_is_read_as_it_is_written() -> None:
    quantity = Quantity(low=300, mode=750, high=1500)
    assert cost.quantity_text(quantity) == "300 / 750 / 1500"
    assert cost.parsed("300 / 750 / 1500", "x") == (300, 750, 1500)
    assert cost.parsed("1,500", "x") == 1500
    assert cost.quantity_text(Quantity.point(0.5)) == "0.5"
    for text in ("", "a", "1 / 2", "1/2/3/4"):
        with pytest.raises(BadInput, match="low / most likely / high"):
            cost.parsed(text, "x")


def test_a_slider_takes_its_range_along_and_stays_where_it_may_be() -> None:
    assert cost.moved(Quantity(low=5, mode=10, high=20), 30) == (15, 30, 60)
    assert cost.moved(Quantity(low=0, mode=0, high=0.5), 0.2) == (0.2, 0.2, 0.5)
    case = cost.with_slider(load_case(), "peak_to_mean", 1)
    moved = quantities(case)["peak_to_mean"]
    assert (moved.low, moved.mode, moved.high) == (1, 1, 2)  # half of 1 cannot be: a peak is at least the mean


def test_one_bad_edit_spoils_no_other() -> None:
    case, problems = cost.edited(load_case(), {"wage_usd_per_hour": "100", "lost_share": "-1", "headroom": "x"})
    assert quantities(case)["wage_usd_per_hour"].mode == 100
    assert len(problems) == 2
    assert any("lost_share = -1" in said for said in problems)


def test_amounts_are_told_as_people_say_them() -> None:
    assert [cost.usd(value) for value in (1234.4, 0.2351, -45.0, math.inf)] == ["$1,234", "$0.235", "−$45.0", "never"]
    assert [cost.tokens(value) for value in (10e6, 1.5e9, 999, math.inf)] == ["10.0 M", "1.50 G", "999", "never"]
    assert cost.spread(Range(100, 200, 300, 200)) == "$100 to $300"


def test_the_answer_in_words_and_figures() -> None:
    case = load_case()
    found = estimate(case, draws=2_000)
    assert cost.verdict(found).startswith("openai/gpt-4o is almost certainly cheaper: own hardware wins in no draw.")
    rows = cost.result_rows(found)
    assert [row["Unit"] for row in rows][:3] == ["per month"] * 3
    bars = cost.tornado_rows(found)
    widths = [abs(row["saving_at_high_usd"] - row["saving_at_low_usd"]) for row in bars]
    assert widths == sorted(widths, reverse=True)
    assert [row[""] for row in cost.parts_rows(found)] == ["rent", "labour", "storage"]
    axis = cost.demand_axis(case, found.break_even_tokens)
    drawn = cost.demand_rows(demand_curve(case, axis, draws=200))
    assert len(drawn) == 2 * len(axis)
    assert {row["Date"] for row in cost.assumption_rows(case)} >= {"2026-11-22"}
    own = cost.utilization_rows(utilization_curve(case, cost.shares(3)))
    assert [row["utilization"] for row in own] == pytest.approx([0.001, 0.0316, 1.0], rel=0.01)


def test_what_is_said_tabled_and_drawn_of_the_cost_is_one_number() -> None:
    # The median over the draws: in words, in the tile, as the dotted line, and where the drawn medians cross.
    case = load_case()
    found = estimate(case, draws=20_000)
    even = found.break_even_tokens.p50
    assert f"becomes cheaper at {even / 1e6:.0f} M tokens/month" in cost.verdict(found)
    assert {fact[0]: fact[1] for fact in cost.facts(found)}["Break-even"] == cost.tokens(even)
    assert cost.even_rows(found.break_even_tokens)[0]["p50"] == even
    below, above = (demand_curve(case, [even * factor], draws=4_000) for factor in (0.93, 1.07))
    assert below.own_usd[0].p50 > below.api_usd[0].p50
    assert above.own_usd[0].p50 < above.api_usd[0].p50
    # A million tokens at the utilization that the demand gives: the curve's median and the table's.
    used = found.utilization.p50
    ((_, drawn),) = utilization_curve(case, [used], draws=4_000)
    assert drawn.p50 == pytest.approx(found.own_usd_per_mtok["as asked for"].p50, rel=0.1)


def test_a_break_even_that_most_draws_do_not_have_is_not_drawn() -> None:
    assert cost.even_rows(Range(1e6, math.inf, math.inf, math.inf)) == []
    assert cost.even_rows(Range(1e6, 2e6, math.inf, math.inf)) == [{"p5": 1e6, "p50": 2e6, "p95": None}]


def test_the_guides_table_is_recomputed() -> None:
    rows = cost.roi_rows(roi_table())
    assert (rows[0]["12 months"], rows[0]["24 months"]) == ("$4,800", "$9,600")


# --- claims


def test_the_guides_claims_are_judged() -> None:
    found = audit(guide(), on=datetime.date(2026, 11, 22))
    assert f"of {len(found.findings)} claims, {len(found.wrong)} are wrong or inconsistent" in claims.verdict(found)
    rows = claims.rows(found.findings)
    assert {row["Verdict"] for row in rows} == {"Wrong", "Not supported", "Right"}
    deepseek = next(row for row in rows if "DeepSeek-V2 is 236 GB" in row["Claim"])
    assert (deepseek["Said"], deepseek["Holds"]) == ("236 GB", "471 GB")
    walked = [one for one in found.findings if one.walk]
    for one in walked:
        assert [row["ratio"] for row in claims.walk_rows(one)] == [step.ratio for step in one.walk]
    assert len(claims.csv_rows(found.findings)) == len(found.findings)


# --- figures


def test_ticks_are_few_and_inside() -> None:
    assert drawing.decades([1, 1e5]) == [1, 10, 100, 1e3, 1e4, 1e5]
    assert drawing.decades([0.2, 4]) == [0.2, 0.5, 1, 2]
    assert byte_ticks(3 * 2**30) == [index * 2**29 for index in range(7)]


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_every_figure_is_valid_vega(reference: Report, on_4090: vram.Estimate, palette) -> None:
    drawn = benchmarks.pareto(reference, "e2e_s")
    assert drawing is not None
    case = load_case()
    found = estimate(case, draws=500)
    axis = [1e6, 1e8, 1e10]
    gpu = on_4090.gpu
    changed = {"engine": "a", "load": "b", "figure": "c", "change": 0.2, "low": 0.1, "high": 0.3, "says": "better"}
    points = [{"run": 1, "run_id": "r", "created": "2026", "value": 1.0, "level": 1.0, "part": 0}]
    marks = [{"at": 1.5, "says": "worse", "change": "−9 %"}]
    made = [
        benchmarks_charts.pareto(drawn.rows, reference.engines, palette, axis="E2E", limit_s=2.0),
        benchmarks_charts.memory(benchmarks.memory_rows(stacks(reference)), palette, kind="Memory"),
        benchmarks_charts.quality(
            [
                {
                    "engine": e,
                    "delta_nll": v,
                    "delta_nll_low": low,
                    "delta_nll_high": 0.2,
                    "output_tok_s": 3,
                    "says": "w",
                }
                for e, v, low in (("bf16", 0.0, None), ("int8", 0.1, 0.05))
            ],
            reference.engines,
            palette,
        ),
        compare_charts.changes([changed, {**changed, "low": None, "high": None}], 0.05, palette),
        compare_charts.history(points, [], "TTFT", is_time=True, palette=palette),
        compare_charts.history(points, marks, "tok/s", is_time=False, palette=palette),
        capacity_charts.stack(
            capacity.memory_rows(on_4090), palette, budget_bytes=on_4090.budget.mode, total_bytes=on_4090.total.mode
        ),
        capacity_charts.trade(capacity.trade_rows(on_4090), palette, context_tokens=8192, concurrency=8),
        capacity_charts.bounds(capacity.bound_rows(on_4090.shape, gpu, 1, 8192), palette),
        capacity_charts.steps(capacity.replica_rows(1, 4, headroom=0.7, spares=1), palette, peak_rps=4),
        *(
            cost_charts.demand(
                cost.demand_rows(demand_curve(case, axis, draws=50)), palette, asked_tokens=1e7, even=even
            )
            for even in ([], [{"p5": 1e7, "p50": 2e7, "p95": None}], [{"p5": 1e7, "p50": 2e7, "p95": 3e7}])
        ),
        cost_charts.tornado(cost.tornado_rows(found), palette, centre_usd=-500.0),
        cost_charts.utilization(
            [{"utilization": 0.1, "usd_per_mtok": 2.0, "usd_p5": 1.0, "usd_p95": 3.0}],
            palette,
            api=[{"name": "x", "usd_per_mtok": 4.0}],
            actual=0.5,
        ),
        claims_charts.walk([{"order": 0, "step": "1.", "ratio": 860.0, "what": "as stated"}], palette),
    ]
    for chart in made:
        document = chart.to_dict()
        assert document["usermeta"]["embedOptions"]["actions"] is False
        assert "http" not in str({key: value for key, value in document.items() if key != "$schema"})
        assert all(layer.get("data", {}).get("values") != [] for layer in document.get("layer", ()))  # Vega would warn
