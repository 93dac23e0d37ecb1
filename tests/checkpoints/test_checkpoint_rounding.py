import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from checkpoints.quantization import rounding
from checkpoints.tensors.schemes import WEIGHTS_ONLY, WRITTEN


def bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def bytes_of(words: np.ndarray) -> np.ndarray:
    """The four bytes of each 32-bit word, the lowest first."""
    shifts = np.arange(0, 32, 8, dtype=np.uint32)
    return (words.view(np.uint32)[..., None] >> shifts & 255).reshape(len(words), -1).astype(np.float32)


def restored(arrays: dict[str, np.ndarray], scheme: str, group_size: int, scale_dtype: str) -> tuple:
    """Return (weights, step of each weight), undoing each format in its own published layout."""
    halves = bf16 if scale_dtype == "BF16" else (lambda bits: bits.view(np.float16).astype(np.float32))
    if scheme == "w8a8-int8":
        scales = np.broadcast_to(halves(arrays["weight_scale"]), arrays["weight"].shape)
        return arrays["weight"] * scales, scales
    if scheme == "w8a8-fp8":
        floats = torch.from_numpy(arrays["weight"]).view(torch.float8_e4m3fn).float().numpy()
        scales = halves(arrays["weight_scale"])
        # A step is an eighth of the power of two below, and at least that of the numbers below 2^-6.
        steps = np.exp2(np.floor(np.log2(np.maximum(np.abs(floats), 2.0**-6))) - 3)
        return floats * scales, steps * scales
    if scheme == "w4a8":
        scales = np.repeat(halves(arrays["weight_scale"]), group_size, axis=1)
        return arrays["weight"] * scales, scales
    if scheme in ("w4a16", "w8a16"):
        packed = arrays["weight_packed"]
        codes = rounding.unpack(packed).astype(np.float32) - 8 if scheme == "w4a16" else bytes_of(packed) - 128
        scales = np.repeat(halves(arrays["weight_scale"]), group_size, axis=1)
        return codes * scales, scales
    scales = arrays["scales"].view(np.float16).astype(np.float32).repeat(group_size, axis=0)
    if scheme == "gptq":
        codes = rounding.unpack(np.ascontiguousarray(arrays["qweight"].T)).T.astype(np.float32)
        zeros = rounding.unpack(arrays["qzeros"])[arrays["g_idx"]].astype(np.float32) + 1
    else:
        codes = rounding.unpack(arrays["qweight"], rounding.AWQ_ORDER).astype(np.float32)
        zeros = rounding.unpack(arrays["qzeros"], rounding.AWQ_ORDER).astype(np.float32).repeat(group_size, axis=0)
    return ((codes - zeros) * scales).T, scales.T


def test_plain_packing_puts_the_first_code_lowest():
    words = rounding.pack(np.array([[1, 2, 3, 4, 5, 6, 7, 8]], dtype=np.int8))
    assert words.view(np.uint32).tolist() == [[0x87654321]]


def test_awq_packing_takes_even_codes_first():
    words = rounding.pack(np.array([[0, 1, 2, 3, 4, 5, 6, 7]], dtype=np.int8), rounding.AWQ_ORDER)
    # place 7 … place 0 hold codes 7 5 3 1 6 4 2 0
    assert words.view(np.uint32).tolist() == [[0x75316420]]


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5, 6, 7), rounding.AWQ_ORDER])
def test_unpacking_undoes_packing(order):
    codes = np.random.default_rng(0).integers(0, 16, (3, 24)).astype(np.int8)
    assert (rounding.unpack(rounding.pack(codes, order), order) == codes).all()


def test_eight_bits_by_hand():
    arrays = rounding.quantize(np.array([[127.0, -63.5, 0.6, 0.0]], dtype=np.float32), "w8a8-int8", 0, "BF16")
    assert arrays["weight"].tolist() == [[127, -64, 1, 0]]  # one step is 1.0; a half rounds to even
    assert bf16(arrays["weight_scale"]).tolist() == [[1.0]]


def test_four_bits_by_hand():
    weight = np.array([[7.5, -7.5, 1.0, 0.4, 0, 0, 0, -3]], dtype=np.float32)
    arrays = rounding.quantize(weight, "w4a16", 8, "BF16")
    # One step is 1.0. 7.5 would be code 8, and the largest is 7; every code is stored plus 8.
    assert rounding.unpack(arrays["weight_packed"]).tolist() == [[15, 0, 9, 8, 8, 8, 8, 5]]
    assert arrays["weight_shape"].tolist() == [1, 8]


def test_eight_bits_in_groups_by_hand():
    weight = np.array([[127, -127, 1.4, 0, 254, 2, -254, 0]], dtype=np.float32)
    arrays = rounding.quantize(weight, "w8a16", 4, "BF16")
    # Groups of four: steps of 1 and 2. A code is stored plus 128, the first in the lowest byte.
    assert bf16(arrays["weight_scale"]).tolist() == [[1.0, 2.0]]
    assert arrays["weight_packed"].view(np.uint32).tolist() == [[0x808101FF, 0x800181FF]]


def test_four_bits_in_bytes_by_hand():
    arrays = rounding.quantize(np.array([[7.5, -7.5, 1.0, 0.4]], dtype=np.float32), "w4a8", 4, "BF16")
    assert arrays["weight"].tolist() == [[7, -8, 1, 0]]


def test_small_floats_by_hand():
    # The largest becomes 448 = 1.75 · 2^8 (code 0 1111 110), so one is one. 17 lies between 16 and 18 and goes to the
    # even code; −2^-9 is the smallest there is, half of it becomes nothing, with its sign.
    weight = np.array([[448, 1, 17, 19, -(2.0**-9), -(2.0**-10)]], dtype=np.float32)
    arrays = rounding.quantize(weight, "w8a8-fp8", 0, "BF16")
    assert bf16(arrays["weight_scale"]).tolist() == [[1.0]]
    assert arrays["weight"].tolist() == [[0x7E, 0x38, 0x58, 0x5A, 0x81, 0x80]]


def test_small_floats_round_as_torch_does():
    spread = np.random.default_rng(0).normal(0, 30, (4, 4096)).astype(np.float32)
    spread[0, :127] = np.arange(1, 128) / 1024  # halves among them
    spread[:, 0] = 448
    codes, scales = rounding.small_floats(spread, "BF16")
    assert (scales == 1).all()
    assert (codes == torch.from_numpy(spread).to(torch.float8_e4m3fn).view(torch.uint8).numpy()).all()


@pytest.mark.parametrize("scheme", WEIGHTS_ONLY)
def test_a_rounded_weight_is_what_the_format_gives_back(scheme):
    weight = np.random.default_rng(1).normal(0, 1, (16, 64)).astype(np.float32)
    values, _ = restored(rounding.quantize(weight, scheme, 32, "BF16"), scheme, 32, "BF16")
    assert (rounding.rounded(weight, scheme, 32, "BF16") == values).all()


def test_numbers_become_those_of_a_type():
    values = np.array([1.0, -2.5, 1 + 2**-8, 1 + 3 * 2**-8, 1e-40], dtype=np.float32)
    as_torch = torch.from_numpy(values)
    assert (rounding.from_floats(values, "BF16") == as_torch.bfloat16().view(torch.uint16).numpy()).all()
    assert (rounding.from_floats(values, "F16") == as_torch.half().view(torch.uint16).numpy()).all()
    assert (rounding.from_floats(values, "F32") == values).all()


def test_gptq_by_hand():
    weight = np.zeros((8, 8), dtype=np.float32)
    weight[0] = [7.5, -7.5, 1, 2, 3, 4, 5, 6]
    arrays = rounding.quantize(weight, "gptq", 8, "BF16")
    # Packed along the input: word (0, output 0) holds the inputs of output 0, the first lowest.
    assert arrays["qweight"].shape == (1, 8)
    assert arrays["qweight"].view(np.uint32)[0, 0] == 0xEDCBA90F
    assert arrays["qweight"].view(np.uint32)[0, 1] == 0x88888888
    assert arrays["qzeros"].tolist() == [[0x77777777]]
    assert arrays["g_idx"].tolist() == [0] * 8


def test_awq_by_hand():
    weight = np.zeros((8, 8), dtype=np.float32)
    weight[1] = [-5, 10, 0, 1, 2, 3, 4, 5]
    arrays = rounding.quantize(weight, "awq", 8, "BF16")
    # Output 1 spans -5 … 10 in 15 steps of 1, zero point 5. Packed along the output: input 0 holds eight
    # outputs, output 1 in place 4 (the order is 0 2 4 6 1 …).
    assert arrays["scales"].view(np.float16)[0, 1] == 1.0
    assert arrays["qzeros"].view(np.uint32).tolist() == [[5 << 16]]
    assert (arrays["qweight"].view(np.uint32)[:, 0] >> 16).tolist() == [0, 15, 5, 6, 7, 8, 9, 10]


@settings(max_examples=60, deadline=None)
@given(
    weight=hnp.arrays(np.float32, (16, 64), elements=st.floats(-8, 8, width=32)),
    scheme=st.sampled_from(WRITTEN),
    scale_dtype=st.sampled_from(["BF16", "F16"]),
)
def test_every_weight_comes_back_within_half_a_step(weight, scheme, scale_dtype):
    arrays = rounding.quantize(weight, scheme, 32, scale_dtype)
    values, steps = restored(arrays, scheme, 32, scale_dtype)
    # A hair more than half: the quotient itself is rounded to float32.
    assert (np.abs(values - weight) <= 0.5001 * steps).all()


@pytest.mark.parametrize("scheme", WRITTEN)
def test_zeros_stay_zeros(scheme):
    arrays = rounding.quantize(np.zeros((8, 32), dtype=np.float32), scheme, 32, "BF16")
    values, _ = restored(arrays, scheme, 32, "BF16")
    assert not values.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scheme", WRITTEN)
def test_numbers_that_are_none_are_refused(scheme, bad):
    weight = np.ones((8, 32), dtype=np.float32)
    weight[3, 7] = bad
    with pytest.raises(ValueError, match="NaN"), np.errstate(invalid="ignore"):
        rounding.quantize(weight, scheme, 32, "BF16")


def test_scales_round_up_to_what_is_stored():
    exact = np.array([1.0, 1.00001, 3.14159, 6e-5], dtype=np.float32)
    for dtype, spacing in (("BF16", 2**-7), ("F16", 2**-10)):
        stored = rounding.rounded_up(exact, dtype)
        assert (stored >= exact).all()
        assert (stored <= exact * (1 + spacing)).all()
        assert stored[0] == 1.0
    assert bf16(rounding.to_bits(rounding.rounded_up(exact, "BF16"), "BF16")).tolist() == (
        rounding.rounded_up(exact, "BF16").tolist()
    )


def test_stored_types_are_read_as_their_values():
    values = np.array([1.5, -0.25], dtype=np.float32)
    as_bf16 = (values.view(np.uint32) >> 16).astype(np.uint16)
    assert rounding.to_floats(as_bf16.view(np.uint8), "BF16").tolist() == [1.5, -0.25]
    assert rounding.to_floats(values.astype(np.float16).view(np.uint8), "F16").tolist() == [1.5, -0.25]
    assert rounding.to_floats(values.view(np.uint8), "F32").tolist() == [1.5, -0.25]
