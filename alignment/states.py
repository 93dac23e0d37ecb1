"""The states of one model for a set of prompts, in memory and as a file, and the features that are made of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alignment import tensors
from alignment.errors import BadInput

Floats = NDArray[np.float64]
LayerName = int | str
Combine = Literal["concat", "mean"]
FORMAT = 1
KIND = "nbridge-hidden-states"


@dataclass(frozen=True)
class States:
    """`values` is [prompt, layer, hidden] in 32-bit floats; for pooling "all" [token, layer, hidden], the tokens of all
    prompts one after the other, prompt i having `prompt_tokens[i]` of them.

    `layers` are resolved block numbers or names. `prompt_sha256` has one hash per prompt. `server` says what is
    known of where they come from. `approximation` is true for vectors of an embeddings API, which are no hidden states.
    """

    values: NDArray[np.float32]
    model: str
    layers: tuple[LayerName, ...]
    pooling: str
    dtype: str | None
    prompt_tokens: tuple[int, ...]
    prompt_sha256: tuple[str, ...]
    num_layers: int | None = None
    server: dict[str, Any] | None = None
    approximation: bool = False

    @property
    def hidden_size(self) -> int:
        return int(self.values.shape[-1])

    def document(self) -> dict[str, Any]:
        """What a file says about its arrays."""
        return {
            "kind": KIND,
            "format": FORMAT,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "nbridge": metadata.version("neural-bridge"),
            "model": self.model,
            "layers": list(self.layers),
            "num_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "pooling": self.pooling,
            "dtype": self.dtype,
            "prompts": len(self.prompt_sha256),
            "prompt_sha256": list(self.prompt_sha256),
            "server": self.server,
            "approximation": self.approximation,
        }

    def rows(self, indices: Sequence[int]) -> "States":
        """These prompts, in this order; not for pooling "all"."""
        return replace(
            self,
            values=self.values[list(indices)],
            prompt_tokens=tuple(self.prompt_tokens[index] for index in indices),
            prompt_sha256=tuple(self.prompt_sha256[index] for index in indices),
        )


def save(states: States, path: Path, *, force: bool = False) -> None:
    """Write states with their metadata. Raises BadInput, OutputExists, StorageError."""
    arrays: dict[str, NDArray[Any]] = {
        "states": states.values,
        "prompt_tokens": np.array(states.prompt_tokens, dtype=np.int64),
    }
    tensors.write(path, arrays, states.document(), force=force)


def load(path: Path) -> States:
    """The states in a file. Raises BadInput when it is missing, something else, or damaged."""
    arrays, document = tensors.read(path)
    if document.get("kind") != KIND:
        raise BadInput(f"{path} holds no hidden states but {document.get('kind', 'something unknown')!r}.")
    if document.get("format") != FORMAT:
        raise BadInput(f"{path} has format {document.get('format')!r}; this version reads {FORMAT}.")
    try:
        states = States(
            values=arrays["states"].astype(np.float32, copy=False),
            model=str(document["model"]),
            layers=tuple(document["layers"]),
            pooling=str(document["pooling"]),
            dtype=document["dtype"],
            prompt_tokens=tuple(int(count) for count in arrays["prompt_tokens"]),
            prompt_sha256=tuple(document["prompt_sha256"]),
            num_layers=document["num_layers"],
            server=document["server"],
            approximation=bool(document["approximation"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} is damaged: {type(error).__name__}: {error}.") from error
    rows = sum(states.prompt_tokens) if states.pooling == "all" else len(states.prompt_sha256)
    if states.values.shape[:2] != (rows, len(states.layers)) or len(states.prompt_tokens) != len(states.prompt_sha256):
        raise BadInput(f"{path} is damaged: its states have shape {list(states.values.shape)}.")
    if not np.isfinite(states.values).all():
        raise BadInput(f"{path} holds states that are not finite (NaN or infinite).")
    return states


def matched(all_states: Sequence[States]) -> tuple[list[States], int]:
    """The states of those prompts that every set has, each prompt once and in the same order, and how many rows went.

    Raises BadInput for pooling "all", whose tokens of two models are no pairs.
    """
    for states in all_states:
        if states.pooling == "all":
            raise BadInput(
                f"The states of {states.model} are of every token (pooling all); tokens of two models are no pairs. "
                "Take pooling last or mean."
            )
    first = all_states[0]
    places = [{one: index for index, one in reversed(list(enumerate(s.prompt_sha256)))} for s in all_states]
    common = [one for one in dict.fromkeys(first.prompt_sha256) if all(one in place for place in places)]
    kept = [s.rows([place[one] for one in common]) for s, place in zip(all_states, places, strict=True)]
    return kept, max(len(s.prompt_sha256) for s in all_states) - len(common)


def features(states: States, layers: Sequence[LayerName] | Literal["all"], combine: Combine) -> Floats:
    """[prompt, width]: the chosen layers side by side ("concat") or averaged ("mean"), in 64-bit floats.

    Raises BadInput for a layer that the states do not have.
    """
    chosen = [states.values[:, index] for index in positions(states, layers)]
    if combine == "mean":
        return np.asarray(np.mean(chosen, axis=0, dtype=np.float64))
    return np.concatenate(chosen, axis=1).astype(np.float64)


def block(layer: LayerName, num_layers: int | None) -> LayerName:
    """A negative layer number as the block that it means, where the number of blocks is known; else as it is."""
    return layer + num_layers if isinstance(layer, int) and layer < 0 and num_layers is not None else layer


def positions(states: States, layers: Sequence[LayerName] | Literal["all"]) -> list[int]:
    """Where the chosen layers lie in `states.layers`. A negative number counts from the model's last block."""
    if layers == "all" or states.approximation:
        return list(range(len(states.layers)))
    found = []
    for layer in layers:
        resolved = layer if layer in states.layers else block(layer, states.num_layers)
        if resolved not in states.layers:
            raise BadInput(
                f"Layer {layer} is not among the states of {states.model}: they are of "
                f"{', '.join(map(str, states.layers))}"
                + (f" of {states.num_layers} blocks." if states.num_layers else "; the number of blocks is unknown.")
            )
        found.append(states.layers.index(resolved))
    return found
