"""GGUF files as `nbridge vram` reads them: written by the `gguf` package; damaged and hostile ones are refused."""

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType as Value

from checkpoints.tensors import gguf_header, layers
from planning.catalogs import load
from planning.errors import BadInput, PlanningError
from planning.memory import kv, vram
from planning.memory.models import read
from planning.memory.shapes import Shape

# Bytes of a block of so many weights: Q8_0 32 + a half; Q4_K 128 + two halves + 12 of scales; Q6_K 192 + 16 + a half.
BLOCKS = {Kind.Q8_0: (32, 34), Kind.Q4_K: (256, 144), Kind.Q6_K: (256, 210), Kind.F16: (1, 2), Kind.F32: (1, 4)}
DENSE: dict[str, Any] = {
    "block_count": 2,
    "embedding_length": 256,
    "feed_forward_length": 512,
    "context_length": 4096,
    "attention.head_count": 8,
    "attention.head_count_kv": 2,
}


def stored_bytes(kind: Kind, shape: tuple[int, ...]) -> int:
    weights, size = BLOCKS[kind]
    return prod(shape) // weights * size


def block(layer: int, kind: Kind, experts: int = 0) -> dict[str, tuple[Kind, tuple[int, ...]]]:
    name = f"blk.{layer}."
    feed = {"ffn_gate": (512, 256), "ffn_up": (512, 256), "ffn_down": (256, 512)}
    if experts:
        feed = {f"{key}_exps": (experts, *shape) for key, shape in feed.items()}
    named = {"attn_q": (256, 256), "attn_k": (64, 256), "attn_v": (64, 256), "attn_output": (256, 256), **feed}
    norms = {f"{name}{one}.weight": (Kind.F32, (256,)) for one in ("attn_norm", "ffn_norm")}
    return norms | {f"{name}{key}.weight": (kind, shape) for key, shape in named.items()}


def model(kind: Kind, blocks: int = 2, experts: int = 0) -> dict[str, tuple[Kind, tuple[int, ...]]]:
    tensors = {
        "token_embd.weight": (Kind.Q6_K if kind == Kind.Q4_K else kind, (512, 256)),
        "output_norm.weight": (Kind.F32, (256,)),
    }
    for layer in range(blocks):
        tensors |= block(layer, kind, experts)
    return tensors


def write(
    path: Path, architecture: str, values: dict[str, Any], tensors: dict[str, tuple[Kind, tuple[int, ...]]]
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in values.items():
        if isinstance(value, list):
            writer.add_array(f"{architecture}.{key}", value)
        else:
            writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_array("tokenizer.ggml.tokens", [f"<{n}>" for n in range(512)])
    for name, (kind, shape) in tensors.items():
        raw = np.zeros(stored_bytes(kind, shape), np.uint8)
        plain = {Kind.F32: np.float32, Kind.F16: np.float16}.get(kind)
        if plain:
            writer.add_tensor(name, np.zeros(shape, plain))
        else:
            writer.add_tensor(name, raw.reshape(*shape[:-1], -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def made(path: Path, architecture: str, values: dict[str, Any], **options: Any) -> Shape:
    return read(str(write(path, architecture, values, model(**options))))


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_dense_model_in_each_type(architecture: str, kind: Kind, tmp_path: Path) -> None:
    shape = made(tmp_path / "m.gguf", architecture, DENSE, kind=kind)
    # A layer: 2 · 256² + 2 · 64 · 256 of attention, 3 · 512 · 256 of the rest, two norms; embeddings are tied.
    assert shape.parameters == 512 * 256 + 256 + 2 * (131_072 + 32_768 + 393_216 + 512) == 1_246_464
    assert shape.weights_bytes == sum(stored_bytes(*one) for one in model(kind).values())
    assert shape.kv_bytes_per_token == 2 * 2 * 2 * 32 * 2  # layers, key and value, heads, width, bytes
    assert (shape.source, shape.context_tokens, shape.text["vocab_size"]) == ("gguf", 4096, 512)
    # vLLM was not asked of GGUF files, and llama.cpp serves them.
    assert not shape.held
    assert not shape.cache_held()
    fits = vram.estimate(shape, load().gpu("l4"))
    assert fits.verdict == "fits"
    assert json.dumps(fits.as_dict())


def test_a_mixture_of_experts(tmp_path: Path) -> None:
    values = {**DENSE, "expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 512}
    shape = made(tmp_path / "m.gguf", "qwen3moe", values, kind=Kind.Q4_K, experts=8)
    experts = 2 * 8 * 393_216
    assert shape.parameters == 512 * 256 + 256 + 2 * (131_072 + 32_768 + 512) + experts
    assert shape.experts == (8, 2)
    # Q4_K takes 4.5 bits for a weight, Q6_K 6.5625.
    norms, embeddings = 5 * 256 * 4, 512 * 256 * 6.5625 / 8
    assert shape.weights_bytes == norms + embeddings + (2 * (131_072 + 32_768) + experts) * 4.5 / 8
    assert shape.kv_bytes_per_token == 512


@pytest.mark.parametrize(
    ("architecture", "values", "kinds"),
    [
        ("gemma3", {"attention.sliding_window": 1024}, {"sliding window": 10, "full attention": 2}),
        ("gpt-oss", {"attention.sliding_window": 128}, {"sliding window": 6, "full attention": 6}),
        ("llama4", {}, {"chunked attention": 9, "full attention": 3}),
        (
            "olmo2",
            {"attention.sliding_window": 4096, "attention.sliding_window_pattern": [True, True, True, False] * 3},
            {"sliding window": 9, "full attention": 3},
        ),
        ("olmo2", {"attention.sliding_window": 4096}, {"unknown": 12}),
        ("deci", {"attention.head_count_kv": [2, 0, 0] * 4}, {"no cache": 8, "full attention": 4}),
        (
            "qwen35moe",
            {
                "full_attention_interval": 4,
                "ssm.group_count": 16,
                "ssm.time_step_rank": 32,
                "ssm.state_size": 128,
                "ssm.inner_size": 4096,
                "ssm.conv_kernel": 4,
            },
            {"state": 9, "full attention": 3},
        ),
    ],
)
def test_the_kinds_of_layers(architecture: str, values: dict[str, Any], kinds: dict[str, int], tmp_path: Path) -> None:
    shape = made(tmp_path / "m.gguf", architecture, {**DENSE, "block_count": 12, **values}, kind=Kind.Q8_0)
    assert shape.caches is not None
    found = [layer[0].kind for layer in shape.caches]
    assert {kind: found.count(kind) for kind in set(found)} == kinds
    if kinds.get("full attention"):
        # Of one token, each layer of attention keeps 2 heads of 32 twice.
        attention = sum(count for kind, count in kinds.items() if kind not in ("no cache", "state"))
        assert kv.token_bytes(shape.caches) == attention * 256


def test_gemma_4_has_shorter_keys_where_a_window_is(tmp_path: Path) -> None:
    # As in llama.cpp's own ggml-vocab-gemma-4.gguf: of 30 layers every sixth sees all tokens, by 2 heads of 512.
    sliding = ([True] * 5 + [False]) * 5
    values = {
        **DENSE,
        **{"block_count": 30, "attention.head_count": 16, "attention.sliding_window": 1024},
        **{"attention.head_count_kv": [8 if one else 2 for one in sliding]},
        **{"attention.sliding_window_pattern": sliding, "attention.shared_kv_layers": 0},
        **{f"attention.{one}_length": 512 for one in ("key", "value")},
        **{f"attention.{one}_length_swa": 256 for one in ("key", "value")},
    }
    shape = made(tmp_path / "m.gguf", "gemma4", values, kind=Kind.F16)
    # 25 of 8 heads, 256 + 256 numbers of two bytes; 5 of 2 heads, 512 + 512: what the same model's config.json gives.
    assert shape.kv_bytes_per_token == 25 * 8 * 512 * 2 + 5 * 2 * 1024 * 2 == 225_280


def test_layers_that_read_anothers_cache_keep_none(tmp_path: Path) -> None:
    values = {**DENSE, "block_count": 4, "attention.shared_kv_layers": 3}
    shape = made(tmp_path / "m.gguf", "gemma3n", values, kind=Kind.F16)
    assert shape.kv_bytes_per_token == 1 * 2 * 2 * 32 * 2


def test_a_vocabulary_without_a_model_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "ggml-vocab.gguf", "llama", DENSE, {})
    with pytest.raises(BadInput, match="holds a vocabulary and no tensor"):
        read(str(path))


def test_a_vocabulary_is_counted_and_not_taken_apart(tmp_path: Path) -> None:
    # gguf's own reader makes two arrays for every token: ten seconds for GPT-2's 50,257, a minute for Gemma's.
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(2)
    writer.add_array("tokenizer.ggml.tokens", [f"<{n}>" for n in range(20_000)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 20_000)
    writer.add_array("llama.attention.head_count_kv", [4, 8])
    writer.add_string("general.name", "behind the lists")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    reader = gguf_header._reader(tmp_path / "m.gguf")
    assert reader.passed_over == {"tokenizer.ggml.tokens": 20_000, "tokenizer.ggml.scores": 20_000}
    assert reader.get_field("llama.attention.head_count_kv").contents() == [4, 8]
    assert reader.get_field("general.name").contents() == "behind the lists"


def test_qwen_35s_state_is_that_of_its_config(tmp_path: Path) -> None:
    config = json.loads((Path(__file__).parents[1] / "configs" / "qwen3.5-35b-a3b.json").read_text())
    theirs = layers.layers(config)
    assert theirs is not None
    values = {"ssm.group_count": 16, "ssm.time_step_rank": 32, "ssm.state_size": 128, "ssm.inner_size": 4096}
    values |= {"ssm.conv_kernel": 4, "full_attention_interval": 4}
    shape = made(tmp_path / "m.gguf", "qwen35moe", {**DENSE, **values}, kind=Kind.Q8_0)
    assert shape.caches is not None
    assert shape.caches[0][0].state_bytes == pytest.approx(theirs[0][0].state_bytes)


def test_latent_attention_and_shards(tmp_path: Path) -> None:
    values = {**DENSE, "attention.kv_lora_rank": 512, "rope.dimension_count": 64}
    tensors = list(model(Kind.Q8_0).items())
    for number, part in enumerate((tensors[:8], tensors[8:]), 1):
        write(tmp_path / f"m-0000{number}-of-00002.gguf", "deepseek2", values, dict(part))
    shape = read(str(tmp_path))
    assert shape.parameters == 1_246_464
    assert shape.kv_bytes_per_token == 2 * (512 + 64) * 2


def refused(path: Path) -> str:
    with pytest.raises(PlanningError) as caught:
        vram.estimate(read(str(path)), load().gpu("l4"))
    assert isinstance(caught.value, BadInput)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    return write(path, "llama", DENSE, model(Kind.Q8_0)).read_bytes()


@pytest.mark.parametrize("kept", [0, 3, 8, 23, 24, 40, 100, 300, 5_000, 9_000, 12_000, 100_000, -1])
def test_a_file_cut_short_is_refused(kept: int, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(whole[:kept])
    assert "is not a whole GGUF file" in refused(path)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def header(*fields: bytes, tensors: bytes = b"", tensor_count: int = 0, count: int | None = None) -> bytes:
    counts = struct.pack("<QQ", tensor_count, len(fields) if count is None else count)
    return b"GGUF" + struct.pack("<I", 3) + counts + b"".join(fields) + tensors


def many(kind: Value, length: int, body: bytes = b"") -> bytes:
    return text(b"a.list") + struct.pack("<IIQ", Value.ARRAY, kind, length) + body


ARCHITECTURE = text(b"general.architecture") + struct.pack("<I", Value.STRING) + text(b"llama")
HOSTILE = {
    "other magic": b"GGML" + bytes(100),
    "zeros": bytes(200),
    "old version": b"GGUF" + struct.pack("<IQQ", 1, 0, 0) + bytes(64),
    "a text of 2^60 bytes": header(struct.pack("<Q", 1 << 60) + b"x" * 64),
    "2^60 fields": header(ARCHITECTURE, count=1 << 60),
    "2^60 tensors": header(ARCHITECTURE, tensor_count=1 << 60),
    "a list of 2^60 bytes": header(many(Value.UINT8, 1 << 60, bytes(64))),
    "a list of 2^60 texts": header(many(Value.STRING, 1 << 60, bytes(64))),
    "lists in lists": header(many(Value.ARRAY, 1, struct.pack("<IQ", Value.ARRAY, 1) * 5_000)),
    "an unknown kind of field": header(text(b"a") + struct.pack("<I", 99) + bytes(64)),
    "the same field twice": header(ARCHITECTURE, ARCHITECTURE),
    "a name that is no text": header(text(b"\xff\xfe") + struct.pack("<II", Value.UINT32, 1)),
    "2^31 dimensions": header(
        ARCHITECTURE, tensors=text(b"t") + struct.pack("<I", 1 << 31) + bytes(4096), tensor_count=1
    ),
    "sides of 2^40": header(
        ARCHITECTURE,
        tensors=text(b"t") + struct.pack("<IQQIQ", 2, 1 << 40, 1 << 40, 0, 0) + bytes(4096),
        tensor_count=1,
    ),
    "sides that make 0": header(
        ARCHITECTURE,
        tensors=text(b"t") + struct.pack("<IQQIQ", 2, 1 << 32, 1 << 32, 0, 0) + bytes(4096),
        tensor_count=1,
    ),
    "an unknown type of tensor": header(
        ARCHITECTURE, tensors=text(b"t") + struct.pack("<IQIQ", 1, 8, 250, 0) + bytes(4096), tensor_count=1
    ),
}


@pytest.mark.parametrize("document", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_is_refused_in_a_sentence(document: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(document)
    assert "is not a whole GGUF file" in refused(path)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"block_count": 0}, "how many layers"),
        ({"block_count": 2_000_000_000}, "2,000,000,000 layers"),
    ],
)
def test_numbers_that_no_model_has(values: dict[str, Any], why: str, tmp_path: Path) -> None:
    assert why in refused(write(tmp_path / "m.gguf", "llama", {**DENSE, **values}, model(Kind.F32, 1)))
