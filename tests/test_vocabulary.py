"""One vocabulary: what docs/vocabulary.md says of terms, units and rounding is what the four surfaces say."""

import ast
import io
import json
import re
from functools import cache
from pathlib import Path

import pytest
from recordings import RECORDED
from rich.console import Console

from bench.compare.figures import FIGURES
from bench.display import cell_line
from bench.run.store import open_run
from dashboards.grafana.boards import BOARDS, json_path
from dashboards.screens.benchmarks import view as benchmarks
from inputs.quantities import byte_size, count, number, ratio, seconds, share
from reports.measured.cells import Report
from reports.measured.reading import stored
from reports.tables import latencies, throughput
from reports.terminal import summary

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "vocabulary.md").read_text(encoding="utf-8")
SURFACES = ("terminal", "report", "app", "board")
# Where each surface's words stand. A report's are also the terminal's: `nbridge bench` ends with them.
PLACES = {
    "terminal": ("bench/capacity", "bench/compare", "bench/display.py", "planning/printout.py", "planning/choice",
                 "planning/memory/table.py", "reports/terminal.py", "reports/statements", "bench/cli.py"),
    "report": ("reports",),
    "app": ("dashboards",),
    "board": ("dashboards/grafana/definitions",),
}  # fmt: skip


def rows() -> list[list[str]]:
    first = PAGE.partition("\n\n")[2].partition("|---")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in first.splitlines()[1:]]


@cache
def words(surface: str) -> tuple[str, ...]:
    """The texts in a surface's code, without docstrings."""
    found: list[str] = []
    for place in PLACES[surface]:
        path = ROOT / place
        for module in [path] if path.suffix else sorted(path.rglob("*.py")):
            if surface == "app" and "grafana" in module.parts:
                continue
            tree = ast.parse(module.read_text(encoding="utf-8"))
            documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            docs = {id(n.body[0].value) for n in ast.walk(tree) if isinstance(n, documented) and ast.get_docstring(n)}  # type: ignore[attr-defined]
            found += [
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
            ]
    return tuple(found)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_each_surface_says_what_the_page_says(row: list[str]) -> None:
    term, meaning, _, *said = row
    assert term and meaning and len(said) == len(SURFACES)
    for surface, text in zip(SURFACES, said, strict=True):
        if wanted := text.strip("`"):
            assert any(wanted in one for one in words(surface)), f"{surface} does not say “{wanted}”"


@pytest.mark.parametrize("surface", SURFACES)
def test_no_surface_has_another_word_for_it(surface: str) -> None:
    others = re.findall(r"`([^`]+)`", PAGE[PAGE.index("Not said") :])
    assert len(others) > 8
    known = re.compile("|".join(rf"(?<![\w/:_-]){re.escape(one)}(?![\w_-])" for one in others), re.IGNORECASE)
    # Names of metrics, keys and modules are no words for a reader.
    said = [text for text in words(surface) if " " in text and known.search(text)]
    assert said == []


def test_boards_have_the_units_of_the_page() -> None:
    units = {"TTFT": "s", "ITL": "s", "E2E": "s", "KV cache in use": "percentunit"}
    found: dict[str, set[str]] = {}
    for board in BOARDS:
        for panel in _panels(json.loads(json_path(board).read_text(encoding="utf-8"))):
            unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit")
            if panel.get("title") in units and unit:
                found.setdefault(panel["title"], set()).add(unit)
    assert found == {title: {unit} for title, unit in units.items()}


def _panels(tree: object) -> list[dict]:
    if isinstance(tree, list):
        return [panel for one in tree for panel in _panels(one)]
    if not isinstance(tree, dict):
        return []
    here = [tree] if "title" in tree and "fieldConfig" in tree else []
    return here + [panel for value in tree.values() for panel in _panels(value)]


@pytest.fixture(scope="module")
def report() -> Report:
    return stored(open_run(RECORDED))


def test_a_figure_is_rounded_alike_everywhere(report: Report) -> None:
    # The reference run: int8 at 16 concurrent requests, 0.74478 s and 304.42 tokens/s.
    cell = next(cell for cell in report.cells if cell.id == "int8-c16-r1")
    out = io.StringIO()
    Console(file=out, width=200).print(summary(report))
    (printed,) = [line.split() for line in out.getvalue().splitlines() if re.match(r"\s*int8\s+c16", line)]
    assert printed[3:7] == ["304", "745", "ms", "62.9"] or printed[3:6] == ["304", "745", "ms"]
    line = cell_line(cell.document)
    assert "304 output tok/s" in line and "TTFT p50 745 ms" in line
    table = {row[0].text: [entry.text for entry in row] for row in latencies(report).rows}
    assert "745 ms" in table["int8-c16-r1"]
    assert "304" in [entry.text for row in throughput(report).rows if row[0].text == "int8-c16-r1" for entry in row]
    drawn = benchmarks.pareto(report, "ttft_s")
    assert drawn is not None and "304 tokens/s at 745 ms" in drawn.words
    compared = {figure.name: figure.written(cell.value(figure.name)) for figure in FIGURES}
    assert (compared["output_throughput_tok_s"], compared["ttft_s.p50"]) == ("304 tok/s", "745 ms")


@pytest.mark.parametrize(
    ("kind", "written"),
    [("time", seconds(0.7448)), ("rate, throughput, amount of money", number(304.42)), ("share", share(0.051)),
     ("size of memory", byte_size(2842998784)), ("ratio", ratio(2.1)), ("count", count(8192)),
     ("what is missing", seconds(None))],
)  # fmt: skip
def test_the_rounding_is_that_of_the_page(kind: str, written: str) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| {kind} |")]
    example = row.strip("|").rpartition("|")[2].strip()
    assert written == example
