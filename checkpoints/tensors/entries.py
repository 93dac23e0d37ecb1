"""Entries of a model's configuration, whichever of their names it uses and wherever in it they stand. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from checkpoints.errors import BadCheckpoint

Config = Mapping[str, Any]
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "text_model_config", "llm")
_TEXT_OWNERS = ("thinker_config",)
_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# More than any model has: a count above it is a mistake, and lists of that length would take the machine's memory.
MOST_LAYERS = 10_000


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
        count = first_of(text_of(config), *_COUNTS)
    except TypeError as error:
        raise BadCheckpoint(f"config.json cannot be read: {error}.") from error
    if count and count > MOST_LAYERS:
        raise BadCheckpoint(f"config.json cannot be read: {count:,} layers are more than any model has.")
    return count


def heads_of(config: Config) -> tuple[int, int] | None:
    """Return (attention heads, key-value heads) of a configuration; None when it does not say."""
    text = text_of(config)
    heads = first_of(text, "num_attention_heads", "n_head", "n_heads", "num_heads")
    if not heads:
        return None
    return heads, kv_heads_of(text, heads)


def first_of(text: Config, *names: str) -> int | None:
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


def kv_heads_of(text: Config, heads: int, index: int = 0) -> int:  # noqa: PLR0911 (one spelling after the other)
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


def head_width_of(text: Config, heads: int) -> int | None:
    if stated := first_of(text, "head_dim", "kv_channels", "attention_head_dim"):
        return stated
    hidden = first_of(text, "hidden_size", "n_embd", "d_model", "dim")
    return hidden // heads if hidden else None


def window_of(text: Config) -> int | None:
    return first_of(text, "sliding_window", "sliding_window_size", "attention_window_size", "local_attention_window")


def repeated(stated: Sequence[Any], count: int) -> list[Any]:
    return [stated[index % len(stated)] for index in range(count)]
