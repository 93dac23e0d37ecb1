"""Rates and percentiles of several scrapes, with hand-worked numbers: resets, late series, buckets, several engines."""

import math

import pytest

from monitoring.health import progress
from monitoring.scrape.metrics import parse
from monitoring.scrape.window import Bound, Histogram, Scrape, Window, scrape


def at(at_s: float, page: str) -> Scrape:
    return scrape(at_s, parse(page))


def test_a_rate_is_the_increase_over_our_own_clock() -> None:
    window = Window([at(100, "a_total 10\n"), at(104, "a_total 30\n")])
    assert (window.increase("a_total"), window.rate("a_total")) == (20, 5)
    assert window.increase("b_total") is None


def test_a_counter_that_reset_counts_from_nothing() -> None:
    window = Window([at(0, "a_total 100\n"), at(1, "a_total 130\n"), at(2, "a_total 5\n"), at(3, "a_total 9\n")])
    assert window.resets == (False, True, False)
    assert window.increase("a_total") == 30 + 5 + 4


def test_a_restart_is_known_by_the_start_time_even_when_the_counter_is_higher() -> None:
    start = "process_start_time_seconds"
    window = Window([at(0, f"{start} 1000\na_total 3\n"), at(5, f"{start} 1060\na_total 4\n")])
    assert window.resets == (True,)
    assert window.increase("a_total") == 4


def test_all_counters_of_a_page_reset_together() -> None:
    # b has passed its old value already; a shows that the process is a new one.
    window = Window([at(0, "a_total 10\nb_total 2\n"), at(1, "a_total 1\nb_total 3\n")])
    assert window.increase("b_total") == 3


def test_a_series_that_appears_began_at_nothing_and_one_engine_beside_another_adds_up() -> None:
    window = Window([at(0, 'a_total{engine="0"} 5\n'), at(2, 'a_total{engine="0"} 6\na_total{engine="1"} 7\n')])
    assert window.increase("a_total") == 1 + 7
    assert window.increase("a_total", engine="1") == 7
    assert window.increases("a_total", "engine") == {"0": 1, "1": 7}


def test_one_scrape_tells_no_rate_and_a_value_that_is_no_number_is_absent() -> None:
    window = Window([at(0, "a_total 5\nb NaN\n")])
    assert window.rate("a_total") is None
    assert window.gauge("b") == []
    assert window.histogram("a") is None


def test_an_address_with_several_servers_behind_it_gives_no_rates() -> None:
    pages = [f"process_start_time_seconds {start}\na_total {count}\n" for start, count in ((1, 9), (500, 2), (1, 10))]
    window = Window([at(number, page) for number, page in enumerate(pages)])
    assert window.alternates
    assert window.increase("a_total") is None


def buckets(*counts: int) -> str:
    rows = zip(("1", "5", "10", "+Inf"), counts, strict=True)
    return "".join(f'h_bucket{{le="{le}"}} {count}\n' for le, count in rows) + f"h_sum 0\nh_count {counts[-1]}\n"


def test_a_percentile_of_buckets_is_told_by_its_bounds() -> None:
    # 20 new values: 2 up to 1, 10 up to 5, 7 up to 10, 1 above.
    histogram = Window([at(0, buckets(1, 1, 1, 1)), at(1, buckets(3, 13, 20, 21))]).histogram("h")
    assert histogram is not None
    assert histogram.count == 20
    assert histogram.percentile(0.10) == Bound(0, 1)  # the 2nd
    assert histogram.percentile(0.50) == Bound(1, 5)  # the 10th
    assert histogram.percentile(0.95) == Bound(5, 10)  # the 19th
    assert histogram.percentile(0.99) == Bound(10, None)  # the 20th
    assert histogram.share_above(5) == 8 / 20
    assert histogram.share_above(6) is None  # no bound: nobody knows


def test_no_values_have_no_percentile() -> None:
    histogram = Histogram(((1.0, 0.0), (math.inf, 0.0)), 0.0)
    assert (histogram.percentile(0.5), histogram.share_above(1), histogram.mean) == (None, None, None)


def test_buckets_that_contradict_each_other_are_no_histogram() -> None:
    shrinking = 'h_bucket{le="1"} 5\nh_bucket{le="+Inf"} 3\n'
    assert Window([at(0, "x 1\n"), at(1, shrinking)]).histogram("h") is None
    unbounded = 'h_bucket{le="1"} 5\n'
    assert Window([at(0, "x 1\n"), at(1, unbounded)]).histogram("h") is None


def engine(at_s: float, *, steps: int, running: int = 0, waiting: int = 0, name: str = "0") -> Scrape:
    labels = f'{{engine="{name}"}}'
    return at(
        at_s,
        f"{progress.ITERATIONS}{labels} {steps}\n{progress.RUNNING}{labels} {running}\n"
        f"{progress.WAITING}{labels} {waiting}\n",
    )


@pytest.mark.parametrize(
    ("steps", "running", "silent_s"),
    [
        ((5, 5, 5, 5), (1, 1, 1, 1), 9),  # works on something, and does nothing
        ((4, 5, 5, 5), (1, 1, 1, 1), 6),  # did a step in the first three seconds
        ((5, 5, 5, 5), (0, 1, 1, 1), 6),  # had nothing to do at first
        ((5, 5, 5, 6), (1, 1, 1, 1), None),  # slow
        ((5, 5, 5, 5), (0, 0, 0, 0), None),  # idle
    ],
)
def test_an_engine_stalls_when_it_has_work_and_does_no_step(
    steps: tuple[int, ...], running: tuple[int, ...], silent_s: float | None
) -> None:
    scrapes = [engine(3 * i, steps=s, running=r) for i, (s, r) in enumerate(zip(steps, running, strict=True))]
    found = progress.stalls(scrapes, 5)
    assert [stall.silent_s for stall in found] == ([] if silent_s is None else [silent_s])
    assert not progress.stalls(scrapes, 10)


def test_one_of_two_engines_stalls_alone() -> None:
    def both(at_s: float, steps: int) -> Scrape:
        one, two = engine(at_s, steps=steps, running=1), engine(at_s, steps=7, waiting=2, name="1")
        return Scrape(at_s, {name: {**one.series[name], **two.series[name]} for name in one.series})

    scrapes = [both(0, 1), both(10, 2)]
    assert [(stall.engine, stall.waiting) for stall in progress.stalls(scrapes, 10)] == [("1", 2)]
    assert progress.moved(scrapes) is True
    assert progress.moved([engine(0, steps=1), engine(9, steps=1)]) is False
    assert progress.moved([at(0, "a 1\n"), at(1, "a 1\n")]) is None
