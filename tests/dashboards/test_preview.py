"""The preview: drawings and units by hand-worked values, and whole pages from a real Prometheus."""

import math
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import numpy as np
import pytest
from serving import answering

from dashboards.errors import SettingsError, SourceError
from dashboards.grafana.boards import BOARDS
from dashboards.grafana.panels import Board, Panel, Query, Row, Variable, heatmap, high_is_bad, lines, number
from dashboards.preview.__main__ import preview
from dashboards.preview.charts import Frame, Named, heat_chart, line_chart, stacked, state_chart
from dashboards.preview.page import ask, render
from dashboards.preview.source import Prometheus, Series
from dashboards.preview.units import words

pytestmark = pytest.mark.slow

START_S = 1_800_000_000  # a round instant: 2027-01-15 08:00:00 UTC
FRAME = Frame(START_S, START_S + 100, 10, 472, 228)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0423, "s", "42.3 ms"),
        (0, "s", "0 s"),
        (90, "s", "1.5 min"),
        (0.0512, "percentunit", "5.12 %"),
        (1, "percentunit", "100 %"),
        (85899345920, "bytes", "80 GiB"),
        (1234, "short", "1.23 k"),
        (1234, "si:tok/s", "1.23 ktok/s"),
        (2.5, "suffix:×", "2.5 ×"),
        (312.3, "watt", "312 W"),
        (1.98e9, "hertz", "1.98 GHz"),
        (0.44, "currencyUSD", "$0.44"),
        (1234.5, "currencyUSD", "$1,234.50"),
        (0.000123, "currencyUSD", "$0.000123"),
        (-3, "currencyUSD", "−$3.00"),
        (math.inf, "currencyUSD", "∞"),
        (83, "celsius", "83 °C"),
        (0.133, "kwatth", "0.133 kWh"),
    ],
)
def test_values_read_as_a_person_writes_them(value: float, unit: str, text: str) -> None:
    assert words(value, unit) == text


def series(values: list[float | None]) -> Series:
    return Series({}, tuple((START_S + 10.0 * n, value) for n, value in enumerate(values) if value is not None))


def strokes(svg: str, colour: str) -> list[str]:
    """The outlines of what is drawn in one colour of the page, each stretch without a gap by itself."""
    paths = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: none;[^"]* stroke: var\(--{colour},', svg)
    return [run for path in paths for run in path.split("M")[1:]]


def labels(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize(
    ("highest", "unit", "steps"),
    [
        (0.93, "percentunit", ["0 %", "25 %", "50 %", "75 %", "100 %"]),
        (17, "none", ["0", "5", "10", "15", "20"]),
        (85 * 2**30, "bytes", ["0 B", "25 GiB", "50 GiB", "75 GiB", "100 GiB"]),
        (0, "none", ["0", "0.25", "0.5", "0.75", "1"]),
    ],
)
def test_steps_are_round_and_cover_the_values(highest: float, unit: str, steps: list[str]) -> None:
    svg = line_chart(lines("t", "", unit, Query("x")), [Named("a", series([0, highest]))], FRAME)
    times = ["08:00:00", "08:00:30", "08:01:00", "08:01:30"]
    assert labels(svg) == [*times, *steps]


def test_a_gap_in_the_values_is_a_gap_in_the_line() -> None:
    panel = lines("t", "", "s", Query("x"))
    whole = line_chart(panel, [Named("a", series([1, 2, 3, 4])), Named("b", series([1, 1, 1, 1]))], FRAME)
    parted = line_chart(panel, [Named("a", series([1, 2, None, 4, math.inf, 5, 6])), Named("b", series([1]))], FRAME)
    assert len(strokes(whole, "s0")) == 1
    assert len([run for run in strokes(parted, "s0") if "L" in run]) == 2
    assert parted.count("<use") == 2  # the points alone: the 4 of one, the 1 of the other


def test_stacked_areas_stand_on_each_other() -> None:
    nan = math.nan
    floors, tops = stacked(np.array([[1, 1, nan], [0, 0, 0], [3, nan, 2]]))
    assert floors.tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 0]]
    np.testing.assert_equal(tops, [[1, 1, nan], [nan, nan, nan], [4, nan, 2]])
    panel = lines("t", "", "s", Query("x"), stacked=True)
    svg = line_chart(panel, [Named(name, series([value] * 2)) for name, value in (("a", 1), ("z", 0), ("b", 3))], FRAME)
    # The axis stands at 14 + 3 letters of 6.2 ("4 s"), a step of ten is a tenth of the 421.4 to its right; from 0 to 4
    # on places 208 to 8, 1 is at 158 and 1 + 3 at 8. What is 0 throughout has no line: it would hide another.
    places = {colour: [re.findall(r"[\d.]+", run) for run in strokes(svg, colour)] for colour in ("s0", "s1", "s2")}
    assert places == {"s0": [["32.6", "158", "74.74", "158"]], "s1": [], "s2": [["32.6", "8", "74.74", "8"]]}
    assert svg.count("fill-opacity: 0.16") == 2


def test_a_limit_is_drawn_only_where_the_values_come_near() -> None:
    panel = lines("t", "", "celsius", Query("x"), limits=high_is_bad(75, 85))
    assert strokes(line_chart(panel, [Named("a", series([60, 61]))], FRAME), "red")
    assert not strokes(line_chart(panel, [Named("a", series([30, 31]))], FRAME), "red")


def test_what_a_value_is_compared_with_is_dashed() -> None:
    svg = line_chart(lines("t", "", "s", Query("x")), [Named("threshold", series([1, 1]), limit=True)], FRAME)
    assert len(strokes(svg, "red")) == 1
    assert "stroke-dasharray" in svg
    assert "fill-opacity" not in svg


def test_a_heatmap_shows_what_is_in_each_bucket_alone() -> None:
    cumulative = [("0.5", [4.0, 4.0]), ("1.0", [4.0, 8.0]), ("+Inf", [4.0, 8.0])]
    found = [Named("", Series({"le": bound}, series(list(values)).points)) for bound, values in cumulative]
    svg = heat_chart(heatmap("t", "", "s", "x"), found, FRAME)
    # 4 and 4 up to 0.5 s, 0 and 4 from there to 1 s, none above: all equally many, so equally dark
    assert svg.count("fill: var(--s0, #0b62a4)") == 3
    assert "opacity" not in svg
    assert heat_chart(heatmap("t", "", "s", "x"), [Named("", Series({"le": "1.0"}, series([0.0]).points))], FRAME) == ""


def test_states_are_named_and_have_no_colour_where_they_are_unknown() -> None:
    panel = Panel("states", "t", "", "none", (Query("x"),), names=((0, "down", "red"), (1, "up", "green")))
    svg = state_chart(panel, [Named("a<b", series([1, 1, 1, None, None, 0, 0, 0, 0]))], FRAME)
    assert re.findall(r"fill: var\(--(s2|red),", svg) == ["s2", "red"]  # green is a colour of the lines, too
    assert labels(svg)[-2:] == ["up", "down"]
    assert "a&lt;b: up, 08:00:00 to 08:00:20; a&lt;b: down, 08:00:40 to 08:01:20" in svg


def page_of(step_s: int = 15, minutes: int = 10) -> str:
    """OpenMetrics text: a server that writes 40 tokens a second and was down for two minutes, and a GPU."""
    labels = 'instance="127.0.0.1:8000",job="vllm"'
    engine = f'{labels},model_name="demo",engine="0"'
    out = []
    times = [START_S + n for n in range(0, minutes * 60 + 1, step_s)]
    for name, kind, label, value in (
        ("up", "gauge", labels, lambda n: 0 if 240 <= n < 360 else 1),
        ("vllm:generation_tokens", "counter", engine, lambda n: 40 * n),
        ("vllm:prompt_tokens", "counter", engine, lambda n: 100 * n),
        ("vllm:num_requests_running", "gauge", engine, lambda n: n / 100),
        ("vllm:kv_cache_usage_perc", "gauge", engine, lambda n: 0.97),
        ("nbridge_gpu_expected_count", "gauge", 'instance="h:9400",job="gpu"', lambda n: 0),
    ):
        out.append(f"# TYPE {name} {kind}")
        suffix = "_total" if kind == "counter" else ""
        out += [f"{name}{suffix}{{{label}}} {value(at - START_S)} {at}" for at in times]
    out.append("# TYPE vllm:e2e_request_latency_seconds histogram")
    for bound, share in (("1.0", 0.25), ("2.5", 0.75), ("+Inf", 1)):
        out += [
            f'vllm:e2e_request_latency_seconds_bucket{{{engine},le="{bound}"}} {share * 4 * (at - START_S)} {at}'
            for at in times
        ]
    return "\n".join([*out, "# EOF", ""])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A real Prometheus that holds ten minutes of `page_of` and scrapes nothing."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "page").write_text(page_of(), encoding="utf-8")
    (folder / "empty.yml").write_text("scrape_configs: []\n", encoding="utf-8")
    make = ["promtool", "tsdb", "create-blocks-from", "openmetrics", folder / "page", folder / "data"]
    subprocess.run(make, check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'empty.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--storage.tsdb.retention.time=100y",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(trust_env=False, transport=httpx.HTTPTransport(retries=3)) as client:
            while process.poll() is None:
                try:
                    if client.get(f"{url}/-/ready").status_code == httpx.codes.OK:
                        break
                except httpx.TransportError:
                    continue
        assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
        yield Prometheus(url)
    finally:
        process.terminate()
        process.wait(timeout=300)


class Page(HTMLParser):
    """Checks that every element is closed where it was opened, and keeps the texts of each panel by its title."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.panels: dict[str, list[str]] = {}
        self.outside: list[str] = []
        self._title = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag == "article":
            self._title = ""
        if tag not in {"meta", "input", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h3":
            self._title = data
            self.panels[data] = []
        elif self._title and "article" in self.open and data.strip():
            self.panels[self._title].append(data.strip())


def drawn(board: Board, source: Prometheus, start_s: float = START_S, **own: str) -> Page:
    asked = ask(board, source, start_s=start_s, end_s=START_S + 600, scrape_s=15, own=own)
    return Page(render(board, source, asked, note="A note."))


@pytest.mark.parametrize("board", BOARDS[1:], ids=lambda board: board.slug)
def test_every_board_is_drawn_whole(board: Board, prometheus: Prometheus) -> None:
    page = drawn(board, prometheus)
    assert list(page.panels) == [panel.title for panel in board.panels]
    assert all(panel.description in page.panels[panel.title] for panel in board.panels)
    assert page.outside == []  # it opens offline


def test_a_page_shows_what_prometheus_answers(prometheus: Prometheus) -> None:
    page = drawn(BOARDS[0], prometheus)
    assert "40 tok/s" in page.panels["Tokens per second"]
    assert page.panels["Fullest KV cache"][-2:] == ["97", "%"]
    assert "6" in page.panels["Requests running and waiting"]
    # 4 requests a second, three quarters within 2.5 s and a quarter somewhere above: the p95 is its lower bound.
    assert page.panels["E2E p95"][-2:] == ["2.5", "s"]
    assert "no GPU" in page.panels["Hottest GPU"]
    assert "no rules" in page.panels["Alerts firing"]
    assert {"up", "down"} <= set(page.panels["Servers"])


def test_variables_are_looked_up_and_can_be_set(prometheus: Prometheus) -> None:
    cost = next(board for board in BOARDS if board.slug == "cost")
    asked = ask(cost, prometheus, start_s=START_S, end_s=START_S + 600, scrape_s=15, own={"usd_per_hour": "6"})
    assert asked.values["model"] == "demo"
    assert asked.values["instance"] == r"127\\.0\\.0\\.1:8000"
    assert ("Server", "all (127.0.0.1:8000)") in asked.chosen
    # Twenty half minutes: the one at which the time begins is left out.
    assert "$1.00" in drawn(cost, prometheus, START_S + 1, usd_per_hour="6").panels["Own machines"]
    with pytest.raises(SettingsError, match="no variable 'usd_per_day'; it has usd_per_hour"):
        ask(cost, prometheus, start_s=START_S, end_s=START_S + 600, scrape_s=15, own={"usd_per_day": "1"})


def test_prometheus_own_words_reach_the_reader(prometheus: Prometheus) -> None:
    board = Board(
        "b",
        "B",
        "",
        (Variable("text", "price", "Price", "", "1"),),
        (Row("r", (number("n", "", "s", "$price * up"),)),),
    )
    with pytest.raises(SourceError, match="parse error"):
        drawn(board, prometheus, price="1 *")
    with pytest.raises(SourceError, match="no answer"):
        Prometheus("http://127.0.0.1:9").at("up", 0)


def test_a_page_that_is_no_prometheus_is_named_as_such() -> None:
    html, refused = answering(200, "<html>It works!</html>"), "HTTP 200 and no JSON, so no Prometheus"
    with html as address, pytest.raises(SourceError, match=refused):
        Prometheus(address).at("up", 0)


def test_more_lines_than_can_be_told_apart_are_counted(prometheus: Prometheus) -> None:
    many = " or ".join(f'label_replace(vector({n}), "n", "{n}", "", "")' for n in range(11))
    queries = (Query(many, "line {{n}}"), Query("vector(1)", "allowed", limit=True))
    board = Board("b", "B", "", (), (Row("r", (lines("many", "", "short", *queries),)),))
    texts = drawn(board, prometheus).panels["many"]
    assert {text for text in texts if text.startswith("line")} == {f"line {n}" for n in range(4, 11)}
    assert texts[-4:] == ["allowed", "1", "and lower ones:", "4"]


def test_the_command_writes_pages_and_refuses_what_it_does_not_know(prometheus: Prometheus, tmp_path: Path) -> None:

    options = ["--board", "gpu", "--board", "cost", "--end", str(START_S + 600), "--minutes", "10", "--out", tmp_path]
    argv = [sys.executable, "-m", "dashboards.preview", "--prometheus", prometheus.url, *options]
    answer = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == [str(tmp_path / "gpu.html"), str(tmp_path / "cost.html")]
    with pytest.raises(SettingsError, match="There is no board 'gpus'; there are overview, service-level"):
        preview(board=["gpus"], out=tmp_path)
    with pytest.raises(SettingsError, match=r"'0\.5' is not NAME=VALUE"):
        preview(setting=["0.5"], out=tmp_path)
