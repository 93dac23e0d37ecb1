"""What each layer of a model keeps of the tokens before: its kind and its size, from the configuration alone. Pure.

Full attention keeps a key and a value per key-value head of every token; sliding and chunked attention the same of the
last tokens only; latent attention (MLA) one compressed vector of every token, whole on every GPU; linear attention,
gated delta and state-space layers a fixed state per sequence. Configurations say which layer is which in many ways; a
kind that is not known here is named and never guessed. Sizes are held against vLLM's own cache specifications by
tests/planning/test_any_model.py.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from checkpoints.errors import BadCheckpoint
from checkpoints.tensors import layer_kinds
from checkpoints.tensors.entries import (
    Config,
    first_of,
    head_width_of,
    kv_heads_of,
    layer_count,
    repeated,
    text_of,
    window_of,
)
from checkpoints.tensors.layer_kinds import CHUNKED, FULL, LATENT, NOTHING, SLIDING, STATE, UNKNOWN


@dataclass(frozen=True)
class Cache:
    """What a layer keeps in one cache.

    `heads`: key-value heads, which tensor parallelism divides (0: it divides nothing). `values`: numbers of the cache's
    type that a token takes per head, key and value together. `fixed_bytes`: what a token takes beside, whatever the
    cache's type. `window`: the last tokens that are kept; None for all. `state_bytes`: what a sequence takes, however
    long it is.
    """

    kind: str
    name: str
    heads: int = 0
    values: int = 0
    fixed_bytes: float = 0.0
    window: int | None = None
    state_bytes: float = 0.0

    def token_bytes(self, *, tensor_parallel: int = 1, bytes_per_value: float = 2) -> float:
        """Return the bytes of one token on one of the GPUs, which divide the heads until each holds one."""
        held = -(-self.heads // tensor_parallel) if self.heads else 1
        return held * self.values * bytes_per_value + self.fixed_bytes

    def sequence_bytes(self, tensor_parallel: int = 1) -> float:
        """Return the bytes of one sequence's state on one of the GPUs, which divide it."""
        return self.state_bytes / tensor_parallel


Layer = tuple[Cache, ...]


def layers(config: Config) -> tuple[Layer, ...] | None:
    """Return what each layer keeps, in order; None when the configuration does not say how many layers there are.

    A layer whose kind or size cannot be told has one cache of kind `UNKNOWN`, with its name. Raises BadCheckpoint when
    a number of the configuration is none.
    """
    text = text_of(config)
    count = layer_count(config)
    if not count:
        return None
    try:
        found = _layers(text, count)
        shared = int(text.get("num_kv_shared_layers") or 0)
    except (TypeError, ValueError, KeyError, ZeroDivisionError, AttributeError, IndexError) as error:
        raise BadCheckpoint(
            f"config.json of model_type {text.get('model_type')!r} cannot be read: {type(error).__name__} ({error}) "
            "while working out its layers. A number is missing, or is a text."
        ) from error
    # The last layers read the cache of one before them.
    return tuple((Cache(NOTHING, "shared"),) if i >= count - shared else layer for i, layer in enumerate(found))


def unknown_kinds(found: Iterable[Layer]) -> Counter[str]:
    """Return name → number of layers whose cache is not known."""
    return Counter(cache.name for layer in found for cache in layer if cache.kind == UNKNOWN)


def _layers(text: Config, count: int) -> list[Layer]:
    if isinstance(text.get("compress_ratios"), list):
        return _compressed(text, count)
    if isinstance(text.get("block_configs"), list):
        return [_block(text, block) for block in text["block_configs"][:count]]
    words = layer_kinds.words(text, count)
    return [_layer(text, word, index) for index, word in enumerate(words)]


def _layer(text: Config, word: str, index: int) -> Layer:
    if word == NOTHING:
        return (Cache(NOTHING, "no attention"),)
    if word in ("linear", "mamba", "conv", "recurrent"):
        return (_state(text, word),)
    if word not in (FULL, SLIDING, CHUNKED):
        return (Cache(UNKNOWN, word),)
    if text.get("kv_lora_rank"):
        return _latent(text)
    made = _attention(text, word, index)
    if str(text.get("model_type", "")) in ("falcon_h1", "hymba") and made.kind != UNKNOWN:
        return (made, _state(text, "mamba"))  # both in each layer, side by side
    return (made,)


def _attention(text: Config, kind: str, index: int) -> Cache:
    heads = first_of(text, "num_attention_heads", "n_head", "n_heads", "num_heads")
    if not heads:
        return Cache(UNKNOWN, f"{kind} without num_attention_heads")
    kv_heads = kv_heads_of(text, heads, index)
    width = head_width_of(text, heads)
    value_width = first_of(text, "v_head_dim") or width
    if kind == SLIDING:
        kv_heads = first_of(text, "swa_num_key_value_heads") or kv_heads
        width = first_of(text, "swa_head_dim") or width
        value_width = first_of(text, "swa_v_head_dim", "v_head_dim") or width
    elif "global_head_dim" in text:
        width = value_width = first_of(text, "global_head_dim") or width
        if text.get("attention_k_eq_v"):
            kv_heads = first_of(text, "num_global_key_value_heads") or kv_heads
    if not width or not value_width:
        return Cache(UNKNOWN, f"{kind} without head_dim")
    window = None
    if kind == CHUNKED:
        window = first_of(text, "attention_chunk_size")
    elif kind == SLIDING:
        window = window_of(text)
        if window is None:
            return Cache(UNKNOWN, "sliding window of unknown length")
    return Cache(kind, kind, kv_heads, width + value_width, window=window)


def _latent(text: Config) -> Layer:
    rope = first_of(text, "qk_rope_head_dim")
    if rope is None:
        return (Cache(UNKNOWN, "latent attention without qk_rope_head_dim"),)
    made = Cache(LATENT, LATENT, values=int(text["kv_lora_rank"]) + rope)
    return (made, _indexer(text, 1.0)) if first_of(text, "index_head_dim") else (made,)


def _indexer(text: Config, ratio: float) -> Cache:
    # The indexer's keys at 8 bit, with a 32-bit scale for each 128 of them.
    width = int(text["index_head_dim"])
    return Cache(LATENT, "indexer", fixed_bytes=(width + 4 * -(-width // 128)) / ratio)


def _compressed(text: Config, count: int) -> list[Layer]:
    """DeepSeek-V4: the last tokens in full, all others pooled by a ratio; as vLLM stores them, 8 bit and scales."""
    width, rope = int(text["head_dim"]), int(text["qk_rope_head_dim"])
    entry = (width - rope) + 2 * rope + 8
    recent = Cache(SLIDING, "sliding window", fixed_bytes=entry, window=window_of(text))
    made: list[Layer] = []
    for ratio in repeated(text["compress_ratios"], count):
        layer: Layer = (recent,)
        if ratio > 1:
            # Beside the pooled entries stand the 32-bit sums and scores of the tokens that are still to be pooled.
            overlap = 2 if ratio == 4 else 1
            pending = Cache(SLIDING, "compressor", fixed_bytes=width * 8 * overlap, window=ratio * overlap)
            layer += (Cache(LATENT, f"compressed by {ratio}", fixed_bytes=entry / ratio), pending)
        if ratio == 4 and "index_head_dim" in text:
            layer += (_indexer(text, ratio),)
        made.append(layer)
    return made


def _block(text: Config, block: Mapping[str, Any]) -> Layer:
    """One block of a model that was pruned block by block (Nemotron's NAS)."""
    attention = block.get("attention") or {}
    if attention.get("no_op") or attention.get("replace_with_linear"):
        return (Cache(NOTHING, "no attention"),)
    heads, group = int(text["num_attention_heads"]), attention.get("n_heads_in_group")
    kv_heads = heads // int(group) if group else int(attention.get("num_key_value_heads") or kv_heads_of(text, heads))
    made = Cache(FULL, FULL, kv_heads, 2 * (head_width_of(text, heads) or 0))
    window = attention.get("window_length")
    return (replace(made, kind=SLIDING, name=SLIDING, window=int(window)),) if window else (made,)


def _state(text: Config, word: str) -> Cache:
    size = {"linear": _delta_bytes, "mamba": _mamba_bytes, "conv": _conv_bytes}.get(word)
    found = size(text) if size else None
    if found is None:
        return Cache(UNKNOWN, f"{word} of unknown size")
    return Cache(STATE, word, state_bytes=found)


def _delta_bytes(text: Config) -> float | None:
    """Gated delta and Kimi's delta: the convolution's last inputs at 16 bit, and a key × value matrix per head."""
    if "linear_num_value_heads" in text:
        key_heads, value_heads = int(text["linear_num_key_heads"]), int(text["linear_num_value_heads"])
        key, value = int(text["linear_key_head_dim"]), int(text["linear_value_head_dim"])
        kernel = int(text.get("linear_conv_kernel_dim") or 4)
        convolution = (kernel - 1) * (2 * key_heads * key + value_heads * value) * 2
        return convolution + value_heads * key * value * _bytes_of(text.get("mamba_ssm_dtype"))
    if isinstance(stated := text.get("linear_attn_config"), Mapping):
        heads, width = int(stated["num_heads"]), int(stated["head_dim"])
        kernel = int(stated.get("short_conv_kernel_size") or 4)
        return (kernel - 1) * 3 * heads * width * 2 + heads * width * width * 4
    if "attn_type_list" in text or str(text.get("model_type", "")).startswith("minimax"):
        heads = int(text["num_attention_heads"])
        width = head_width_of(text, heads) or 0
        return heads * width * width * 4
    return None


def _mamba_bytes(text: Config) -> float | None:
    """The convolution's last inputs at 16 bit, and the state: heads × width × state (Mamba-2), inner × state (1)."""
    state = first_of(text, "ssm_state_size", "mamba_d_state", "state_size")
    kernel = first_of(text, "conv_kernel", "mamba_d_conv") or 4
    hidden = first_of(text, "hidden_size") or 0
    if not state:
        return None
    per_value = _bytes_of(text.get("mamba_ssm_cache_dtype"))
    heads = first_of(text, "mamba_num_heads", "mamba_n_heads", "num_heads")
    if heads:
        width = first_of(text, "mamba_head_dim", "mamba_d_head", "head_dim")
        if not width:
            expand = first_of(text, "expand", "mamba_expand") or 2
            width = hidden * expand // heads
        groups = first_of(text, "n_groups", "mamba_n_groups") or 1
        channels = heads * width
        return (kernel - 1) * (channels + 2 * groups * state) * 2 + channels * state * per_value
    times = first_of(text, "mamba_expand")
    inner = hidden * times if times else first_of(text, "intermediate_size")
    return None if not inner else (kernel - 1) * inner * 2 + inner * state * per_value


def _conv_bytes(text: Config) -> float | None:
    kernel, hidden = first_of(text, "conv_L_cache"), first_of(text, "conv_dim", "hidden_size")
    return (kernel - 1) * hidden * 2 if kernel and hidden else None


def _bytes_of(dtype: object) -> int:
    # "auto" keeps the state in the model's type.
    return 4 if dtype == "float32" else 2
