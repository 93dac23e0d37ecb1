import pytest

from reports.measured.repeats import coverage, separated, spread


def test_the_range_of_five_covers_the_median_with_94_percent() -> None:
    # both ends on one side of the median: 2 · (1/2)^5
    assert coverage(5, 0) == pytest.approx(1 - 2 / 32)
    found = spread([3.0, 1.0, 2.0, 5.0, 4.0])
    assert found is not None
    assert (found.median, found.low, found.high) == (3.0, 1.0, 5.0)
    assert found.interval == (1.0, 5.0)
    assert found.coverage == pytest.approx(0.9375)


def test_nine_repeats_leave_out_the_extremes() -> None:
    # trim 1: 1 − 2·(1 + 9)/512 = 0.961; trim 2 would be 0.82
    found = spread([float(v) for v in range(9)])
    assert found is not None
    assert found.interval == (1.0, 7.0)
    assert found.coverage == pytest.approx(1 - 20 / 512)


def test_one_repeat_has_no_coverage_and_none_no_spread() -> None:
    assert spread([]) is None
    found = spread([2.0])
    assert found is not None
    assert found.coverage == 0.0


def _of(*values: float):
    found = spread(list(values))
    assert found is not None
    return found


def test_few_repeats_establish_only_large_differences() -> None:
    assert separated(_of(100.0), _of(111.0))
    assert not separated(_of(100.0), _of(109.0))
    assert not separated(_of(100.0, 140.0), _of(130.0, 150.0))


def test_five_repeats_establish_what_their_intervals_keep_apart() -> None:
    near = _of(100, 101, 102, 103, 104)
    assert separated(near, _of(105, 106, 107, 108, 109))
    assert not separated(near, _of(104, 105, 106, 107, 108))
