"""Linear maps from one model's states to another's, fitted from their second moments. Pure numpy.

With centred rows x and y, G = mean of x xᵀ, H = mean of y yᵀ, C = mean of x yᵀ:

  procrustes   x R s, with R = U Vᵀ of the decomposition C = U S Vᵀ: the rotation (or reflection) with the least
               squared error, and one scale s, because two models' states differ in length. (Schönemann 1966)
  ridge        x (G + λI)⁻¹ C: any linear map; the unconstrained reference. λ = alpha × mean variance of x.
  whitened     both sides are whitened (all directions given unit variance), rotated, and coloured back.
  cca          as whitened, but each of the first `rank` canonical directions shrunk by its correlation: reduced-rank
               regression, ridge itself at full rank. (Hotelling 1936)

Where widths differ, a rotation pads the narrower side with zeros ("pad"), which is the same as U Vᵀ of the rectangular
C; or both sides go to their common number of principal components first ("pca").
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alignment.errors import BadInput

Floats = NDArray[np.float64]
Method = Literal["procrustes", "ridge", "whitened", "cca"]
Unequal = Literal["pad", "pca"]
Parameters = Mapping[str, float]
# The plainest first: of equally good ones it is taken.
METHODS: tuple[Method, ...] = ("procrustes", "ridge", "whitened", "cca")

ALPHAS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
SHRINKAGES = (1e-4, 1e-3, 1e-2, 1e-1)
RANK_SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Moments:
    """Means and centred second moments of paired rows."""

    source_mean: Floats
    target_mean: Floats
    source: Floats
    target: Floats
    cross: Floats


@dataclass(frozen=True)
class Map:
    """x → (x - source_mean) matrix + target_mean."""

    source_mean: Floats
    matrix: Floats
    target_mean: Floats

    def apply(self, rows: Floats) -> Floats:
        return (rows - self.source_mean) @ self.matrix + self.target_mean


def moments(source: Floats, target: Floats) -> Moments:
    """The moments of paired rows. Raises BadInput when one side does not vary."""
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    x, y, count = source - source_mean, target - target_mean, len(source)
    for name, centred in (("source", x), ("target", y)):
        if not centred.any():
            raise BadInput(f"The {name} states are the same for every prompt: there is nothing to align.")
    return Moments(source_mean, target_mean, x.T @ x / count, y.T @ y / count, x.T @ y / count)


def family(
    method: Method, of: Moments, *, unequal: Unequal = "pad", chosen: Parameters | None = None
) -> Iterator[tuple[dict[str, float], Map]]:
    """(settings, map) for each setting of a method that is to be tried, or for those `chosen` alone."""
    grid = {"alpha": ALPHAS, "shrinkage": SHRINKAGES, "rank_share": RANK_SHARES} | {
        name: (value,) for name, value in (chosen or {}).items()
    }

    def as_map(matrix: Floats) -> Map:
        return Map(of.source_mean, matrix, of.target_mean)

    match method:
        case "procrustes":
            yield {}, as_map(procrustes(of, unequal))
        case "ridge":
            for alpha in grid["alpha"]:
                yield {"alpha": alpha}, as_map(ridge(of, ridge_lambda(of, alpha)))
        case "whitened":
            for shrinkage in grid["shrinkage"]:
                white = _Whitened(of, shrinkage)
                yield {"shrinkage": shrinkage}, as_map(scaled(of, white.map(white.left @ white.right)))
        case "cca":
            for shrinkage in grid["shrinkage"]:
                white = _Whitened(of, shrinkage)
                for share in grid["rank_share"]:
                    rank = max(1, round(share * len(white.correlations)))
                    reduced = (white.left[:, :rank] * white.correlations[:rank]) @ white.right[:rank]
                    yield {"shrinkage": shrinkage, "rank_share": share}, as_map(white.map(reduced))


def procrustes(of: Moments, unequal: Unequal = "pad") -> Floats:
    """The scaled rotation [source width, target width] with the least squared error."""
    if unequal == "pad":
        return scaled(of, _rotation(of.cross))
    count = min(of.cross.shape)
    left, right = _principal(of.source, count), _principal(of.target, count)
    return scaled(of, left @ _rotation(left.T @ of.cross @ right) @ right.T)


def ridge(of: Moments, lambda_: float) -> Floats:
    """(G + λI)⁻¹ C; λ is in units of variance, that is, per prompt."""
    return np.asarray(np.linalg.solve(of.source + lambda_ * np.eye(len(of.source)), of.cross), dtype=np.float64)


def ridge_lambda(of: Moments, alpha: float) -> float:
    """λ as a multiple `alpha` of the source's mean variance, so that it means the same for any model."""
    return alpha * float(np.trace(of.source)) / len(of.source)


def random_rotation(of: Moments, rng: np.random.Generator) -> Map:
    """A rotation drawn uniformly at random, with the scale that suits it best: what finding the rotation is worth."""
    rows, columns = of.cross.shape
    tall, upper = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    tall = tall * np.sign(np.diag(upper))
    return Map(of.source_mean, scaled(of, tall if rows >= columns else tall.T), of.target_mean)


def scaled(of: Moments, matrix: Floats) -> Floats:
    """`matrix` times the one number that makes its squared error least."""
    return matrix * float(np.sum(matrix * of.cross) / np.sum(matrix * (of.source @ matrix)))


class _Whitened:
    """Both sides whitened by Cholesky factors, and the singular value decomposition of what couples them.

    A rotation is found up to the whitening's own, which it undoes: Cholesky gives the same map as a symmetric root.
    """

    def __init__(self, of: Moments, shrinkage: float) -> None:
        self._source, self._target = _factor(of.source, shrinkage), _factor(of.target, shrinkage)
        half = np.linalg.solve(self._source, of.cross)
        coupling = np.linalg.solve(self._target, half.T).T
        self.left, self.correlations, self.right = np.linalg.svd(coupling, full_matrices=False)

    def map(self, between: Floats) -> Floats:
        """A map between whitened sides as one between the sides themselves."""
        return np.asarray(np.linalg.solve(self._source.T, between) @ self._target.T, dtype=np.float64)


def _factor(gram: Floats, shrinkage: float) -> Floats:
    eye = np.eye(len(gram))
    return np.asarray(np.linalg.cholesky(gram + shrinkage * float(np.trace(gram)) / len(gram) * eye), dtype=np.float64)


def _rotation(cross: Floats) -> Floats:
    left, _, right = np.linalg.svd(cross, full_matrices=False)
    product: Floats = left @ right
    return product


def _principal(gram: Floats, count: int) -> Floats:
    """[width, count]: the directions of largest variance (eigh sorts ascending)."""
    directions: Floats = np.linalg.eigh(gram)[1][:, ::-1][:, :count]
    return directions


def describe(method: Method, of: Moments, chosen: Parameters) -> dict[str, Any]:
    """The settings of a fitted map for its file: for ridge also λ itself."""
    return dict(chosen) | ({"lambda": ridge_lambda(of, chosen["alpha"])} if method == "ridge" else {})
