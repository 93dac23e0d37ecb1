"""States with a known relation between two made-up models."""

import numpy as np

from alignment.prompts import sha256
from alignment.states import States


def rotation(width, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0]


def states(values, *, model="m", layers=(2,), num_layers=4, pooling="last", hashes=None, **changes):
    """States of [prompt, hidden] or [prompt, layer, hidden] values, for prompts "p0", "p1", …"""
    values = np.asarray(values, dtype=np.float32)
    values = values[:, None] if values.ndim == 2 else values
    count = len(values)
    return States(
        values=values,
        model=model,
        layers=layers,
        pooling=pooling,
        dtype="float32",
        prompt_tokens=(3,) * count,
        prompt_sha256=tuple(hashes or (sha256(f"p{index}") for index in range(count))),
        num_layers=num_layers,
        **changes,
    )


def normal(count, width, seed=1):
    return np.random.default_rng(seed).standard_normal((count, width))
