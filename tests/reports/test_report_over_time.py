"""Where the time to the first token goes and cells over time, from made-up records and a server's pages."""

import json
from pathlib import Path

import made_runs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.run.stats.beside import beside_load
from bench.run.stats.growth import totals
from reports.content import content
from reports.figures.first_token import bars
from reports.figures.over_time import most_loaded
from reports.measured.timelines import POINTS, thinned, timeline
from reports.report import read_report, write_report


def samples(until_s: int, **series: list[float]) -> pa.Table:
    """One sample a second from −1 s on, of the server's series by their names without `vllm:`."""
    rows = [
        {"t_s": float(at - 1), "source": "server", "name": f"vllm:{name}", "labels": '{"engine": "0"}', "value": value}
        for name, values in series.items()
        for at, value in enumerate(values[: until_s + 2])
    ]
    return pa.Table.from_pylist(rows)


def page(n: int, ttft_s: float, queue_s: float, prefill_s: float) -> str:
    """A metrics page of a server that has answered `n` requests with these means."""
    means = {"time_to_first_token": ttft_s, "request_queue_time": queue_s, "request_prefill_time": prefill_s}
    return "".join(
        f"# TYPE vllm:{name}_seconds histogram\nvllm:{name}_seconds_sum {n * mean}\nvllm:{name}_seconds_count {n}\n"
        for name, mean in means.items()
    )


def put_beside(run: made_runs.RunFolder, cell: dict, taken: pa.Table | None, after: str | None) -> None:
    """What is recorded beside a cell's requests, and the metrics that follow."""
    folder = run.path / "cells" / cell["id"]
    if taken is not None:
        pq.write_table(taken, folder / "samples.parquet")
    if after is not None:
        (folder / "metrics_before.prom").write_text(page(0, 0, 0, 0))
        (folder / "metrics_after.prom").write_text(after)
    requests = pq.read_table(folder / "requests.parquet")
    pages = (totals(page(0, 0, 0, 0)), totals(after)) if after else (None, None)
    cell["metrics"] |= beside_load(requests, cell["load"], cell["metrics"], pages, taken)


@pytest.fixture
def run(tmp_path: Path) -> made_runs.RunFolder:
    """Two engines, at 1 and 4 users each; int8's server has no histograms."""
    run = made_runs.RunFolder(tmp_path / "run")
    busy = samples(
        30,
        num_requests_running=[0.0] + [4.0] * 40,
        num_requests_waiting=[0.0] * 10 + [3.0] * 40,
        kv_cache_usage_perc=[0.1] * 20 + [0.9] * 20,
        num_preemptions_total=[5.0] * 8 + [7.0] * 30,
        prefix_cache_hits_total=[0.0] * 5 + [10.0] * 40,
        prefix_cache_queries_total=[0.0] * 5 + [40.0] * 40,
    )
    for name in ("bf16", "int8"):
        for users in (1, 4):
            made_runs.add_measured(run, name, users)
            cell = run.cells[-1]
            mean = cell["metrics"]["ttft_s"]["mean"]
            n = cell["metrics"]["requests"]["ok"]
            put_beside(run, cell, busy, page(n, mean - 0.003, mean / 2, mean / 4) if name == "bf16" else None)
    return run


def test_bars_are_of_each_engine_and_load(run: made_runs.RunFolder) -> None:
    report = read_report(run.write())
    found = bars(report)
    assert [(bar.engine, bar.load.level) for bar in found] == [("bf16", 1), ("int8", 1), ("bf16", 4), ("int8", 4)]
    first = found[0]
    mean = run.cells[0]["metrics"]["ttft_s"]["mean"]
    assert first.parts["network_s"] == pytest.approx(0.003)
    assert first.parts["queue_s"] == pytest.approx(mean / 2)
    assert first.parts["server_s"] == pytest.approx(mean / 4 - 0.003)
    assert first.total_s == pytest.approx(mean)
    assert set(found[1].parts) == {"client_s", "connect_s", "undivided_s"}
    assert found[1].unknown == "there is no /metrics page of the server"
    assert not any(cell.differences for cell in report.every)


def test_the_report_shows_both_figures_and_says_what_is_not_known(run: made_runs.RunFolder) -> None:
    paths = write_report(run.write())
    names = {path.name for path in paths.figures}
    assert {"first-token.svg", "over-time-bf16-closed-c4-r1.svg", "over-time-int8-closed-c4-r1.svg"} <= names
    assert not {name for name in names if name.startswith("over-time") and "c1" in name}  # only the most loaded
    text = paths.markdown.read_text(encoding="utf-8")
    assert "not told apart, because there is no /metrics page of the server" in text.replace("\\", "")
    assert "2 preemptions." in text
    assert text.index("Distributions of latency") < text.index("over time") < text.index("## Memory")
    html = paths.html.read_text(encoding="utf-8")
    assert 'id="first-tokens"' in html
    assert len(html.encode()) < 600_000


def test_a_negative_rest_is_drawn_and_said(run: made_runs.RunFolder) -> None:
    cell = run.cells[0]
    mean, n = cell["metrics"]["ttft_s"]["mean"], cell["metrics"]["requests"]["ok"]
    put_beside(run, cell, None, page(n, mean + 0.05, mean / 2, mean / 4))
    made = content(read_report(run.write()))
    (section,) = [part for part in made.over_time if part.id == "first-tokens"]
    assert any("below zero (network and unexplained -50.0 ms)" in text for text in section.paragraphs)
    assert "network and unexplained -50.0 ms" in section.pictures[0].description


def test_a_run_without_samples_has_neither(nine_run: Path) -> None:
    made = content(read_report(nine_run))
    assert made.over_time == ()  # bars that are not divided say no more than the table of latencies
    document = json.loads((nine_run / "run.json").read_text())
    assert "ttft_parts" not in document["cells"][0]["metrics"]


def test_why_nothing_is_divided_is_said_without_a_figure(tmp_path: Path) -> None:
    run = made_runs.RunFolder(tmp_path / "run")
    made_runs.add_measured(run, "bf16", 1)
    put_beside(run, run.cells[-1], None, "# TYPE ollama_requests_total counter\nollama_requests_total 3\n")
    (section,) = content(read_report(run.write())).over_time
    assert "has no histogram vllm:time_to_first_token_seconds" in section.paragraphs[0]
    assert section.pictures == ()


def test_a_timeline_is_of_the_load_and_keeps_the_worst(run: made_runs.RunFolder) -> None:
    report = read_report(run.write())
    assert [cell.id for cell in most_loaded(report)] == ["bf16-closed-c4-r1", "int8-closed-c4-r1"]
    line = most_loaded(report)[0].over_time
    assert line is not None
    assert line.preempted == 2
    assert line.preemptions.at_s == (7.0,)
    assert line.prefix_hits.values == (0.25,)  # looked up once: 10 of 40 tokens
    assert max(line.kv_usage.values) == 0.9
    at = np.arange(1000.0)
    values = np.where(at == 333, 9.0, 1.0)
    series = thinned(at, values)
    assert len(series.at_s) <= POINTS
    assert (333.0, 9.0) in zip(series.at_s, series.values, strict=True)


def test_several_engines_add_up_and_shares_are_a_mean() -> None:
    requests = made_runs.closed_requests(users=1, count=3, ttft_s=0.2, token_s=0.01)
    two = [
        {"t_s": 0.0, "source": "server", "name": name, "labels": f'{{"engine": "{engine}"}}', "value": value}
        for engine in (0, 1)
        for name, value in (("vllm:num_requests_running", 3.0), ("vllm:kv_cache_usage_perc", 0.2 + 0.4 * engine))
    ]
    line = timeline(requests, pa.Table.from_pylist(two), made_runs.closed_load(1))
    assert line is not None
    assert line.running.values == (6.0,)
    assert line.kv_usage.values == pytest.approx((0.4,))
    assert line.preempted is None
    assert not line.waiting
    nothing = timeline(requests.slice(0, 0), None, made_runs.closed_load(1))
    assert nothing is None
