"""The W-matrix: maps from one or several models' states to another's, with everything needed to use them rightly."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignment import tensors
from alignment.errors import BadInput, Mismatch
from alignment.maps import Map
from alignment.states import Combine, LayerName, States, features

Floats = NDArray[np.float64]
FORMAT = 1
KIND = "nbridge-w-matrix"


@dataclass(frozen=True)
class Side:
    """What one side of a map is made of; `width` is that of its features (layers × hidden size when concatenated)."""

    model: str
    layers: tuple[LayerName, ...]
    num_layers: int | None
    hidden_size: int
    pooling: str
    combine: Combine
    width: int
    dtype: str | None = None
    approximation: bool = False

    def check(self, states: States) -> None:
        """Raise Mismatch, with both values named, when `states` are not what this side was fitted on."""
        pairs: list[tuple[str, object, object]] = [
            ("model", self.model, states.model),
            ("hidden size", self.hidden_size, states.hidden_size),
            ("number of blocks", self.num_layers, states.num_layers),
            ("pooling", self.pooling, states.pooling),
            ("embeddings API instead of hidden states", self.approximation, states.approximation),
        ]
        for name, fitted, given in pairs:
            if fitted != given:
                raise Mismatch(
                    f"This W-matrix was fitted on states with {name} {fitted!r}; these have {name} {given!r}. A map "
                    "means nothing for other states: give the right ones, or fit one with nbridge align."
                )
        if missing := [layer for layer in self.layers if layer not in states.layers]:
            raise Mismatch(
                f"This W-matrix was fitted on layers {_list(self.layers)} of {self.model}; these states are of layers "
                f"{_list(states.layers)} and lack {_list(missing)}."
            )


@dataclass(frozen=True)
class WMatrix:
    """`maps[i]` takes the features of `sources[i]` to the target's; their results are averaged with `weights`.

    `facts` is the rest of the metadata: method, parameters, prompts, quality, created …
    """

    sources: tuple[Side, ...]
    target: Side
    maps: tuple[Map, ...]
    weights: tuple[float, ...]
    facts: Mapping[str, Any]

    def apply(self, *sources: States) -> Floats:
        """Target features [prompt, width] predicted from the sources' states, in the order of `self.sources`.

        Raises Mismatch for states of another model, layer, pooling, width or number of sources than were fitted.
        """
        if len(sources) != len(self.sources):
            raise Mismatch(f"This W-matrix was fitted on {len(self.sources)} source models; {len(sources)} were given.")
        for side, states in zip(self.sources, sources, strict=True):
            side.check(states)
        if len({states.prompt_sha256 for states in sources}) > 1:
            raise Mismatch("The source models' states are of different prompts, or in a different order.")
        rows = [features(s, side.layers, side.combine) for s, side in zip(sources, self.sources, strict=True)]
        return self.predict(rows)

    def predict(self, rows: Sequence[Floats]) -> Floats:
        """As `apply`, from features."""
        return weighted([one.apply(x) for one, x in zip(self.maps, rows, strict=True)], self.weights)

    @property
    def is_approximation(self) -> bool:
        return self.target.approximation or any(side.approximation for side in self.sources)

    def document(self) -> dict[str, Any]:
        """The metadata of its file."""
        return {
            "kind": KIND,
            "format": FORMAT,
            "sources": [asdict(side) for side in self.sources],
            "target": asdict(self.target),
            "weights": list(self.weights),
            "approximation": self.is_approximation,
            **self.facts,
        }


def weighted(parts: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """The weighted sum of arrays of one shape."""
    return np.asarray(sum(weight * part for weight, part in zip(weights, parts, strict=True)), dtype=np.float64)


def save(matrix: WMatrix, path: Path, *, force: bool = False) -> None:
    """Write a W-matrix in 32-bit floats with its metadata. Raises BadInput, OutputExists, StorageError."""
    arrays = {}
    for index, one in enumerate(matrix.maps):
        arrays[f"matrix.{index}"] = one.matrix.astype(np.float32)
        arrays[f"source_mean.{index}"] = one.source_mean.astype(np.float32)
    arrays["target_mean"] = matrix.maps[0].target_mean.astype(np.float32)
    tensors.write(path, arrays, matrix.document(), force=force)


def load(path: Path) -> WMatrix:
    """The W-matrix in a file. Raises BadInput when it is missing, something else, or damaged."""
    arrays, document = tensors.read(path)
    if document.get("kind") != KIND or document.get("format") != FORMAT:
        raise BadInput(
            f"{path} is no W-matrix of format {FORMAT}: it says kind {document.get('kind')!r}, format "
            f"{document.get('format')!r}."
        )
    try:
        sources = tuple(_side(one) for one in document.pop("sources"))
        target = _side(document.pop("target"))
        weights = tuple(float(one) for one in document.pop("weights"))
        mean = arrays["target_mean"].astype(np.float64)
        maps = tuple(
            Map(arrays[f"source_mean.{i}"].astype(np.float64), arrays[f"matrix.{i}"].astype(np.float64), mean)
            for i in range(len(sources))
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} is damaged: {type(error).__name__}: {error}.") from error
    for one, side in zip(maps, sources, strict=True):
        if one.matrix.shape != (side.width, target.width):
            raise BadInput(
                f"{path} is damaged: a matrix of shape {list(one.matrix.shape)} does not map width {side.width} to "
                f"{target.width}."
            )
    facts = {name: value for name, value in document.items() if name not in {"kind", "format", "approximation"}}
    return WMatrix(sources=sources, target=target, maps=maps, weights=weights, facts=facts)


def _side(document: dict[str, Any]) -> Side:
    return Side(**{**document, "layers": tuple(document["layers"])})


def _list(layers: Sequence[LayerName]) -> str:
    return ", ".join(map(str, layers))
