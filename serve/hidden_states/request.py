"""The request body of `POST /v1/hidden_states`: every field checked, every complaint naming the field."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve.hidden_states.protocol import (
    DEFAULT_LAYER,
    ENCODINGS,
    POOLINGS,
    ApiError,
    Encoding,
    Layer,
    Pooling,
    kind,
    resolve,
    shown,
)

Prompt = str | tuple[int, ...]
Chat = tuple[dict[str, Any], ...]

_SNAKE = {
    "maxTokens": "max_tokens",
    "returnHiddenStates": "return_hidden_states",
    "encodingFormat": "encoding_format",
    "addGenerationPrompt": "add_generation_prompt",
    "addSpecialTokens": "add_special_tokens",
}
_FIELDS = (
    "prompts",
    "messages",
    "layer",
    "layers",
    "pooling",
    "encoding_format",
    "model",
    "max_tokens",
    "temperature",
    "return_hidden_states",
    "add_special_tokens",
    "add_generation_prompt",
    "user",
)


@dataclass(frozen=True)
class Ask:
    """A valid request: either `prompts` or `chats` is not empty; `asked` is the layer as the client wrote it."""

    prompts: tuple[Prompt, ...]
    chats: tuple[Chat, ...]
    layers: tuple[Layer, ...]
    asked: int | str | list[int | str]
    one_layer: bool
    pooling: Pooling
    encoding: Encoding
    model: str | None
    add_special_tokens: bool
    add_generation_prompt: bool
    field: str  # "prompts" or "messages", for complaints


def parse(document: object, *, num_layers: int, max_prompts: int) -> Ask:
    """The request in a JSON document. Raises ApiError naming the field: 400, or 413 for too many prompts."""
    if not isinstance(document, dict):
        raise ApiError(400, f"The body must be a JSON object, not {kind(document)}.")
    fields = _snake_case(document)
    _check_unused(fields)
    layers, asked, one = _layers(fields, num_layers)
    prompts: tuple[Prompt, ...] = ()
    chats: tuple[Chat, ...] = ()
    if (fields.get("prompts") is None) == (fields.get("messages") is None):
        raise ApiError(400, "Give either prompts or messages.", "prompts")
    if fields.get("prompts") is not None:
        prompts = _prompts(fields["prompts"])
    else:
        chats = _chats(fields["messages"])
    count = len(prompts) + len(chats)
    name = "prompts" if prompts else "messages"
    if count > max_prompts:
        raise ApiError(413, f"{count} prompts in one request; this server takes {max_prompts} at most.", name)
    return Ask(
        prompts=prompts,
        chats=chats,
        layers=layers,
        asked=asked,
        one_layer=one,
        pooling=_choice(fields, "pooling", POOLINGS),
        encoding=_choice(fields, "encoding_format", ENCODINGS),
        model=_typed(fields, "model", str, "a string"),
        add_special_tokens=_flag(fields, "add_special_tokens"),
        add_generation_prompt=_flag(fields, "add_generation_prompt"),
        field=name,
    )


def _snake_case(document: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for written, value in document.items():
        name = _SNAKE.get(written, written)
        if name not in _FIELDS:
            near = difflib.get_close_matches(name[:64], _FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_FIELDS)}."
            raise ApiError(400, f"Unknown field {shown(written)}; {hint}", written[:64])
        if name in fields:
            raise ApiError(400, f"{name} is given twice.", name)
        fields[name] = value
    return fields


def _check_unused(fields: Mapping[str, Any]) -> None:
    """Fields of the deployment guide's request that change nothing here: nothing of what is generated is returned."""
    _typed(fields, "user", str, "a string")
    max_tokens = _typed(fields, "max_tokens", int, "a positive integer")
    if max_tokens is not None and max_tokens < 1:
        raise ApiError(400, "max_tokens must be a positive integer.", "max_tokens")
    temperature = _typed(fields, "temperature", (int, float), "a number from 0")
    if temperature is not None and not temperature >= 0:
        raise ApiError(400, "temperature must be a number from 0.", "temperature")
    if _typed(fields, "return_hidden_states", bool, "true") is False:
        raise ApiError(400, "return_hidden_states = false leaves nothing to return.", "return_hidden_states")


def _layers(fields: Mapping[str, Any], num_layers: int) -> tuple[tuple[Layer, ...], int | str | list[int | str], bool]:
    if fields.get("layer") is not None and fields.get("layers") is not None:
        raise ApiError(400, "Give either layer or layers.", "layers")
    name = "layers" if fields.get("layers") is not None else "layer"
    asked = DEFAULT_LAYER if fields.get(name) is None else fields[name]
    if asked == "all":
        return tuple(resolve(block, num_layers) for block in range(num_layers)), "all", False
    if not isinstance(asked, list):
        return (resolve(asked, num_layers, name),), asked, True
    if not asked:
        raise ApiError(400, f"{name} is empty.", name)
    if len(asked) > num_layers + 2:
        raise ApiError(400, f"{name} has {len(asked)} entries; the model has {num_layers + 2} places.", name)
    layers = tuple(resolve(one, num_layers, f"{name}[{position}]") for position, one in enumerate(asked))
    if len({layer.tap for layer in layers}) < len(layers):
        raise ApiError(400, f"{name} names a layer twice.", name)
    return layers, asked, False


def _prompts(value: object) -> tuple[Prompt, ...]:
    if isinstance(value, str):
        return (_text(value, "prompts"),)
    if not isinstance(value, list):
        raise ApiError(400, f"prompts must be a text, token ids, or a list of either, not {kind(value)}.", "prompts")
    if not value:
        raise ApiError(400, "prompts is empty.", "prompts")
    if all(_is_integer(one) for one in value):
        return (tuple(value),)
    if _is_integer(value[0]):
        raise ApiError(400, "prompts mixes token ids with other things.", "prompts")
    return tuple(_prompt(one, f"prompts[{position}]") for position, one in enumerate(value))


def _prompt(value: object, name: str) -> Prompt:
    if isinstance(value, str):
        return _text(value, name)
    if isinstance(value, list) and all(_is_integer(one) for one in value):
        return tuple(value)
    raise ApiError(400, f"{name} must be a text or a list of token ids, not {kind(value)}.", name)


def _chats(value: object) -> tuple[Chat, ...]:
    if not isinstance(value, list) or not value:
        raise ApiError(400, "messages must be a chat (a list of messages) or a list of chats.", "messages")
    if isinstance(value[0], dict):
        return (_chat(value, "messages"),)
    return tuple(_chat(one, f"messages[{position}]") for position, one in enumerate(value))


def _chat(value: object, name: str) -> Chat:
    if not isinstance(value, list) or not value:
        raise ApiError(400, f"{name} must be a list of messages, not {kind(value)}.", name)
    for position, message in enumerate(value):
        where = f"{name}[{position}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ApiError(400, f"{where} must be an object with role and content.", where)
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        for part in parts:
            # Pictures and sound would reach the model as placeholders, and the states would be of nothing.
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise ApiError(400, f"{where}.content must be text.", f"{where}.content")
            _text(part["text"], f"{where}.content")
        _text(message["role"], f"{where}.role")
    return tuple(value)


def _text(value: str, name: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ApiError(400, f"{name} is no valid Unicode text: it holds half of a surrogate pair.", name) from None
    return value


def _choice(fields: Mapping[str, Any], name: str, choices: tuple[Any, ...]) -> Any:
    value = fields.get(name)
    if value is None:
        return choices[0]
    if value not in choices:
        raise ApiError(400, f"{name} must be one of {', '.join(choices)}, not {shown(value)}.", name)
    return value


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    return _typed(fields, name, bool, "true or false") is not False


def _typed(fields: Mapping[str, Any], name: str, of: type | tuple[type, ...], expected: str) -> Any:
    value = fields.get(name)
    if value is not None and (not isinstance(value, of) or (isinstance(value, bool) and of is not bool)):
        raise ApiError(400, f"{name} must be {expected}, not {shown(value)}.", name)
    return value


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
