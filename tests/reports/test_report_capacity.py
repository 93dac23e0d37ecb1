"""The report of a search for the capacity: what it says, shows and embeds, recomputed from the points' records."""

import json
import re
from pathlib import Path
from typing import Any

import made_runs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.capacity.task import Task
from bench.compare.sides import Side, sort_in
from bench.plans.loads import Load
from bench.plans.plan import Plan, expand
from bench.run.store import open_run
from bench.studies.capacity.simulated import VALID, Json, Server, carry_out, measured
from monitoring.alerting.derivation import derive
from monitoring.alerting.thresholds import load
from monitoring.errors import SettingsError
from planning.cost.measured import mixes
from reports.content import content
from reports.layout import html, markdown
from reports.measured.reading import stored
from reports.measured.searches import searches
from reports.report import read_report, write_report

pytestmark = pytest.mark.slow

SLO = "ttft_p95<0.5,errors<0.01"


def plan_for(engines: list[str], **capacity: Any) -> Plan:
    return expand(
        {
            "engines": [{"name": name, "model": "demo-100m"} for name in engines],
            "loads": [{"name": "c1", "concurrency": 1, "requests": 20}],
            "capacity": {"slo": SLO, "arrival": "constant", "alone": True, **capacity},
        },
        source="plan",
    )


def searched(folder: Path, servers: dict[str, Server], spoil: Any = lambda *_: {}, **capacity: Any) -> Path:
    """A run folder with a whole search of each simulated server; `spoil` may change a cell's results."""
    plan = plan_for(list(servers), **capacity)
    assert plan.capacity is not None
    document: Json = {
        "format": 1, "run_id": folder.name, "created": "2026-11-26T10:00:00+00:00",
        "finished": "2026-11-26T10:20:00+00:00", "command": "nbridge capacity", "target": None,
        "plan": plan.model_dump(mode="json"), "environment": made_runs.ENVIRONMENT, "cells": [],
    }  # fmt: skip
    for engine in plan.engines:
        part: Json = {"cells": []}

        def serve(load: Load, seed: int, engine: Any = engine, part: Json = part) -> tuple[pa.Table, Json]:
            cell = part["cells"][-1]
            cell["id"] = f"{engine.name}-{load.name}-r1"
            recorded = servers[engine.name].records(load, seed)
            target = folder / "cells" / cell["id"]
            target.mkdir(parents=True)
            pq.write_table(recorded, target / "requests.parquet")
            return recorded, measured(load, recorded) | spoil(load, cell)

        carry_out(Task(plan, plan.capacity, engine, 1), serve, part)
        document["cells"] += part["cells"]
        document["capacity"] = [*document.get("capacity", []), *part["capacity"]]
    (folder / "run.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three engines with limits of 20, 40 and 41 requests/s, and a first attempt that cannot be believed."""
    folder = tmp_path_factory.mktemp("runs") / "searched"
    folder.mkdir()

    def spoil(_: Load, cell: Json) -> Json:
        if cell["id"] != "bf16-capacity-02-r1":
            return {}
        reason = "The client was saturated: requests left it 30.0 ms late (p99; limit 20.0 ms)."
        check = {"name": "dispatch lateness p99", "ok": False, "value": 0.03, "limit": 0.02, "unit": "s",
                 "at_least": False, "detail": reason}  # fmt: skip
        return {"outcome": "invalid", "reason": reason, "validity": {**VALID, "valid": False, "reasons": [reason],
                                                                     "checks": [check]}}  # fmt: skip

    return searched(folder, {"bf16": Server(20.0), "int8": Server(40.0), "int4": Server(41.0)}, spoil)


def test_the_verdict_names_the_engine_with_the_highest_goodput_at_the_slo(run: Path) -> None:
    said = content(read_report(run)).verdict
    found = re.search(
        r"At the SLO \(ttft_p95<0\.5, errors<0\.01\) the highest goodput is int[48]'s, [34]\d\.\d requests/s \(it "
        r"carries [34]\d\.\d requests/s \(95 %: [34]\d\.\d to 4\d\.\d\), limited by ttft_p95\), but int[48] "
        r"\([34]\d\.\d\) is too close to tell apart; bf16 \((19|20)\.\d\) has less\.",
        said,
    )
    assert found, said
    assert re.search(r"The search for the capacity took \d+ points; one of them is invalid and no verdict", said)


def test_the_section_has_each_engines_answer_and_every_point(run: Path) -> None:
    section = content(read_report(run)).capacity
    assert section is not None and section.title == "Capacity at the SLO"
    answers, points = section.tables
    assert [row[0].text for row in answers.rows] == ["bf16", "int8", "int4"]
    assert [column.name for column in answers.columns][1:4] == ["Capacity", "Interval", "Limited by"]
    assert all(row[3].text == "ttft_p95" for row in answers.rows)
    document = open_run(run).document
    assert len(points.rows) == len(document["cells"])
    verdicts = {row[0].text: row[2].text for row in points.rows}
    assert verdicts["bf16-capacity-00-r1"] == "at rest"
    assert verdicts["bf16-capacity-02-r1"] == "invalid"
    assert {*verdicts.values()} == {"at rest", "pass", "fail", "invalid"}


def test_the_figure_says_every_verdict_and_draws_the_slo(run: Path) -> None:
    section = content(read_report(run)).capacity
    assert section is not None
    (picture,) = section.pictures
    assert "int8: 4" in picture.description or "int8: 3" in picture.description
    assert "invalid" in picture.description
    for words in ("met the SLO", "missed it", "invalid: not counted", "the SLO", "interval of the capacity"):
        assert words in picture.svg


def test_html_and_markdown_hold_the_search_and_no_empty_sections(run: Path) -> None:
    made = content(read_report(run))
    page, text = html(made), markdown(made)
    assert 'id="capacity"' in page and "## Capacity at the SLO" in text
    for absent in ("Throughput against latency", "Key figures", "All cells"):
        assert absent not in text and f">{absent}<" not in page
    assert "![ttft" in text and "(figures/capacity.svg)" in text
    assert "The client was saturated" in text  # under what went wrong
    paths = write_report(run)
    assert [path.name for path in paths.figures] == ["capacity.svg"]


def test_numbers_carry_the_answers_and_the_verdicts(run: Path) -> None:
    numbers = content(read_report(run)).numbers
    assert [one["engine"] for one in numbers["capacity"]] == ["bf16", "int8", "int4"]
    assert numbers["capacity"][0]["value"] == pytest.approx(20, rel=0.05)
    assert {cell["point"]["verdict"] for cell in numbers["cells"]} == {"pass", "fail", "invalid"}


def test_a_stored_verdict_that_the_records_do_not_give_is_recomputed_and_said(run: Path, tmp_path: Path) -> None:
    document = json.loads((run / "run.json").read_text())
    folder = tmp_path / "changed"
    folder.mkdir()
    (folder / "cells").symlink_to(run / "cells")
    failed = [cell for cell in document["cells"] if cell["point"].get("verdict") == "fail"]
    for cell in failed:
        cell["point"]["verdict"] = "pass"
    document["capacity"][0].update(low=900.0, value=1000.0, high=1100.0)
    (folder / "run.json").write_text(json.dumps(document))
    report = read_report(folder)
    assert searches(report)[0].answer["value"] == pytest.approx(20, rel=0.05)
    assert any(d.name == "point.verdict" for cell in report.points for d in cell.differences)
    assert "are not those of the records" in content(report).verdict


def test_stored_answers_are_enough_where_no_record_is_read(run: Path) -> None:
    report = stored(open_run(run))
    assert (len(report.cells), len(report.points) > 20) == (0, True)
    assert searches(report)[1].answer["value"] == pytest.approx(40, rel=0.05)


def test_a_search_that_nothing_met_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    folder.mkdir()
    made = content(read_report(searched(folder, {"bf16": Server(20.0)}, slo="ttft_p95<10ms")))
    assert "No load meets the SLO (ttft_p95<0.01, errors<=0.01) with bf16." in made.verdict
    assert made.capacity is not None
    assert "Even one request at a time ttft_p50 is" in made.capacity.paragraphs[1]
    assert made.capacity.pictures == ()


def test_users_are_whole_in_the_report(tmp_path: Path) -> None:
    folder = tmp_path / "users"
    folder.mkdir()
    made = content(read_report(searched(folder, {"bf16": Server(40.0)}, slo="e2e_p95<0.5", over="concurrency")))
    assert re.search(r"bf16 carries (19|20|21) concurrent requests \(95 %: \d+ to \d+\)", made.verdict)
    assert made.capacity is not None
    assert "Concurrent requests" in made.capacity.pictures[0].svg


def test_a_damaged_point_is_told_and_not_followed(run: Path, tmp_path: Path) -> None:
    document = json.loads((run / "run.json").read_text())
    document["cells"][3]["point"]["verdict"] = "excellent"
    (tmp_path / "run.json").write_text(json.dumps(document))
    with pytest.raises(Exception, match=r"cell 4 of .* has no usable `point`"):
        read_report(tmp_path)


def test_comparisons_costs_and_thresholds_pass_over_points_beyond_the_capacity(run: Path) -> None:
    found = open_run(run)
    side = Side("old", [found])
    sort_in(side)
    assert side.cells == {}
    assert mixes(found.cells) == []
    with pytest.raises(SettingsError, match="has no valid cell"):
        derive(found.document, load())
