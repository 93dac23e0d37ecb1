"""States → the JSON of an answer, exact, in pieces, and without holding up the server's other requests."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.hidden_states.protocol import ApiError, Encoding

States = NDArray[np.float32]
PIECE_BYTES = 1 << 16
# Bytes that base64 is made of at a time: a multiple of three, so that the pieces of a text fit together.
_BASE64_BYTES = 3 << 14


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


def pieces(
    document: dict[str, Any], states: Sequence[States] | States, encoding: Encoding = "float"
) -> Iterator[bytes]:
    """`document` as JSON with `hidden_states` added, in pieces of about PIECE_BYTES, each made when it is asked for.

    `states` is a list with one array per prompt, or one array that stands for itself. "float" writes each number with
    the nine digits that give the 32-bit float back exactly; "base64" one text per array: 32-bit little-endian floats
    in C order.
    """
    frame = json.dumps(document | {"hidden_states": None}, ensure_ascii=False)
    parts, size = [frame.removesuffix("null}").encode()], 0
    for text in _texts(states, encoding):
        parts.append(text)
        size += len(text)
        if size >= PIECE_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    yield b"".join([*parts, b"}"])


async def in_threads(made: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The same pieces, each made in a thread: this loop has other requests to serve."""
    while (piece := await asyncio.to_thread(next, made, None)) is not None:
        yield piece


async def at_once(body: bytes) -> AsyncIterator[bytes]:
    """One piece that is there already."""
    yield body


def _texts(states: Sequence[States] | States, encoding: Encoding) -> Iterator[bytes]:
    if isinstance(states, np.ndarray):
        yield from _base64(states) if encoding == "base64" else _numbers(states)
        return
    yield b"["
    for position, array in enumerate(states):
        yield from (b",",) if position else ()
        yield from _texts(array, encoding)
    yield b"]"


def _base64(array: States) -> Iterator[bytes]:
    flat = np.ascontiguousarray(array, "<f4").reshape(-1).view(np.uint8)
    yield b'"'
    for start in range(0, len(flat), _BASE64_BYTES):
        yield base64.b64encode(flat[start : start + _BASE64_BYTES].data)
    yield b'"'


def _numbers(array: States) -> Iterator[bytes]:
    if array.ndim == 1:  # a row at a time: one call for all would keep the interpreter from all other requests
        yield ("[" + ",".join(["%.9g"] * len(array)) % tuple(array.tolist()) + "]").encode()
        return
    yield b"["
    for position, part in enumerate(array):
        yield from (b",",) if position else ()
        yield from _numbers(part)
    yield b"]"
