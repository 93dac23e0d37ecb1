"""Which kind each layer of a model is: the ways in which configurations say it. Pure.

A kind that is not known here is named with the file's own word and never guessed.
"""

from collections.abc import Mapping

from checkpoints.tensors.entries import Config, first_of, repeated, window_of

FULL, SLIDING, CHUNKED, LATENT, STATE, NOTHING, UNKNOWN = (
    "full attention",
    "sliding window",
    "chunked attention",
    "latent attention",
    "state",
    "no cache",
    "unknown",
)
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


def words(text: Config, count: int) -> list[str]:  # noqa: PLR0911, PLR0912 (one way of saying it after the other)
    """The kind of each layer: one of this module's kinds, "linear", "mamba", …, or the file's own word."""
    for name in ("layer_types", "layers_block_type"):
        stated = text.get(name)
        if isinstance(stated, list) and stated:
            return [_WORDS.get(str(word), str(word)) for word in repeated(stated, count)]
    model_type = str(text.get("model_type", ""))
    if isinstance(pattern := text.get("hybrid_override_pattern"), str) and pattern:
        return [_LETTERS.get(letter, letter) for letter in pattern[:count]]
    if isinstance(stated := text.get("hybrid_layer_pattern"), list):
        return [SLIDING if sliding else FULL for sliding in stated[:count]]
    if isinstance(stated := text.get("attn_type_list"), list):
        return [FULL if full else "linear" for full in stated[:count]]
    if isinstance(stated := text.get("block_types") or text.get("_block_types"), list):
        # Griffin's attention is local.
        return [SLIDING if word == "attention" else str(word) for word in repeated(stated, count)]
    if isinstance(stated := text.get("linear_attn_config"), Mapping):
        full = set(stated.get("full_attn_layers") or ())  # counted from one
        return [FULL if index + 1 in full else "linear" for index in range(count)]
    if isinstance(stated := text.get("attn_layer_indices"), list):
        return [FULL if index in stated else "mamba" for index in range(count)]
    if isinstance(stated := text.get("full_attn_idxs"), list):
        return [FULL if index in stated else "conv" for index in range(count)]
    if period := first_of(text, "attn_layer_period"):
        offset = int(text.get("attn_layer_offset") or 0)
        return [FULL if index % period == offset else "mamba" for index in range(count)]
    if (period := first_of(text, "full_attention_interval")) and "linear_num_value_heads" in text:
        return [FULL if (index + 1) % period == 0 else "linear" for index in range(count)]
    if model_type in ("mamba", "mamba2", "falcon_mamba"):
        return ["mamba"] * count
    if model_type.startswith("rwkv"):
        return [model_type] * count
    return _attention_words(text, count, model_type)


def _attention_words(text: Config, count: int, model_type: str) -> list[str]:
    if first_of(text, "attention_chunk_size") and ("no_rope_layers" in text or model_type.startswith("llama4")):
        rotary = text.get("no_rope_layers") or []  # 1: with rotary positions, and those see only their chunk
        period = int(text.get("no_rope_layer_interval") or 4)
        if not rotary:
            rotary = [int((index + 1) % period != 0) for index in range(count)]
        return [CHUNKED if one else FULL for one in rotary[:count]]
    if not window_of(text):
        return [FULL] * count
    pattern = text.get("sliding_window_pattern") or text.get("_sliding_window_pattern") or _PERIODS.get(model_type)
    if isinstance(pattern, str):
        return [_LETTERS.get(letter, FULL) if letter == "L" else FULL for letter in repeated(pattern, count)]
    if pattern:
        return [FULL if (index + 1) % int(pattern) == 0 else SLIDING for index in range(count)]
    if text.get("use_sliding_window") is False:
        return [FULL] * count
    first = int(text.get("max_window_layers") or 0) if text.get("use_sliding_window") else 0
    return [SLIDING if index >= first else FULL for index in range(count)]
