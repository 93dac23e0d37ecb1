"""What a sweep will still take, from cells with hand-worked times."""

import io
from typing import Any

import pytest
from rich.console import Console

from bench.display import Display
from bench.remaining import remaining


def cell(engine: str, load: str, took_s: float | None = None, *, repeat: int = 1, ready_s: float | None = None,
         **settings: Any) -> dict[str, Any]:  # fmt: skip
    found = {"engine": {"name": engine}, "load": {"name": load, "requests": 10, **settings}, "repeat": repeat}
    found |= {"outcome": "pending" if took_s is None else "ok", "took_s": took_s}
    return found | {"startup": None if ready_s is None else {"ready_s": ready_s}}


def test_nothing_is_said_before_anything_is_known() -> None:
    assert remaining([cell("a", "c1"), cell("a", "c4")]) is None
    assert remaining([cell("a", "c1", 30.0)]) is None  # nothing is left
    assert remaining([cell("a", "c1", 30.0), cell("a", "c4")]) is None  # nothing is known of c4
    old = {**cell("a", "c1", 30.0), "took_s": None}  # of an earlier version
    assert remaining([old, cell("a", "c1", repeat=2)]) is None


def test_the_same_cell_in_other_repeats_counts_first() -> None:
    cells = [cell("a", "c1", 30.0, ready_s=12.0), cell("b", "c1", 300.0), cell("a", "c1", 34.0, repeat=2)]
    found = remaining([*cells, cell("a", "c1", repeat=3)])
    assert found is not None
    assert found.seconds == pytest.approx(32.0 + 12.0)  # and its server's start
    assert found.basis == "the same cells in other repeats"
    assert found.words() == "about 44 s left (by the same cells in other repeats)"
    assert found.words(passed_s=40) == "under 10 s left (by the same cells in other repeats)"


def test_other_engines_count_as_much_slower_or_faster_as_they_were() -> None:
    # b took half as long as a at c1, so at c4, where a took 80 s, it is expected to take 40.
    cells = [cell("a", "c1", 30.0), cell("a", "c4", 80.0), cell("b", "c1", 15.0), cell("b", "c4")]
    found = remaining(cells)
    assert found is not None
    assert found.seconds == pytest.approx(40.0)
    assert found.basis == "the same loads on other engines"


def test_what_is_not_known_is_counted_and_said() -> None:
    cells = [cell("a", "c1", 100.0), cell("b", "c1"), cell("a", "c4"), cell("b", "c4")]
    found = remaining(cells, search=True)
    assert found is not None
    assert (found.known, found.left, found.bound) == (1, 3, "at least")
    assert found.words() == (
        "at least 2 min left (by the same loads on other engines; searches for the capacity not counted; 2 cells of "
        "unknown length not counted)"
    )


def test_a_load_of_a_set_time_takes_that() -> None:
    cells = [cell("a", "c1", 30.0), cell("a", "open", requests=None, seconds=60.0)]
    found = remaining(cells, at_most=True)
    assert found is not None
    assert found.seconds == pytest.approx(60.0)
    assert found.words() == "at most 1 min left (by the times set in the plan)"


def test_cells_that_failed_and_points_of_a_search_tell_nothing() -> None:
    failed = {**cell("a", "c1", 5.0), "outcome": "failed"}
    point = {**cell("a", "c1", 5.0), "point": {"level": 1.0}}
    assert remaining([failed, point, cell("b", "c1")]) is None


@pytest.mark.parametrize("terminal", [False, True])
def test_the_display_says_it_once_it_is_known(terminal: bool) -> None:
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=terminal, width=200)) as display:
        display.time_left(None)
        assert "left" not in out.getvalue()
        display.time_left(remaining([cell("a", "c1", 600.0), cell("b", "c1")]))
        display.cell_started({"id": "b-c1-r1", "load": {"requests": 10}}, 2, 2)
        display.requests_ended(3, 10)
    assert "about 10 min left (by the same loads on other engines)" in out.getvalue()
