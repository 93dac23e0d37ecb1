"""States → the JSON body of an answer, exact and without holding up the server's other requests."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.hidden_states.protocol import ApiError, Encoding

States = NDArray[np.float32]
_MARK = '"@states@"'


def check_finite(states: Sequence[States], layers: Sequence[int | str]) -> None:
    """Raise ApiError 500 naming prompt and layer when a value is not finite; JSON has no such numbers.

    `states` is one array [layer, …] per prompt.
    """
    for position, array in enumerate(states):
        if not np.isfinite(array).all():
            finite = np.isfinite(array).reshape(len(layers), -1).all(axis=1)
            raise ApiError(
                500,
                f"prompts[{position}]: the model's state after layer {layers[int(np.argmin(finite))]} is not finite "
                "(NaN or infinite): broken weights, or an overflow of a 16-bit dtype.",
            )


def body(document: dict[str, Any], states: Sequence[States], *, one_layer: bool, encoding: Encoding) -> bytes:
    """`document` as JSON with `hidden_states` and `shapes` added; meant to run in a thread.

    `states` is [layer, hidden] per prompt, [layer, token, hidden] for pooling "all"; with `one_layer` the first axis
    goes. "float" writes each number with the nine digits that give the 32-bit float back exactly; "base64" one text
    per prompt: 32-bit little-endian floats in C order, whose shape is in `shapes`.
    """
    arrays = [array[0] if one_layer else array for array in states]
    document = document | {"shapes": [list(array.shape) for array in arrays]}
    if encoding == "base64":
        texts = [base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode("ascii") for array in arrays]
        return json.dumps(document | {"hidden_states": texts}, ensure_ascii=False).encode()
    frame = json.dumps(document | {"hidden_states": "@states@"}, ensure_ascii=False)
    before, _, after = frame.rpartition(_MARK)
    # One row at a time: a single call for the whole answer would keep the interpreter from all other requests.
    return (before + "[" + ",".join(_nested(array) for array in arrays) + "]" + after).encode()


def rows(array: States) -> list[Any]:
    """A small array as nested lists of numbers as `body` writes them."""
    nested: list[Any] = json.loads(_nested(array))
    return nested


def _nested(array: States) -> str:
    if array.ndim > 1:
        return "[" + ",".join(_nested(part) for part in array) + "]"
    return "[" + ",".join(["%.9g"] * len(array)) % tuple(array.tolist()) + "]"
