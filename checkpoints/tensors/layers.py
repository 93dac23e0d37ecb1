"""What each layer of a model keeps of the tokens before: its kind and its size, from the configuration alone. Pure.

Full attention keeps a key and a value per key-value head of every token; sliding and chunked attention the same of the
last tokens only; latent attention (MLA) one compressed vector of every token, whole on every GPU; linear attention,
gated delta and state-space layers a fixed state per sequence. Configurations say which layer is which in many ways; a
kind that is not known here is named and never guessed. Sizes are held against vLLM's own cache specifications by
tests/planning/test_any_model.py.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from checkpoints.errors import BadCheckpoint

Config = Mapping[str, Any]
FULL, SLIDING, CHUNKED, LATENT, STATE, NOTHING, UNKNOWN = (
    "full attention",
    "sliding window",
    "chunked attention",
    "latent attention",
    "state",
    "no cache",
    "unknown",
)
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "text_model_config", "llm")
_TEXT_OWNERS = ("thinker_config",)
_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# More than any model has: a count above it is a mistake, and lists of that length would take the machine's memory.
MOST_LAYERS = 10_000
# Words by which configurations call their layers, and what they mean.
_WORDS = {
    **dict.fromkeys(("full_attention", "attention", "global", "global_attention", "full", "nope_attention"), FULL),
    **dict.fromkeys(("sliding_attention", "local", "local_attention", "sliding", "swa"), SLIDING),
    "chunked_attention": CHUNKED,
    **dict.fromkeys(("linear_attention", "linear", "gated_delta_net", "gdn", "kda", "lightning"), "linear"),
    **dict.fromkeys(("mamba", "mamba2", "ssm"), "mamba"),
    **dict.fromkeys(("conv", "short_conv"), "conv"),
    "recurrent": "recurrent",
    **dict.fromkeys(("mlp", "moe", "ffn"), NOTHING),
}
_LETTERS = {"M": "mamba", "*": FULL, "-": NOTHING, "E": NOTHING, "G": "linear", "L": SLIDING}
# Every how many layers one sees all tokens, where the file leaves out what its model type fills in.
_PERIODS = {"gemma3_text": 6, "gemma3": 6, "cohere2": 4, "cohere2_vision": 4, "gemma2": 2, "gpt_oss": 2, "olmo3": 4}


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


def text_of(config: Config) -> Config:
    """Return the language model's part of a configuration: of a multimodal model its text part, else all of it."""
    for owner in _TEXT_OWNERS:
        if isinstance(config.get(owner), Mapping):
            return text_of(config[owner])
    if any(isinstance(config.get(name), int) for name in _COUNTS):
        return config
    for name in _TEXT_PARTS:
        part = config.get(name)
        if isinstance(part, Mapping) and any(count in part for count in (*_COUNTS, "hidden_size")):
            return part
    return config


def layer_count(config: Config) -> int | None:
    """Return the number of layers; None when the configuration does not say. Raises BadCheckpoint for no number."""
    try:
        count = _first(text_of(config), *_COUNTS)
    except TypeError as error:
        raise BadCheckpoint(f"config.json cannot be read: {error}.") from error
    if count and count > MOST_LAYERS:
        raise BadCheckpoint(f"config.json cannot be read: {count:,} layers are more than any model has.")
    return count


def heads_of(config: Config) -> tuple[int, int] | None:
    """Return (attention heads, key-value heads) of a configuration; None when it does not say."""
    text = text_of(config)
    heads = _first(text, "num_attention_heads", "n_head", "n_heads", "num_heads")
    if not heads:
        return None
    return heads, _kv_heads(text, heads)


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
    words = _words(text, count)
    return [_layer(text, word, index) for index, word in enumerate(words)]


def _words(text: Config, count: int) -> list[str]:  # noqa: PLR0911, PLR0912 (one way of saying it after the other)
    """The kind of each layer: one of this module's kinds, "linear", "mamba", …, or the file's own word."""
    for name in ("layer_types", "layers_block_type"):
        stated = text.get(name)
        if isinstance(stated, list) and stated:
            return [_WORDS.get(str(word), str(word)) for word in _repeated(stated, count)]
    model_type = str(text.get("model_type", ""))
    if isinstance(pattern := text.get("hybrid_override_pattern"), str) and pattern:
        return [_LETTERS.get(letter, letter) for letter in pattern[:count]]
    if isinstance(stated := text.get("hybrid_layer_pattern"), list):
        return [SLIDING if sliding else FULL for sliding in stated[:count]]
    if isinstance(stated := text.get("attn_type_list"), list):
        return [FULL if full else "linear" for full in stated[:count]]
    if isinstance(stated := text.get("block_types") or text.get("_block_types"), list):
        # Griffin's attention is local.
        return [SLIDING if word == "attention" else str(word) for word in _repeated(stated, count)]
    if isinstance(stated := text.get("linear_attn_config"), Mapping):
        full = set(stated.get("full_attn_layers") or ())  # counted from one
        return [FULL if index + 1 in full else "linear" for index in range(count)]
    if isinstance(stated := text.get("attn_layer_indices"), list):
        return [FULL if index in stated else "mamba" for index in range(count)]
    if isinstance(stated := text.get("full_attn_idxs"), list):
        return [FULL if index in stated else "conv" for index in range(count)]
    if period := _first(text, "attn_layer_period"):
        offset = int(text.get("attn_layer_offset") or 0)
        return [FULL if index % period == offset else "mamba" for index in range(count)]
    if (period := _first(text, "full_attention_interval")) and "linear_num_value_heads" in text:
        return [FULL if (index + 1) % period == 0 else "linear" for index in range(count)]
    if model_type in ("mamba", "mamba2", "falcon_mamba"):
        return ["mamba"] * count
    if model_type.startswith("rwkv"):
        return [model_type] * count
    return _attention_words(text, count, model_type)


def _attention_words(text: Config, count: int, model_type: str) -> list[str]:
    if _first(text, "attention_chunk_size") and ("no_rope_layers" in text or model_type.startswith("llama4")):
        rotary = text.get("no_rope_layers") or []  # 1: with rotary positions, and those see only their chunk
        period = int(text.get("no_rope_layer_interval") or 4)
        if not rotary:
            rotary = [int((index + 1) % period != 0) for index in range(count)]
        return [CHUNKED if one else FULL for one in rotary[:count]]
    if not _window(text):
        return [FULL] * count
    pattern = text.get("sliding_window_pattern") or text.get("_sliding_window_pattern") or _PERIODS.get(model_type)
    if isinstance(pattern, str):
        return [_LETTERS.get(letter, FULL) if letter == "L" else FULL for letter in _repeated(pattern, count)]
    if pattern:
        return [FULL if (index + 1) % int(pattern) == 0 else SLIDING for index in range(count)]
    if text.get("use_sliding_window") is False:
        return [FULL] * count
    first = int(text.get("max_window_layers") or 0) if text.get("use_sliding_window") else 0
    return [SLIDING if index >= first else FULL for index in range(count)]


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
    heads = _first(text, "num_attention_heads", "n_head", "n_heads", "num_heads")
    if not heads:
        return Cache(UNKNOWN, f"{kind} without num_attention_heads")
    kv_heads = _kv_heads(text, heads, index)
    width = _head_width(text, heads)
    value_width = _first(text, "v_head_dim") or width
    if kind == SLIDING:
        kv_heads = _first(text, "swa_num_key_value_heads") or kv_heads
        width = _first(text, "swa_head_dim") or width
        value_width = _first(text, "swa_v_head_dim", "v_head_dim") or width
    elif "global_head_dim" in text:
        width = value_width = _first(text, "global_head_dim") or width
        if text.get("attention_k_eq_v"):
            kv_heads = _first(text, "num_global_key_value_heads") or kv_heads
    if not width or not value_width:
        return Cache(UNKNOWN, f"{kind} without head_dim")
    window = None
    if kind == CHUNKED:
        window = _first(text, "attention_chunk_size")
    elif kind == SLIDING:
        window = _window(text)
        if window is None:
            return Cache(UNKNOWN, "sliding window of unknown length")
    return Cache(kind, kind, kv_heads, width + value_width, window=window)


def _latent(text: Config) -> Layer:
    rope = _first(text, "qk_rope_head_dim")
    if rope is None:
        return (Cache(UNKNOWN, "latent attention without qk_rope_head_dim"),)
    made = Cache(LATENT, LATENT, values=int(text["kv_lora_rank"]) + rope)
    return (made, _indexer(text, 1.0)) if _first(text, "index_head_dim") else (made,)


def _indexer(text: Config, ratio: float) -> Cache:
    # The indexer's keys at 8 bit, with a 32-bit scale for each 128 of them.
    width = int(text["index_head_dim"])
    return Cache(LATENT, "indexer", fixed_bytes=(width + 4 * -(-width // 128)) / ratio)


def _compressed(text: Config, count: int) -> list[Layer]:
    """DeepSeek-V4: the last tokens in full, all others pooled by a ratio; as vLLM stores them, 8 bit and scales."""
    width, rope = int(text["head_dim"]), int(text["qk_rope_head_dim"])
    entry = (width - rope) + 2 * rope + 8
    recent = Cache(SLIDING, "sliding window", fixed_bytes=entry, window=_window(text))
    made: list[Layer] = []
    for ratio in _repeated(text["compress_ratios"], count):
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
    kv_heads = heads // int(group) if group else int(attention.get("num_key_value_heads") or _kv_heads(text, heads))
    made = Cache(FULL, FULL, kv_heads, 2 * (_head_width(text, heads) or 0))
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
        width = _head_width(text, heads) or 0
        return heads * width * width * 4
    return None


def _mamba_bytes(text: Config) -> float | None:
    """The convolution's last inputs at 16 bit, and the state: heads × width × state (Mamba-2), inner × state (1)."""
    state = _first(text, "ssm_state_size", "mamba_d_state", "state_size")
    kernel = _first(text, "conv_kernel", "mamba_d_conv") or 4
    hidden = _first(text, "hidden_size") or 0
    if not state:
        return None
    per_value = _bytes_of(text.get("mamba_ssm_cache_dtype"))
    heads = _first(text, "mamba_num_heads", "mamba_n_heads", "num_heads")
    if heads:
        width = _first(text, "mamba_head_dim", "mamba_d_head", "head_dim")
        if not width:
            expand = _first(text, "expand", "mamba_expand") or 2
            width = hidden * expand // heads
        groups = _first(text, "n_groups", "mamba_n_groups") or 1
        channels = heads * width
        return (kernel - 1) * (channels + 2 * groups * state) * 2 + channels * state * per_value
    times = _first(text, "mamba_expand")
    inner = hidden * times if times else _first(text, "intermediate_size")
    return None if not inner else (kernel - 1) * inner * 2 + inner * state * per_value


def _conv_bytes(text: Config) -> float | None:
    kernel, hidden = _first(text, "conv_L_cache"), _first(text, "conv_dim", "hidden_size")
    return (kernel - 1) * hidden * 2 if kernel and hidden else None


def _bytes_of(dtype: object) -> int:
    # "auto" keeps the state in the model's type.
    return 4 if dtype == "float32" else 2


def _window(text: Config) -> int | None:
    return _first(text, "sliding_window", "sliding_window_size", "attention_window_size", "local_attention_window")


def _kv_heads(text: Config, heads: int, index: int = 0) -> int:  # noqa: PLR0911 (one spelling after the other)
    stated = text.get("num_key_value_heads")
    if isinstance(stated, Sequence) and not isinstance(stated, str):
        return int(stated[index])
    if text.get("model_type") in ("falcon", "RefinedWeb", "RefinedWebModel") and not stated:
        if text.get("new_decoder_architecture"):
            return int(text.get("num_kv_heads") or heads)
        return 1 if text.get("multi_query", True) else int(text.get("num_kv_heads") or heads)
    if text.get("multi_query_attention"):
        return int(text.get("multi_query_group_num") or 1)
    if text.get("model_type") == "gpt_bigcode" and text.get("multi_query", True):
        return 1
    nested = text.get("attn_config")
    if isinstance(nested, Mapping) and nested.get("kv_n_heads"):
        return int(nested["kv_n_heads"])
    return int(stated or text.get("num_kv_heads") or text.get("n_head_kv") or text.get("num_attention_groups") or heads)


def _head_width(text: Config, heads: int) -> int | None:
    if stated := _first(text, "head_dim", "kv_channels", "attention_head_dim"):
        return stated
    hidden = _first(text, "hidden_size", "n_embd", "d_model", "dim")
    return hidden // heads if hidden else None


def _first(text: Config, *names: str) -> int | None:
    """The first of these entries that is a whole number above 0; a text or a list where one belongs is an error."""
    for name in names:
        value = text.get(name)
        if value is None or isinstance(value, bool | list):
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int):
            raise TypeError(f"{name} = {value!r} is not a whole number")
        if value > 0:
            return value
    return None


def _repeated(stated: Sequence[Any], count: int) -> list[Any]:
    return [stated[index % len(stated)] for index in range(count)]
