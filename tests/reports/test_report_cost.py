"""The report's section on cost, from made-up runs whose plan names prices."""

import copy
from dataclasses import replace
from typing import Any

from planning.cost import api_prices
from reports.measured.cells import Report
from reports.sections.cost import cost


def planned(report: Report, **asked: Any) -> Report:
    """The report of the same run with a [cost] table in its plan."""
    document = copy.deepcopy(report.document)
    document["plan"] = {**(document.get("plan") or {}), "cost": asked}
    return replace(report, document=document)


def test_without_a_cost_table_there_is_no_section(nine: Report) -> None:
    assert cost(nine) is None


def test_every_engine_has_its_price_per_million_beside_the_api(repeated: Report) -> None:
    made = cost(planned(repeated, gpu="rtx-4090", api="openai/gpt-4o"))
    assert made is not None
    main = made.tables[0]
    assert [row[0].text for row in main.rows] == [
        engine for engine in repeated.engines if any(row[0].text == engine for row in main.rows)
    ]
    names = [column.name for column in main.columns]
    assert "by API" in names
    assert "for the demand" not in names  # no demand is named
    assert "P(cheaper)" not in names
    assert "rtx-4090" in made.paragraphs[0]
    assert api_prices.package_version() in made.paragraphs[0]
    assert any("RunPod" in row[3].text for row in made.tables[-1].rows)


def test_what_an_engine_lacks_is_said_and_the_others_are_priced(repeated: Report) -> None:
    # bf16 meets the SLO at no load of this run.
    made = cost(planned(repeated, gpu="rtx-4090", api="openai/gpt-4o"))
    assert made is not None
    priced = {row[0].text for row in made.tables[0].rows}
    missing = set(repeated.engines) - priced
    for engine in missing:
        assert any(text.startswith(f"{engine}: ") and "SLO" in text for text in made.paragraphs)


def test_a_demand_gives_a_verdict_and_a_probability(nine: Report) -> None:
    made = cost(planned(nine, gpu="rtx-4090", api="openai/gpt-4o", tokens_per_month=10e6))
    assert made is not None
    assert "The API is cheaper" in made.paragraphs[0]
    assert "P(cheaper)" in [column.name for column in made.tables[0].columns]


def test_without_an_api_only_own_cost_is_shown(nine: Report) -> None:
    made = cost(planned(nine, gpu="rtx-4090"))
    assert made is not None
    names = [column.name for column in made.tables[0].columns]
    assert "at full load" in names
    assert "by API" not in names
    assert "gpt-4o" not in " ".join(made.paragraphs)


def test_inputs_by_hand_are_used_and_wrong_ones_said(nine: Report) -> None:
    made = cost(planned(nine, gpu="rtx-4090", api="gpt-4o", inputs={"wage_usd_per_hour": [0, 0, 1]}))
    assert made is not None
    assert any("set by hand" in row[3].text for row in made.tables[-1].rows)
    wrong = cost(planned(nine, gpu="rtx-4090", inputs={"wage": 3}))
    assert wrong is not None
    assert "wage_usd_per_hour" in wrong.paragraphs[0]
    assert wrong.tables == ()


def test_unknown_names_are_said_in_the_section(nine: Report) -> None:
    for asked, said in (({"gpu": "rtx-4900"}, "rtx-4090"), ({"api": "gpt-4oo"}, "gpt-4o")):
        made = cost(planned(nine, **asked))
        assert made is not None
        assert said in made.paragraphs[0]


def test_the_section_is_the_same_when_it_is_made_again(nine: Report) -> None:
    asked = planned(nine, gpu="rtx-4090", api="openai/gpt-4o", tokens_per_month=10e6)
    assert cost(asked) == cost(asked)
