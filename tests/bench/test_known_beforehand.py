"""What is known of an engine before its server is started."""

import pytest

from bench.target import lacks_kernel
from checkpoints.prepare import Checkpoint
from checkpoints.tensors import schemes


@pytest.mark.parametrize(
    ("quantization", "device", "flags", "said"),
    [
        ("int4", "cpu", ["avx2"], True),
        ("awq-g64", "cpu", ["avx2"], True),
        ("int4-rounded", "cpu", ["avx2"], False),  # stored at 16 bit
        ("int4", "cpu", ["avx2", "avx512f"], False),
        ("int4", "cpu", ["asimd"], False),  # another processor: only loading tells
        ("int4", "gpu", ["avx2"], False),
        ("int8", "cpu", ["avx2"], False),
        ("none", "cpu", ["avx2"], False),
    ],
)
def test_weights_of_four_bits_need_avx_512_on_an_x86_cpu(
    quantization: str, device: str, flags: list[str], said: bool
) -> None:
    scheme = schemes.wanted(quantization).name
    found = lacks_kernel(Checkpoint("/m", "m", "auto", None, scheme, None, None, None, None, None, None), device, flags)
    assert (found is not None) == said
    if found is not None:
        assert "AVX-512" in found and "Take int8" in found
