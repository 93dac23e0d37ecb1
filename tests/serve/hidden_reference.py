"""Hugging Face's own hidden states, to compare a server's with; and the tiny random models of other families."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

VOCABULARY = 1024


class Reference:
    """One checkpoint in transformers: `states(ids)` is [N + 2, tokens, hidden]: embeddings, each block, final norm."""

    def __init__(self, path: str, dtype: torch.dtype = torch.float32) -> None:
        from transformers import AutoModelForCausalLM

        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager")
        self.model.eval()
        self._known: dict[tuple[int, ...], NDArray[np.float32]] = {}

    @cached_property
    def num_layers(self) -> int:
        return int(self.model.config.num_hidden_layers)

    def states(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Every place's states of one prompt; after the last block before the norm, which HF keeps for itself."""
        key = tuple(ids)
        if key not in self._known:
            blocks = getattr(self.model.base_model, "layers", None) or self.model.base_model.h
            last: list[torch.Tensor] = []
            handle = blocks[-1].register_forward_hook(
                lambda _module, _inputs, output: last.append(output[0] if isinstance(output, tuple) else output)
            )
            with torch.inference_mode():
                output = self.model(torch.tensor([key]), output_hidden_states=True, use_cache=False)
            handle.remove()
            places = [*output.hidden_states[:-1], last[0].reshape(1, len(key), -1), output.hidden_states[-1]]
            self._known[key] = torch.stack([place[0].float() for place in places]).numpy()
        return self._known[key]

    def expected(self, ids: Sequence[int], places: Sequence[int], pooling: str) -> NDArray[np.float32]:
        """The states at `places` (0 the embeddings, i + 1 after block i, N + 1 the final norm), pooled."""
        states = self.states(ids)[list(places)]
        if pooling == "last":
            return states[:, -1]
        return states if pooling == "all" else states.mean(axis=1, dtype=np.float64).astype(np.float32)


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest |found - expected| / |expected| over all vectors (the last axis)."""
    assert found.shape == expected.shape
    difference = np.linalg.norm(found.astype(np.float64) - expected, axis=-1)
    return float((difference / np.linalg.norm(expected.astype(np.float64), axis=-1)).max())


def place_of(layer: int | str, num_layers: int) -> int:
    """Where a layer's states lie in `Reference.states`, by the interface's table."""
    if isinstance(layer, str):
        return {"embeddings": 0, "final_norm": num_layers + 1}[layer]
    return layer % num_layers + 1


def save_random_model(family: str, folder: Path) -> str:
    """A random model of 3 blocks and 64 dimensions, in the shape of a family, as safetensors."""
    import transformers

    shape: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1}
    if family == "gpt2":
        config: Any = transformers.GPT2Config(n_embd=64, n_layer=3, n_head=2, n_positions=256, **shape)
    else:
        shape |= {
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
        }
        config = {"qwen2": transformers.Qwen2Config, "mistral": transformers.MistralConfig}[family](**shape)
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Also biases and norms, which are zeros and ones in a fresh model and would hide a mistake.
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return str(folder)
