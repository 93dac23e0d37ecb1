import numpy as np

from reports.measured.curves import POINTS, ecdf, ranks, steps


def test_a_small_ecdf_has_every_value() -> None:
    curve = ecdf(np.array([3.0, 1.0, np.nan, 2.0, 2.0]))
    assert curve is not None
    assert curve.values_s == (1.0, 2.0, 2.0, 3.0)
    assert curve.shares == (0.25, 0.5, 0.75, 1.0)
    assert curve.quantile(0.5) == 2.0
    assert curve.quantile(0.76) == 3.0


def test_no_values_give_no_curve() -> None:
    assert ecdf(np.array([])) is None
    assert ecdf(np.array([np.nan])) is None


def test_the_input_is_left_as_it_was() -> None:
    values = np.array([3.0, 1.0, 2.0])
    ecdf(values)
    assert values.tolist() == [3.0, 1.0, 2.0]


def test_a_large_ecdf_is_thinned_to_exact_points() -> None:
    curve = ecdf(np.random.default_rng(0).permutation(1_000_000).astype(float))
    assert curve is not None
    assert curve.count == 1_000_000
    assert len(curve.values_s) <= POINTS
    assert curve.values_s[0] == 0.0
    assert curve.values_s[-1] == 999_999.0
    exact = [(value + 1) / 1_000_000 for value in curve.values_s]
    assert curve.shares == tuple(exact)


def test_ranks_include_both_ends_and_the_tails() -> None:
    chosen = ranks(1_000_000)
    assert chosen[0] == 0
    assert chosen[-1] == 999_999
    assert (np.diff(chosen) > 0).all()
    assert (chosen > 999_990).sum() >= 3


def test_steps_rise_from_zero_and_never_fall() -> None:
    curve = ecdf(np.array([1.0, 2.0, 4.0]))
    assert curve is not None
    xs, ys = steps(curve)
    assert list(zip(xs, ys, strict=True)) == [(1, 0), (1, 1 / 3), (2, 1 / 3), (2, 2 / 3), (4, 2 / 3), (4, 1)]
