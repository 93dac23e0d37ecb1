"""The boards: the committed JSON is what the definitions give, and every query asks for something that exists."""

import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model
from grafana_pages import (
    OF_PROMETHEUS,
    TARGET_LABELS,
    VALUES,
    captured,
    grouped,
    labels_by_metric,
    recorded,
    selectors,
)

from dashboards.grafana.boards import BOARDS, json_path
from dashboards.grafana.foundation import to_json
from dashboards.grafana.panels import WIDTH, Board, Panel, Row, lines, place
from dashboards.grafana.promql import substitute
from monitoring.scrape.metrics import current_name, fetch, parse
from serve.engine.server import Server

PANELS = [pytest.param(board, panel, id=f"{board.slug}: {panel.title}") for board in BOARDS for panel in board.panels]
every_board = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.slug)
every_panel = pytest.mark.parametrize(("board", "panel"), PANELS)
# Names of units in Grafana; what follows `si:` and `suffix:` is ours.
UNITS = {
    *("none", "short", "percentunit", "s", "bytes", "Bps", "reqps", "hertz", "celsius", "watt", "kwatth", "joule"),
    "currencyUSD",
}
COUNTING = ("_total", "_bucket", "_count", "_sum")
GAUGES_ALL_THE_SAME = {"nbridge_gpu_expected_count"}
# A hidden-states outcome has a series only once it happened; serve/plugin/telemetry.py knows these.
OUTCOMES = {"ok", "refused", "cancelled", "error"}


def values(board: Board) -> dict[str, str]:
    return VALUES | {variable.name: variable.query for variable in board.variables if variable.kind == "text"}


def expressions(board: Board) -> list[str]:
    return [substitute(query.expr, values(board)) for panel in board.panels for query in panel.queries]


@every_board
def test_the_committed_json_is_what_the_definitions_give(board: Board) -> None:
    assert json_path(board).read_text(encoding="utf-8") == to_json(board), "run `python -m dashboards.grafana`"


@every_board
def test_grafana_gets_one_panel_for_each_and_nothing_overlaps(board: Board) -> None:
    document = json.loads(to_json(board))
    shown = [panel for panel in document["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in shown] == [panel.title for panel in board.panels]
    assert len({panel.title for panel in board.panels}) == len(board.panels)
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])
    cells: Counter[tuple[int, int]] = Counter()
    for panel in document["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= WIDTH
        cells.update((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"]))
    assert max(cells.values()) == 1
    assert {panel["datasource"]["uid"] for panel in shown} == {"${datasource}"}
    assert document["uid"] == f"nbridge-{board.slug}"


@every_board
def test_grafanas_own_model_reads_the_json(board: Board) -> None:
    """What Grafana's SDK understands of the JSON is all of it: an unknown or misspelt setting would be lost."""
    plugins.register_default_plugins()
    again = json.loads(JSONEncoder().encode(model.Dashboard.from_json(json.loads(to_json(board)))))
    assert filled(again) == filled(json.loads(to_json(board)))


def filled(value: Any) -> Any:
    """A document without the empty objects in it."""
    if isinstance(value, dict):
        return {key: filled(one) for key, one in value.items() if one != {}}
    return [filled(one) for one in value] if isinstance(value, list) else value


def test_boards_have_addresses_of_their_own() -> None:
    assert len({board.slug for board in BOARDS}) == len({board.title for board in BOARDS}) == len(BOARDS) == 7


def test_panels_wrap_at_the_grids_width() -> None:
    row = Row("three", tuple(lines(str(width), "", "s", width=width, height=width) for width in (8, 12, 10)))
    assert place(row, 5) == ([(0, 5), (8, 5), (0, 17)], 27)


@every_panel
def test_every_panel_says_what_it_shows_and_in_what_unit(board: Board, panel: Panel) -> None:
    assert panel.unit in UNITS or panel.unit.startswith(("si:", "suffix:"))
    assert len(panel.description) > 10
    assert panel.description.endswith(".")
    assert panel.absent
    assert len(panel.queries) == 1 or all(query.legend for query in panel.queries)


@every_panel
def test_every_query_asks_for_what_is_exported(board: Board, panel: Panel) -> None:
    exported = labels_by_metric(captured())
    rules = recorded()
    for query in panel.queries:
        asked = list(selectors(substitute(query.expr, values(board))))
        assert asked
        for metric, matchers in asked:
            if metric in rules:
                continue
            # What vLLM called otherwise up to 0.9 had the same labels then.
            known = OF_PROMETHEUS.get(metric) or exported.get(current_name(metric))
            assert known is not None, f"{metric} is neither on a captured page nor recorded by a rule"
            known = known | TARGET_LABELS
            assert {label for label, _, _ in matchers} <= known, metric
            for label, operator, value in matchers:
                if operator in {"=", "!="} and value:
                    assert value in exported_values(metric, label), f"{metric} has no {label}={value!r}"
        if all(metric not in rules for metric, _ in asked):
            carried = set().union(
                *((OF_PROMETHEUS.get(m) or exported[current_name(m)]) | TARGET_LABELS for m, _ in asked)
            )
            assert grouped(query.expr) <= carried
            assert set(re.findall(r"{{(\w+)}}", query.legend)) <= carried


def exported_values(metric: str, label: str) -> set[str]:
    if metric in OF_PROMETHEUS:
        return {"firing", "pending", "critical", "warning", "info", "none"}
    if (metric, label) == ("nbridge_hidden_states_requests_total", "outcome"):
        return OUTCOMES
    return {sample.labels.get(label, "") for sample in captured() if sample.name == metric}


@every_panel
def test_counters_are_rated_and_gauges_are_not(board: Board, panel: Panel) -> None:
    for query in panel.queries:
        expr = substitute(query.expr, values(board))
        assert "avg" not in expr
        assert "vector(" not in expr
        for metric, _ in selectors(expr):
            if metric in recorded() or metric in OF_PROMETHEUS:
                continue
            rated = len(re.findall(rf"(?:rate|increase)\({re.escape(metric)}[{{\[]", expr))
            times = len(re.findall(rf"(?<![\w:]){re.escape(metric)}(?![\w:])", expr))
            counts = metric.endswith(COUNTING) and metric not in GAUGES_ALL_THE_SAME
            assert rated == (times if counts else 0), metric


@every_panel
def test_quantiles_come_from_summed_buckets(board: Board, panel: Panel) -> None:
    for query in panel.queries:
        asked = query.expr.count("histogram_quantile(")
        assert asked == len(re.findall(r"histogram_quantile\([\d.]+, sum by \(le[^)]*\) \(rate\(", query.expr))


@every_board
def test_every_variable_is_used_and_none_is_missing(board: Board) -> None:
    text = " ".join(query.expr for panel in board.panels for query in panel.queries)
    asked = set(re.findall(r"\$(\w+)", text)) - {"__rate_interval", "__range"}
    chained = set(re.findall(r"\$(\w+)", " ".join(variable.query for variable in board.variables)))
    assert asked <= {variable.name for variable in board.variables}
    assert {variable.name for variable in board.variables} <= asked | chained


def test_promtool_reads_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"nbridge:board_{index}", "expr": expr}
        for index, expr in enumerate(expr for board in BOARDS for expr in expressions(board))
    ]
    file = tmp_path / "boards.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": rules}]}), encoding="utf-8")
    answer = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert f"SUCCESS: {len(rules)} rules found" in answer.stdout


def test_a_number_that_is_gone_is_not_shown_as_the_last_one_known() -> None:
    for board in BOARDS:
        for panel in json.loads(to_json(board))["panels"]:
            if panel["type"] == "stat":
                assert panel["options"]["reduceOptions"]["calcs"] == ["last"]
                assert [target["instant"] for target in panel["targets"]] == [True]
                assert panel["fieldConfig"]["defaults"]["mappings"][0]["options"]["match"] == "null+nan"
            if panel["type"] == "timeseries":
                assert panel["fieldConfig"]["defaults"]["custom"]["spanNulls"] is False


@pytest.mark.engine
def test_the_captured_page_is_still_what_a_server_exports(engine_server: Server) -> None:
    """Whatever the boards ask of a server exists on a real one, with the labels that they use."""
    live = labels_by_metric(parse(fetch(engine_server.base_url)))
    page = labels_by_metric(captured())
    asked = {
        current_name(metric)
        for board in BOARDS
        for expr in expressions(board)
        for metric, _ in selectors(expr)
        if metric.startswith(("vllm:", "http_", "process_"))
    }
    # A hidden-states counter has a series only once it was asked for; its histogram is there from the start.
    asked |= {"nbridge_hidden_states_in_flight", "nbridge_hidden_states_request_latency_seconds_bucket"}
    assert asked <= set(live)
    assert {metric: page[metric] for metric in asked} == {metric: live[metric] for metric in asked}
