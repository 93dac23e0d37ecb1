import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from made_runs import RunFolder, closed_load, closed_requests
from report_page import Page

import reports
from reports.content import content
from reports.figures.drawing import ENGINES, VARIABLES
from reports.layout import embedded, html, unbroken
from reports.report import read_report, write_report

pytestmark = pytest.mark.slow

HOSTILE = "</script><script>alert(1)</script>|<b>`x`</b>"


@pytest.fixture(scope="module", params=["nine", "failing", "repeated"])
def page(request: pytest.FixtureRequest) -> Page:
    return Page(html(content(request.getfixturevalue(request.param))))


def test_ids_are_unique_and_references_resolve(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    for _, attrs in page.elements:
        for name in (*attrs.get("aria-labelledby", "").split(), attrs.get("href", "").removeprefix("#")):
            if name and not name.startswith("data:"):
                assert name in page.ids
        for reference in re.findall(r"url\(#([^)]+)\)", " ".join(attrs.values())):
            assert reference in page.ids


def test_nothing_is_requested_from_outside_and_nothing_runs(page: Page) -> None:
    for tag, attrs in page.elements:
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href", "xlink:href", "action"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, attrs)
        assert not re.search(r"url\((?!#)", " ".join(attrs.values()))
    assert [attrs["type"] for attrs in page.all("script")] == ["application/json"]
    assert "url(" not in page.texts["style"][0]
    assert "@import" not in page.texts["style"][0]


def test_headings_and_landmarks(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("main")) == 1


def test_the_sections_come_in_reading_order(page: Page) -> None:
    assert page.texts["h2"] == [
        "Key figures",
        "In words",
        "Throughput against latency",
        "Distributions of latency",
        "Memory",
        "All cells",
        "Validity and reconciliation",
        "What went wrong",
        "What was run, and on what",
        "Definitions",
        "Reproduce",
    ]


def test_tables_have_captions_and_scopes(page: Page) -> None:
    assert len(page.all("caption")) == len(page.all("table")) > 4
    assert all(attrs.get("scope") in ("col", "row", "colgroup") for attrs in page.all("th"))


def test_figures_are_images_with_a_title_and_a_description(page: Page) -> None:
    drawings = page.all("svg")
    assert len(drawings) == 5
    assert all(attrs["role"] == "img" and attrs["aria-labelledby"] for attrs in drawings)
    assert all(text.strip() for text in page.texts["desc"])


def test_a_report_stays_small_and_tables_no_repeat_twice_in_sight(nine, repeated) -> None:
    whole = {name: html(content(report)) for name, report in (("nine", nine), ("repeated", repeated))}
    assert all(len(text.encode()) < 600_000 for text in whole.values())
    assert "<details" not in whole["nine"]
    folded = whole["repeated"].partition("<details>")[2].partition("</details>")[0]
    assert "All cells: latency" in folded  # medians and ranges of the same cells stand above
    assert (
        ">p95<"
        not in whole["nine"].partition("All cells: latency")[2].partition("ITL one per token")[0].partition("ITL")[0]
    )  # a column in which every percentile is absent says nothing


def test_the_embedded_numbers_are_the_recomputed_ones(nine) -> None:
    page = Page(html(content(nine)))
    document = json.loads(page.texts["script"][0])
    assert document["cells"][0]["metrics"]["ttft_s"] == nine.cells[0].metrics["ttft_s"]
    assert len(document["cells"]) == 9


def test_absent_percentiles_are_dashes_with_a_reason(nine) -> None:
    page = Page(html(content(nine)))
    assert any("≥ 200 values for p95" in note for note in page.texts["p"])
    assert "–" in page.texts["td"]


def test_what_went_wrong_has_the_engines_words(failing) -> None:
    page = Page(html(content(failing)))
    text = " ".join(page.texts["article"])
    assert "NotImplementedError: fp8 is not supported on the CPU backend" in text
    assert "fp8-closed-c1-r1, fp8-closed-c4-r1 and fp8-closed-c16-r1" in text
    assert "Segmentation fault" in text
    assert "9 requests were recorded before the end, 7 of them answered." in text
    assert "No available memory for the cache blocks" in text
    assert "dispatch lateness p99 31 ms > 20 ms" in text
    assert len(page.all("article")) == 5


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, plan={"name": HOSTILE})
    for index, name in enumerate((HOSTILE, "a" * 400, "b" * 399 + "\x07\ud800", "_$x^2$")):
        requests = closed_requests(users=4, count=24, ttft_s=0.1 + index, token_s=0.02)
        run.add(name, closed_load(4), requests, settings={"model": HOSTILE})
    run.add("bad", closed_load(4), None, outcome="failed", reason=HOSTILE)
    paths = write_report(run.write(command=f"nbridge bench {HOSTILE}"))
    source = paths.html.read_text(encoding="utf-8")
    page = Page(source)
    assert len(page.all("script")) == 1
    assert "<b>" not in source
    assert HOSTILE in page.texts["h1"][0]
    assert json.loads(page.texts["script"][0])["cells"][0]["engine"] == HOSTILE
    markdown = paths.markdown.read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<", re.sub(r"^    .*$|^> ", "", markdown, flags=re.MULTILINE))
    for grid in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in grid.splitlines()}) == 1


def test_sixty_cells(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    requests = {users: closed_requests(users=users, count=6 * users, ttft_s=0.1, token_s=0.02) for users in (1, 4, 16)}
    for index in range(20):
        for users, table in requests.items():
            run.add(f"engine-{index}", closed_load(users), table)
    paths = write_report(run.write())
    page = Page(paths.html.read_text(encoding="utf-8"))
    assert page.texts["th"].count("engine-19-closed-c16-r1") == 4
    assert paths.html.stat().st_size < 1_000_000


def test_a_number_keeps_its_unit_beside_it() -> None:
    assert unbroken("limit ≤ 20.0 ms (p95)") == "limit ≤\xa020.0\xa0ms (p95)"
    assert unbroken("4 concurrent requests") == "4 concurrent requests"


def test_embedded_json_cannot_end_its_element() -> None:
    text = embedded({"a": "</script><!--", "b": "&"})
    assert "<" not in text
    assert json.loads(text) == {"a": "</script><!--", "b": "&"}


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_in_light_and_dark() -> None:
    style = (Path(reports.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    light, dark = style.split("@media screen", maxsplit=1)
    defaults = {name: colour for colour, name in VARIABLES.items()}
    schemes = {"light": light, "dark": dark.split("@media", maxsplit=1)[0].split("* {", maxsplit=1)[0]}
    for name, text in schemes.items():
        colours = {**defaults, **dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6});", text))}
        for ink in ("--ink", "--muted", "--bad", "--link"):
            for paper in ("--paper", "--soft"):
                assert _contrast(colours[ink], colours[paper]) >= 4.5, (name, ink, paper)
        for index in range(len(ENGINES)):
            for paper in ("--fig-paper", "--fig-shade"):
                assert _contrast(colours[f"--fig-{index}"], colours[paper]) >= 3, (name, index, paper)


def test_an_empty_run_still_gives_a_page(tmp_path: Path) -> None:
    page = Page(html(content(read_report(RunFolder(tmp_path).write()))))
    assert page.all("svg") == []
    assert "No cell gave a valid measurement of output tokens, so there is nothing to draw." in page.texts["p"]
