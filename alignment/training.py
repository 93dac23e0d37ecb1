"""Fits W-matrices and judges them: split, settings chosen on validation prompts, quality on held-out prompts.

Nothing of the test prompts enters a map, a setting or a weight: settings and weights are chosen on the validation
prompts with maps fitted on the training prompts; the final map, with those settings, is fitted on both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alignment import maps, quality
from alignment.errors import BadInput
from alignment.maps import Map, Method, Moments, Parameters, Unequal
from alignment.prompts import set_sha256
from alignment.split import Split, shortage, split
from alignment.states import Combine, LayerName, States, features, matched, positions
from alignment.wmatrix import Side, WMatrix, weighted

Floats = NDArray[np.float64]
Layers = tuple[LayerName, ...] | Literal["all"]
_DESCENT_STEPS = 2000


@dataclass(frozen=True)
class Options:
    """What is fitted. `weights` of several sources: as given (their sum is made 1), or None to choose them."""

    methods: tuple[Method, ...] = maps.METHODS
    layers: Layers = (-2,)
    target_layers: Layers = (-2,)
    combine: Combine = "concat"
    unequal: Unequal = "pad"
    weights: tuple[float, ...] | None = None
    seed: int = 0
    test_share: float = 0.2
    validation_share: float = 0.1
    resamples: int = quality.RESAMPLES


@dataclass(frozen=True)
class Alignment:
    """One W-matrix per method, and the document that the report and `--json` show."""

    matrices: dict[Method, WMatrix]
    document: dict[str, Any]


@dataclass(frozen=True)
class _Data:
    sources: list[Floats]
    target: Floats
    split: Split

    def moments(self, rows: Sequence[int]) -> list[Moments]:
        chosen = list(rows)
        return [maps.moments(source[chosen], self.target[chosen]) for source in self.sources]

    def of(self, rows: Sequence[int]) -> tuple[list[Floats], Floats]:
        chosen = list(rows)
        return [source[chosen] for source in self.sources], self.target[chosen]


def align(sources: Sequence[States], target: States, options: Options) -> Alignment:
    """Fit and judge a W-matrix for each method. Raises BadInput or TooFewPrompts."""
    poolings = {states.pooling for states in (*sources, target) if not states.approximation}
    if len(poolings) > 1:
        raise BadInput(f"The states are pooled differently ({', '.join(sorted(poolings))}); align like with like.")
    kept, left_out = matched([*sources, target])
    sources, target = kept[:-1], kept[-1]
    sides = [_side(states, options.layers, options.combine) for states in sources]
    target_side = _side(target, options.target_layers, options.combine)
    data = _Data(
        sources=[features(s, options.layers, options.combine) for s in sources],
        target=features(target, options.target_layers, options.combine),
        split=split(
            target.prompt_sha256,
            test_share=options.test_share,
            validation_share=options.validation_share,
            seed=options.seed,
        ),
    )
    prompts = _prompts(target, data.split, left_out, options.seed)
    widest = max(side.width for side in (*sides, target_side))
    warning = shortage(len(data.split.fit), widest, options.test_share)
    fitted = {method: _fit(method, data, sides, target_side, options, prompts) for method in options.methods}
    rows = [{"name": name, **matrix.facts["quality"], **_settings(matrix)} for name, matrix in fitted.items()]
    # Rounded, because two methods may be one map up to the last bits.
    best = max(fitted, key=lambda name: round(fitted[name].facts["validation_explained_variance"], 6))
    document = {
        "sources": [fitted[best].document()["sources"][i] for i in range(len(sources))],
        "target": fitted[best].document()["target"],
        "prompts": prompts,
        "warnings": [warning] if warning else [],
        "approximation": fitted[best].is_approximation,
        "methods": rows,
        "baselines": _baselines(data, options),
        "best_on_validation": best,
        "unequal": options.unequal,
        "chance_top1": 1 / len(data.split.test),
    }
    return Alignment(matrices=fitted, document=document)


def _fit(
    method: Method, data: _Data, sides: list[Side], target: Side, options: Options, prompts: dict[str, Any]
) -> WMatrix:
    """The W-matrix of one method, with its quality on the test prompts among its facts."""
    rows, truth = data.of(data.split.validation)
    tried = [
        _choose(method, of, x, truth, options.unequal)
        for of, x in zip(data.moments(data.split.train), rows, strict=True)
    ]
    predictions = [one.apply(x) for (_, one), x in zip(tried, rows, strict=True)]
    weights = _weights(predictions, truth, tried[0][1].target_mean, options.weights)
    found = quality.explained_variance(weighted(predictions, weights), truth, tried[0][1].target_mean)
    whole = data.moments(data.split.fit)
    final = tuple(
        next(maps.family(method, of, unequal=options.unequal, chosen=chosen))[1]
        for of, (chosen, _) in zip(whole, tried, strict=True)
    )
    parameters = [maps.describe(method, of, chosen) for of, (chosen, _) in zip(whole, tried, strict=True)]
    judged = _judge(final, weights, data, options)
    facts = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "nbridge": metadata.version("neural-bridge"),
        "method": method,
        "parameters": parameters,
        "unequal_widths": options.unequal,
        "prompts": prompts,
        "validation_explained_variance": found,
        "quality": judged,
    }
    if len(final) > 1:
        alone = [_judge((one,), (1.0,), data, options, only=index) for index, one in enumerate(final)]
        facts["each_source_alone"] = alone
    return WMatrix(sources=tuple(sides), target=target, maps=final, weights=weights, facts=facts)


def _choose(method: Method, of: Moments, rows: Floats, truth: Floats, unequal: Unequal) -> tuple[Parameters, Map]:
    """The settings whose map has the least squared error on the validation prompts, and that map."""
    tried = maps.family(method, of, unequal=unequal)
    return min(tried, key=lambda pair: float(np.sum((pair[1].apply(rows) - truth) ** 2)))


def _weights(
    predictions: list[Floats], truth: Floats, mean: Floats, given: tuple[float, ...] | None
) -> tuple[float, ...]:
    """Weights that are not negative and sum to 1: the given ones, or those with the least squared error.

    Projected gradient descent on the simplex; the problem is convex and has as many unknowns as there are sources.
    """
    count = len(predictions)
    if given is not None:
        if len(given) != count or min(given) < 0 or sum(given) <= 0:
            raise BadInput(f"{len(given)} weights {given} for {count} sources: one each is needed, none below 0.")
        return tuple(weight / sum(given) for weight in given)
    columns = np.stack([(one - mean).ravel() for one in predictions], axis=1)
    gram, aim = columns.T @ columns, columns.T @ (truth - mean).ravel()
    step = 1 / float(np.linalg.eigvalsh(gram)[-1])
    weights = np.full(count, 1 / count)
    for _ in range(_DESCENT_STEPS if count > 1 else 0):
        weights = _on_simplex(weights - step * (gram @ weights - aim))
    return tuple(float(weight) for weight in weights)


def _on_simplex(point: Floats) -> Floats:
    """The nearest point whose coordinates are not negative and sum to 1 (Duchi et al. 2008)."""
    ordered = np.sort(point)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(point) + 1)
    return np.asarray(np.maximum(point - excess[np.nonzero(ordered > excess)[0][-1]], 0))


def _judge(
    final: Sequence[Map], weights: Sequence[float], data: _Data, options: Options, only: int | None = None
) -> dict[str, Any]:
    rows, truth = data.of(data.split.test)
    chosen = rows if only is None else [rows[only]]
    predicted = weighted([one.apply(x) for one, x in zip(final, chosen, strict=True)], weights)
    scored = quality.scores(predicted, truth, final[0].target_mean)
    return quality.summarise(scored, seed=options.seed, resamples=options.resamples)


def _baselines(data: _Data, options: Options) -> list[dict[str, Any]]:
    """What needs no alignment: the target's mean for every prompt, and a random rotation of the first source."""
    whole = data.moments(data.split.fit)[0]
    mean = Map(whole.source_mean, np.zeros_like(whole.cross), whole.target_mean)
    rotation = maps.random_rotation(whole, np.random.default_rng(options.seed))
    return [
        {"name": name, **_judge((one,), (1.0,), data, options, only=0)}
        for name, one in (("mean vector", mean), ("random rotation", rotation))
    ]


def _side(states: States, layers: Layers, combine: Combine) -> Side:
    chosen = tuple(states.layers[position] for position in positions(states, layers))
    return Side(
        model=states.model,
        layers=chosen,
        num_layers=states.num_layers,
        hidden_size=states.hidden_size,
        pooling=states.pooling,
        combine=combine,
        width=states.hidden_size * (1 if combine == "mean" else len(chosen)),
        dtype=states.dtype,
        approximation=states.approximation,
    )


def _prompts(target: States, parts: Split, left_out: int, seed: int) -> dict[str, Any]:
    return {
        "distinct": len(target.prompt_sha256),
        "left_out": left_out,
        "train": len(parts.train),
        "validation": len(parts.validation),
        "test": len(parts.test),
        "seed": seed,
        "fit_sha256": set_sha256([target.prompt_sha256[row] for row in parts.fit]),
        "test_sha256": set_sha256([target.prompt_sha256[row] for row in parts.test]),
    }


def _settings(matrix: WMatrix) -> dict[str, Any]:
    found = {name: matrix.facts[name] for name in ("parameters", "validation_explained_variance")}
    if len(matrix.sources) > 1:
        found |= {"weights": list(matrix.weights), "each_source_alone": matrix.facts["each_source_alone"]}
    return found
