"""Round-to-nearest arithmetic on one weight, and the bit layouts of the formats it is stored in.

Weights are float32 arrays of [output features, input features]. Scales are rounded *up* to the type they are stored
in, so that no weight lies beyond the largest code and every weight comes back within half a step.

Packing: eight 4-bit codes fill one 32-bit word, the first in the lowest bits. `w4a16` and GPTQ pack along the
input in plain order; AWQ packs along the output in the order 0 2 4 6 1 3 5 7. Of 8-bit codes four fill a word.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from checkpoints.tensors import schemes

_Item = TypeVar("_Item", bound=np.generic)
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]
Words = npt.NDArray[np.int32]
Bits16 = npt.NDArray[np.uint16]
Bytes = npt.NDArray[np.uint8]

_PLAIN_ORDER = (0, 1, 2, 3, 4, 5, 6, 7)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
# The magnitudes of E4M3 by code: 4 bits of exponent (bias 7), 3 of fraction; below 2^-6 in steps of 2^-9.
_E4M3 = np.array(
    [fraction * 2.0**-9 for fraction in range(8)]
    + [(8 + code % 8) * 2.0 ** (code // 8 - 10) for code in range(8, 127)],
    dtype=np.float32,
)
_SMALLEST_SCALE = np.float32(2.0**-24)  # the smallest number that float16 can hold


def quantize(weight: Floats, scheme: str, group_size: int, scale_dtype: str) -> dict[str, npt.NDArray[np.generic]]:
    """Return suffix → array of what the scheme stores for a weight (bfloat16 scales as their 16 bits).

    The suffixes are those of `schemes.stored`; the shapes too, except that GPTQ's g_idx and w4a16's weight_shape
    describe this weight as if it were the whole tensor. Raises ValueError for a NaN or an infinity.
    """
    outputs, inputs = weight.shape
    if scheme == schemes.W8A8_INT8:
        codes, scales = symmetric(weight, inputs, 8, scale_dtype)
        return {"weight": codes, "weight_scale": to_bits(scales, scale_dtype)}
    if scheme == schemes.W8A8_FP8:
        floats, scales = small_floats(weight, scale_dtype)
        return {"weight": floats, "weight_scale": to_bits(scales, scale_dtype)}
    if scheme == schemes.W4A8:
        codes, scales = symmetric(weight, group_size, 4, scale_dtype)
        return {"weight": codes, "weight_scale": to_bits(scales, scale_dtype)}
    if scheme in (schemes.W4A16, schemes.W8A16):
        bits = 4 if scheme == schemes.W4A16 else 8
        codes, scales = symmetric(weight, group_size, bits, scale_dtype)
        return {
            "weight_packed": pack(codes + 8) if bits == 4 else pack_bytes(codes),
            "weight_scale": to_bits(scales, scale_dtype),
            "weight_shape": np.array([outputs, inputs], dtype=np.int64),
        }
    if scheme == schemes.GPTQ:
        codes, scales = symmetric(weight, group_size, 4, "F16")
        # The format stores zero points less one: 8 becomes 7 in each of the eight places.
        zeros = np.full((inputs // group_size, outputs // 8), 0x77777777, dtype=np.int32)
        return {
            "qweight": _transposed(pack(codes + 8)),
            "qzeros": zeros,
            "scales": _transposed(to_bits(scales, "F16")),
            "g_idx": (np.arange(inputs) // group_size).astype(np.int32),
        }
    codes, scales, zero_points = asymmetric(weight, group_size)
    return {
        "qweight": pack(_transposed(codes), AWQ_ORDER),
        "qzeros": pack(_transposed(zero_points), AWQ_ORDER),
        "scales": _transposed(to_bits(scales, "F16")),
    }


def rounded(weight: Floats, scheme: str, group_size: int, scale_dtype: str) -> Floats:
    """Return a weight as a scheme of `schemes.WEIGHTS_ONLY` gives it back: code (less the zero point) times scale."""
    if scheme == schemes.AWQ:
        codes, scales, zero_points = asymmetric(weight, group_size)
        codes = codes - zero_points.repeat(group_size, axis=1)
    else:
        kept = "F16" if scheme == schemes.GPTQ else scale_dtype
        codes, scales = symmetric(weight, group_size, 8 if scheme == schemes.W8A16 else 4, kept)
    return codes * scales.repeat(group_size, axis=1)


def symmetric(weight: Floats, group_size: int, bits: int, scale_dtype: str) -> tuple[Codes, Floats]:
    """Return codes in [-2^(bits-1), 2^(bits-1) - 1] and one scale per group: weight ≈ code · scale.

    Four bits spread the group's largest magnitude over 7.5 steps, which rounds to at most half a step beyond the
    largest code; eight bits over 127, since half a step more would gain nothing.
    """
    outputs, inputs = weight.shape
    grouped = weight.reshape(outputs, inputs // group_size, group_size)
    steps = 7.5 if bits == 4 else 127.0
    largest = np.abs(grouped).max(axis=2)
    scales = rounded_up(np.maximum(largest / np.float32(steps), _SMALLEST_SCALE), scale_dtype)
    _require_finite(scales)
    codes = np.rint(grouped / scales[:, :, None])
    limit = 2 ** (bits - 1)
    np.clip(codes, -limit, limit - 1, out=codes)
    return codes.astype(np.int8).reshape(outputs, inputs), scales


def asymmetric(weight: Floats, group_size: int) -> tuple[Codes, Floats, Codes]:
    """Return 4-bit codes in [0, 15], scales and zero points per group: weight ≈ (code - zero point) · scale.

    The range always takes in zero, so that a zero weight stays exactly zero.
    """
    outputs, inputs = weight.shape
    grouped = weight.reshape(outputs, inputs // group_size, group_size)
    low = np.minimum(grouped.min(axis=2), 0)
    high = np.maximum(grouped.max(axis=2), 0)
    scales = rounded_up(np.maximum((high - low) / np.float32(15), _SMALLEST_SCALE), "F16")
    _require_finite(scales)
    zero_points = np.clip(np.rint(-low / scales), 0, 15)
    codes = np.rint(grouped / scales[:, :, None] + zero_points[:, :, None])
    np.clip(codes, 0, 15, out=codes)
    return codes.astype(np.int8).reshape(outputs, inputs), scales, zero_points.astype(np.int8)


def small_floats(weight: Floats, scale_dtype: str) -> tuple[Bytes, Floats]:
    """Return 8-bit floats (E4M3, as their bits) and one scale per output: weight ≈ float · scale.

    Rounded to nearest, ties to even. The largest magnitude of an output becomes 448, the largest such float.
    """
    largest = np.abs(weight).max(axis=1, keepdims=True)
    scales = rounded_up(np.maximum(largest / _E4M3[-1], _SMALLEST_SCALE), scale_dtype)
    _require_finite(scales)
    magnitudes = np.abs(weight) / scales
    middles = np.append((_E4M3[1:] + _E4M3[:-1]) / 2, np.float32(np.inf))
    codes = np.searchsorted(middles, magnitudes).astype(np.uint8)
    codes += (middles[codes] == magnitudes) & (codes % 2 == 1)
    codes |= np.signbit(weight).astype(np.uint8) << 7
    return codes, scales


def pack_bytes(codes: Codes) -> Words:
    """Return 32-bit words of four codes (-128 to 127, stored plus 128) each along the last axis, the first lowest."""
    return (codes.astype(np.int16) + 128).astype(np.uint8).view("<u4").view(np.int32)


def pack(codes: Codes, order: tuple[int, ...] = _PLAIN_ORDER) -> Words:
    """Return 32-bit words of eight codes (0-15) each along the last axis: place i of a word holds code order[i]."""
    eights = codes.astype(np.uint32).reshape(*codes.shape[:-1], -1, 8)
    words = np.zeros(eights.shape[:-1], dtype=np.uint32)
    for place, index in enumerate(order):
        words |= eights[..., index] << np.uint32(4 * place)
    return words.view(np.int32)


def unpack(words: Words, order: tuple[int, ...] = _PLAIN_ORDER) -> Codes:
    """Return the codes (0-15) that `pack` put into the words."""
    codes = np.empty((*words.shape, 8), dtype=np.int8)
    for place, index in enumerate(order):
        codes[..., index] = (words.view(np.uint32) >> np.uint32(4 * place)) & np.uint32(15)
    return codes.reshape(*words.shape[:-1], -1)


def rounded_up(values: Floats, dtype: str) -> Floats:
    """Return positive values rounded up to what "BF16" or "F16" can hold, still as float32."""
    if dtype == "BF16":
        bits = (values.view(np.uint32) + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)
        return bits.view(np.float32)
    halves = values.astype(np.float16)
    too_low = halves.astype(np.float32) < values
    halves[too_low] = np.nextafter(halves[too_low], np.float16(np.inf))
    return halves.astype(np.float32)


def to_bits(values: Floats, dtype: str) -> Bits16:
    """Return the 16 bits of values that "BF16" or "F16" holds exactly."""
    if dtype == "BF16":
        return (np.ascontiguousarray(values).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return values.astype(np.float16).view(np.uint16)


def to_floats(raw: npt.NDArray[np.uint8], dtype: str) -> Floats:
    """Return float32 values of the bytes of a "BF16", "F16" or "F32" tensor."""
    if dtype == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "F16":
        return raw.view(np.float16).astype(np.float32)
    return raw.view(np.float32)


def from_floats(values: Floats, dtype: str) -> npt.NDArray[np.generic]:
    """Return float32 values as the numbers (or, of "BF16" and "F16", the 16 bits) of a tensor's type, nearest."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        up = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))  # halves go to the even one
        return ((bits + up) >> np.uint32(16)).astype(np.uint16)
    return values.astype(np.float16).view(np.uint16) if dtype == "F16" else values


def _require_finite(scales: Floats) -> None:
    if not np.isfinite(scales).all():
        raise ValueError("it holds a NaN, an infinity, or a magnitude beyond what its scale can hold")


def _transposed(array: npt.NDArray[_Item]) -> npt.NDArray[_Item]:
    return np.ascontiguousarray(array.T)
