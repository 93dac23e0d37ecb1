import numpy as np
import pytest
from made_states import normal, rotation

from alignment import maps
from alignment.errors import BadInput


def only(method, source, target, **options):
    return [one for _, one in maps.family(method, maps.moments(source, target), **options)]


def test_a_known_rotation_scale_and_shift_come_back_exactly():
    x, turn = normal(200, 6), rotation(6)
    y = 2.5 * x @ turn + np.arange(6.0)
    (found,) = only("procrustes", x, y)
    assert np.allclose(found.matrix, 2.5 * turn, atol=1e-12)
    assert np.allclose(found.apply(x), y, atol=1e-12)


def test_a_turn_of_ninety_degrees_by_hand():
    x = np.array([[1.0, 0], [-1, 0], [0, 2], [0, -2]])
    y = np.array([[0.0, 1], [0, -1], [-2, 0], [2, 0]])
    (found,) = only("procrustes", x, y)
    assert np.allclose(found.matrix, [[0, 1], [-1, 0]], atol=1e-12)


@pytest.mark.parametrize("unequal", ["pad", "pca"])
def test_unequal_widths(unequal):
    wide = normal(300, 5)
    wide[:, 3:] = 0  # three dimensions in five
    turned = wide @ rotation(5)
    (narrowed,) = only("procrustes", turned, wide[:, :3], unequal=unequal)
    assert np.allclose(narrowed.apply(turned), wide[:, :3], atol=1e-9)
    (widened,) = only("procrustes", wide[:, :3], turned, unequal=unequal)
    assert np.allclose(widened.apply(wide[:, :3]), turned, atol=1e-9)
    assert np.allclose(widened.matrix @ widened.matrix.T, np.eye(3), atol=1e-9)


def test_padding_with_zeros_is_the_rectangular_rotation():
    x, y = normal(100, 3), normal(100, 5, seed=2)
    padded = np.hstack([x, np.zeros((100, 2))])
    of, whole = maps.moments(x, y), maps.moments(padded, y)
    assert np.allclose(maps.procrustes(of), maps.procrustes(whole)[:3], atol=1e-10)


def test_ridge_is_the_closed_form():
    x, y = normal(50, 4), normal(50, 3, seed=2)
    of = maps.moments(x, y)
    xc, yc = x - x.mean(0), y - y.mean(0)
    for alpha in (1e-3, 1.0):
        lambda_ = maps.ridge_lambda(of, alpha)
        assert lambda_ == pytest.approx(alpha * (xc**2).sum() / 50 / 4)
        # Least squares on data with √(nλ) I appended, the other way to write the same.
        augmented = np.vstack([xc, np.sqrt(50 * lambda_) * np.eye(4)])
        closed = np.linalg.lstsq(augmented, np.vstack([yc, np.zeros((4, 3))]), rcond=None)[0]
        assert np.allclose(maps.ridge(of, lambda_), closed, atol=1e-12)


def test_ridge_in_one_dimension_by_hand():
    of = maps.moments(np.array([[-1.0], [1.0]]), np.array([[-3.0], [3.0]]))
    assert maps.ridge(of, 0.5)[0, 0] == pytest.approx(3 / 1.5)


def test_whitening_undoes_a_stretch_that_a_rotation_cannot():
    x = normal(400, 4)
    y = x @ np.diag([10.0, 1, 0.5, 0.1]) @ rotation(4)
    error = {
        method: min(((one.apply(x) - y) ** 2).mean() for one in only(method, x, y)) / (y**2).mean()
        for method in maps.METHODS
    }
    assert error["procrustes"] > 0.05
    assert error["cca"] < 1e-4 and error["ridge"] < 1e-4 and error["whitened"] < 0.01


def test_whitened_rotation_does_not_hang_on_the_whitening_chosen():
    """The same map from symmetric roots, written out, as from Cholesky factors."""
    x, y = normal(300, 4) @ normal(4, 4, seed=5), normal(300, 4, seed=2) @ normal(4, 4, seed=6) + normal(300, 4)
    of = maps.moments(x, y)

    def root(gram, power):
        values, vectors = np.linalg.eigh(gram + 0.01 * np.trace(gram) / 4 * np.eye(4))
        return vectors @ np.diag(values**power) @ vectors.T

    left, _, right = np.linalg.svd(root(of.source, -0.5) @ of.cross @ root(of.target, -0.5))
    expected = maps.scaled(of, root(of.source, -0.5) @ left @ right @ root(of.target, 0.5))
    ((_, found),) = maps.family("whitened", of, chosen={"shrinkage": 0.01})
    assert np.allclose(found.matrix, expected, atol=1e-10)


def test_cca_of_full_rank_without_shrinkage_is_least_squares():
    x, y = normal(300, 4), normal(300, 3, seed=2)
    of = maps.moments(x, y)
    ((_, found),) = maps.family("cca", of, chosen={"shrinkage": 1e-12, "rank_share": 1.0})
    assert np.allclose(found.matrix, np.linalg.lstsq(x - x.mean(0), y - y.mean(0), rcond=None)[0], atol=1e-8)
    ((_, lower),) = maps.family("cca", of, chosen={"shrinkage": 1e-12, "rank_share": 0.3})
    assert np.linalg.matrix_rank(lower.matrix, tol=1e-9) == 1


def test_random_rotation_is_one_up_to_its_scale():
    of = maps.moments(normal(50, 5), normal(50, 3, seed=2))
    found = maps.random_rotation(of, np.random.default_rng(0)).matrix
    gram = found.T @ found
    assert np.allclose(gram, gram[0, 0] * np.eye(3), atol=1e-12)


def test_states_that_do_not_vary():
    with pytest.raises(BadInput, match="target states are the same for every prompt"):
        maps.moments(normal(10, 2), np.ones((10, 2)))
