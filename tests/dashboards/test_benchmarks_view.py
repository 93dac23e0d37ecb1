"""What Benchmarks shows of one run, with numbers taken from the reference run's tables."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_shelf import add_run

from bench.run.store import open_run
from dashboards import drawing, library
from dashboards.screens.benchmarks import charts as benchmarks_charts
from dashboards.screens.benchmarks import view as benchmarks
from dashboards.theme import DARK, LIGHT
from reports.figures.memory_bars import stacks
from reports.measured.cells import Report
from reports.measured.reading import stored


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
