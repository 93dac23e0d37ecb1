"""What vLLM itself made of published models, as recorded, and therefore of which kinds of model sizes are called exact.

`planning/catalog/vllm_models.json`: for each model its `model_type`, the `form` of its weights (`Shape.form`), the bits
of a cached value, and on 1, 2 and 8 GPUs the bytes of the parameters and each kind of layer's caches, as
`planning.memory.engine_model` printed them. `agrees`: what of it our arithmetic gives within 1 %, on each number of
GPUs; tests compute that anew for every model, so that nothing is called exact which the record does not bear out.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parents[1] / "catalog" / "vllm_models.json"


@cache
def record() -> dict[str, dict[str, Any]]:
    """Return name → what was recorded of a model."""
    models: dict[str, dict[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8"))["models"]
    return models


@cache
def weights() -> frozenset[tuple[str, str]]:
    """Return the (model type, form of the weights) of which the weights agree."""
    return frozenset((one["model_type"], one["form"]) for one in record().values() if "weights" in one["agrees"])


@cache
def caches() -> frozenset[tuple[str, int]]:
    """Return the (model type, bits of a cached value) of which the cache agrees."""
    return frozenset((one["model_type"], one["cache_bits"]) for one in record().values() if "cache" in one["agrees"])
