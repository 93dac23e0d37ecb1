"""Hugging Face's own hidden states of a checkpoint, to hold a server's against."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Reference:
    """One checkpoint in transformers: `states(ids)` is [N + 2, tokens, hidden]: embeddings, each block, final norm.

    The states are taken at the blocks themselves, and must be those that transformers gives out where it does: it
    keeps the last block's for itself.
    """

    def __init__(self, path: str, dtype: torch.dtype = torch.float32) -> None:
        from transformers import AutoModelForCausalLM

        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager")
        self.model.eval()
        self._known: dict[tuple[int, ...], Array] = {}

    @cached_property
    def num_layers(self) -> int:
        return int(self.model.config.num_hidden_layers)

    @cached_property
    def _blocks(self) -> Any:
        lists = (module for module in self.model.modules() if isinstance(module, torch.nn.ModuleList))
        return next(found for found in lists if len(found) == self.num_layers)

    def states(self, ids: Sequence[int]) -> Array:
        """Every place's states of one prompt; raises ValueError when transformers contradicts itself."""
        key = tuple(ids)
        if key not in self._known:
            seen: list[torch.Tensor] = []

            def note(value: Any) -> None:
                first = value[0] if isinstance(value, tuple) else value
                seen.append(first.detach().float().reshape(-1, len(key), first.shape[-1])[0])

            def entering(_module: Any, positional: Any, named: Any) -> None:
                note(positional[0] if positional else named["hidden_states"])

            handles = [self._blocks[0].register_forward_pre_hook(entering, with_kwargs=True)]
            handles += [block.register_forward_hook(lambda _m, _i, output: note(output)) for block in self._blocks]
            decoder = getattr(self.model, "model", self.model.base_model)
            try:
                with torch.inference_mode():
                    output = decoder(torch.tensor([key]), output_hidden_states=True, use_cache=False)
            finally:
                for handle in handles:
                    handle.remove()
            self._check(seen, output.hidden_states)
            self._known[key] = torch.stack([*seen, output.last_hidden_state[0].float()]).numpy()
        return self._known[key]

    def expected(self, ids: Sequence[int], places: Sequence[int], pooling: str) -> Array:
        """The states at `places` (0 the embeddings, i + 1 after block i, N + 1 the final norm), pooled."""
        states = self.states(ids)[list(places)]
        if pooling == "last":
            return states[:, -1]
        return states if pooling == "all" else states.mean(axis=1, dtype=np.float64).astype(np.float32)

    def _check(self, seen: Sequence[torch.Tensor], given: Sequence[torch.Tensor] | None) -> None:
        """Our states against those that transformers gives out, all but the last, which is after the norm.

        Mamba's leave the embeddings out, and so begin after the first block.
        """
        if len(seen) != self.num_layers + 1:
            raise ValueError(f"transformers ran {len(seen) - 1} blocks of {self.num_layers}")
        if given is None or len(given) != len(seen):
            return
        theirs = [state[0].float() for state in given[:-1]]
        if not any(
            all(_close(one, other) for one, other in zip(theirs, seen[first:], strict=False)) for first in (0, 1)
        ):
            raise ValueError("transformers gives out other hidden states than its blocks do")


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest |found - expected| / |expected| over all vectors (the last axis)."""
    if found.shape != expected.shape:
        raise ValueError(f"{list(found.shape)} values where {list(expected.shape)} belong")
    difference = np.linalg.norm(found.astype(np.float64) - expected, axis=-1)
    return float((difference / np.linalg.norm(expected.astype(np.float64), axis=-1)).max())


def place_of(layer: int | str, num_layers: int) -> int:
    """Where a layer's states lie in `Reference.states`, by the interface's table."""
    if isinstance(layer, str):
        return {"embeddings": 0, "final_norm": num_layers + 1}[layer]
    return layer % num_layers + 1
