"""The key-value cache: what one token and one sequence of it occupy on one GPU, in blocks as vLLM allots them. Pure.

`checkpoints.tensors.layers` says what each layer keeps; here it is summed over layers, rounded to blocks and told.
"""

from collections import Counter
from collections.abc import Iterable

from checkpoints.tensors.layer_kinds import UNKNOWN
from checkpoints.tensors.layers import Cache, Layer

BLOCK_TOKENS = 16


def token_bytes(found: Iterable[Layer], *, tensor_parallel: int = 1, bytes_per_value: float = 2) -> float:
    """Return the bytes that one more token takes in these layers on one of the GPUs while no window slides.

    Layers with a fixed state per sequence take nothing, nor do layers whose kind is not known.
    """
    return sum(
        cache.token_bytes(tensor_parallel=tensor_parallel, bytes_per_value=bytes_per_value)
        for layer in found
        for cache in layer
    )


def sequence_bytes(
    found: Iterable[Layer],
    tokens: float,
    *,
    tensor_parallel: int = 1,
    bytes_per_value: float = 2,
    block_tokens: int = BLOCK_TOKENS,
) -> float:
    """Return the bytes of one sequence's cache in these layers: whole blocks, capped where a window slides, and states.

    While a long prompt is read, vLLM holds up to one batch beyond the window; that is part of the activation peak's
    uncertainty and not counted here, and neither is what its groups of unlike layers leave unused. `block_tokens` 1
    gives what is read of it instead of what is allotted.
    """

    def one(cache: Cache) -> float:
        held = tokens if cache.window is None else min(tokens, cache.window)
        blocks = -(-held // block_tokens) * block_tokens if block_tokens > 1 else held
        per_token = cache.token_bytes(tensor_parallel=tensor_parallel, bytes_per_value=bytes_per_value)
        return blocks * per_token + cache.sequence_bytes(tensor_parallel)

    return sum(one(cache) for layer in found for cache in layer)


def kinds(found: Iterable[Layer]) -> Counter[str]:
    """Return kind of layer in words → how many layers are of it, in the order of their first layer."""
    return Counter(" and ".join(_kind_in_words(cache) for cache in layer) for layer in found)


def _kind_in_words(cache: Cache) -> str:
    if cache.kind == UNKNOWN:
        return f"{cache.name} (not known)"
    return cache.name if cache.window is None else f"{cache.name} of {cache.window:,}"
