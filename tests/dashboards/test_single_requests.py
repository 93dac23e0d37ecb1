"""Single requests of a cell: which are far out, and one of them down to its chunks, from hand-made records."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.errors import RunFolderError
from bench.run.records import SCHEMA
from dashboards import library
from dashboards.screens.benchmarks import request_charts, slowest
from dashboards.theme import DARK, LIGHT

ROW = {
    "request_id": "r7", "scheduled_s": 2.0, "sent_s": 2.1, "headers_s": 2.2, "first_token_s": 2.5, "last_token_s": 3.5,
    "ended_s": 3.6, "chunk_s": [2.5, 3.0, 3.0, 3.5], "chunk_tokens": [1, 2, 1, 1], "outcome": "ok", "clock": "kernel",
    "read_late_s": [0.001, 0.002, 0.009], "connect_s": 0.05, "prompt_tokens": 64, "cached_tokens": 16,
    "output_tokens": 5,
}  # fmt: skip


def many(ttfts_s: list[float], lost: int = 0) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for i, ttft in enumerate(ttfts_s):
        row = dict.fromkeys(SCHEMA.names) | {"request_id": f"r{i}", "scheduled_s": i, "sent_s": i, "outcome": "ok"}
        row |= {"first_token_s": i + ttft, "last_token_s": i + ttft + 1, "ended_s": i + ttft + 1, "output_tokens": 11}
        rows.append(row if i >= lost else row | {"outcome": "http_error", "first_token_s": None})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_the_slowest_come_first_and_those_far_out_are_marked() -> None:
    # 0.1 to 0.2 s: quartiles 0.125 and 0.175, so that 0.325 is the bound and 0.9 alone lies beyond it
    table = many([0.1 + 0.1 * i / 8 for i in range(9)] * 3 + [0.9])
    found = slowest.requests(table, "ttft_s")
    assert found.limit_s == pytest.approx(0.175 + 3 * 0.05, abs=0.02)
    assert (found.far_out, found.answered, found.listed[0]) == (1, 28, "r27")
    assert [row["request_id"] for row in found.points if row["says"] == "far out"] == ["r27"]
    assert found.labels["r27"].startswith("TTFT 900 ms, sent at 27.0 s")
    assert "Far out: 1 of 28" in slowest.caption(found, "ttft_s")
    assert slowest.requests(table, "tpot_s").points[0]["value_s"] == pytest.approx(0.1)


def test_requests_without_an_answer_are_listed_after_the_slowest() -> None:
    found = slowest.requests(many([0.1, 0.1, 0.3], lost=2), "ttft_s")
    assert found.listed == ("r2", "r0", "r1")
    assert found.labels["r0"] == "http error (r0)"
    assert (found.answered, found.limit_s) == (1, None)
    nothing = slowest.requests(many([0.1], lost=1), "ttft_s")
    assert (nothing.points, nothing.listed) == ([], ("r0",))


def test_of_many_requests_the_slowest_are_drawn() -> None:
    found = slowest.requests(many([0.1] * 5_000 + [2.0]), "ttft_s")
    assert len(found.points) <= slowest.POINTS + 1
    assert max(row["value_s"] for row in found.points) == pytest.approx(2.0)
    assert "Drawn are" in slowest.caption(found, "ttft_s")


def test_a_request_is_a_strip_of_phases_and_chunks_since_it_was_due() -> None:
    strip = slowest.strip(ROW)
    assert [(row["phase"], pytest.approx(row["took_s"])) for row in strip.phases] == [
        ("waited in the client", 0.1), ("until the response's head", 0.1), ("until the first token", 0.3),
        ("answering", 1.0), ("until its end", 0.1),
    ]  # fmt: skip
    assert [chunk["at_s"] for chunk in strip.chunks] == pytest.approx([0.5, 1.0, 1.0, 1.5])
    assert [chunk["gap_s"] for chunk in strip.chunks] == [None, pytest.approx(0.5), 0.0, pytest.approx(0.5)]
    facts = {name: (value, remark) for name, value, remark in strip.facts}
    assert facts["TTFT"][0] == "400 ms" and facts["E2E latency"] == ("1.50 s", "ok")
    assert facts["Sent after it was due"][0] == "100 ms" and facts["Prompt"] == ("64", "tokens, 16 cached")
    said = " ".join(strip.remarks)
    assert "where the kernel had taken them up" in said
    assert "in the median by 2.00 ms, at most by 9.00 ms, in 3 reads" in said
    assert "Opening the connection took 50.0 ms" in said and "1 chunks arrived together" not in said
    assert "1 chunk arrived together" in said
    assert "waited in the client: 100 ms" in slowest.words(strip)


def test_a_request_that_failed_shows_how_far_it_came() -> None:
    row = {
        **ROW,
        "first_token_s": None,
        "last_token_s": None,
        "chunk_s": [],
        "chunk_tokens": None,
        "outcome": "timeout",
    }
    strip = slowest.strip({**row, "error": "no answer within 300 s", "clock": None})
    assert [one["phase"] for one in strip.phases] == [
        "waited in the client", "until the response's head", "until its end",
    ]  # fmt: skip
    assert strip.chunks == [] and strip.remarks[-1] == "It ended with: no answer within 300 s"
    never = slowest.strip({"request_id": "d", "scheduled_s": 1.0, "outcome": "dropped", "chunk_s": None})
    assert never.phases == [] and {fact[0]: fact[1] for fact in never.facts}["TTFT"] == "–"


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_figures_of_requests_are_valid_vega_and_pick_by_their_name(palette) -> None:
    found = slowest.requests(many([0.1, 0.2, 0.3]), "ttft_s")
    chart = request_charts.requests(found.points, palette, title="TTFT").to_dict()
    assert chart["params"][0]["select"]["fields"] == ["request_id"] and "layer" not in chart
    strip = slowest.strip(ROW)
    drawn = request_charts.strip(strip.phases, strip.chunks, palette).to_dict()
    assert [layer["mark"]["type"] for layer in drawn["layer"]] == ["bar", "tick"]
    assert len(request_charts.strip(strip.phases, [], palette).to_dict()["layer"]) == 1


def test_one_request_is_read_from_its_group_of_rows(tmp_path: Path) -> None:
    folder = tmp_path / "cells" / "c"
    folder.mkdir(parents=True)
    pq.write_table(many([0.1] * 10), folder / "requests.parquet", row_group_size=4)
    row = library.one_request(tmp_path, "c", "r6")
    assert row is not None and (row["request_id"], row["sent_s"]) == ("r6", 6.0)
    assert library.one_request(tmp_path, "c", "elsewhere") is None
    assert library.known_columns(tmp_path, "c", ["request_id", "of a later version"]).column_names == ["request_id"]
    (folder / "requests.parquet").write_bytes(b"torn")
    for read in (lambda: library.one_request(tmp_path, "c", "r6"), lambda: library.known_columns(tmp_path, "c", ["x"])):
        with pytest.raises(RunFolderError, match="Measure the cell again"):
            read()
