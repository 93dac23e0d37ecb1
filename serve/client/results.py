"""What the client makes of a server's answers: typed, with numpy arrays, and checked. Pure.

numpy is imported by the functions that make arrays, so that asking for a server's health does not load it.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serve.client.messages import LayerName
from serve.errors import BadAnswer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Health:
    """A server's `/health`: `status` is healthy, degraded or unhealthy; what the server does not say is None."""

    status: str
    model: str | None
    num_layers: int | None
    hidden_size: int | None
    document: dict[str, Any]

    @property
    def is_healthy(self) -> bool:
        return self.status == "healthy"


@dataclass(frozen=True)
class HiddenStates:
    """The states of prompts: `states[i]` is prompt i's array, [hidden], or [layer, hidden] for several layers.

    Pooling "all" adds an axis for tokens before the last. 32-bit floats, all finite. `layers` are the numbers or
    names that the server resolved.
    """

    states: "tuple[Floats, ...]"
    layers: tuple[LayerName, ...]
    one_layer: bool
    pooling: str
    model: str
    hidden_size: int
    dtype: str | None
    prompt_tokens: tuple[int, ...]

    def stacked(self) -> "Floats":
        """One array [prompt, hidden] or [prompt, layer, hidden]. Raises ValueError for prompts of unequal shape."""
        import numpy as np

        return np.stack(self.states)


@dataclass(frozen=True)
class Completions:
    """Generated texts, one per prompt; token counts over all prompts, as the server says. `hidden_states`: [prompt,
    hidden], when asked for."""

    texts: tuple[str, ...]
    finish_reasons: tuple[str | None, ...]
    model: str
    prompt_tokens: int
    output_tokens: int
    hidden_states: "Floats | None"


def json_or_none(body: bytes) -> Any:
    """The document in a body, None when it is no JSON."""
    try:
        return json.loads(body)
    except ValueError:
        return None


def read_json(body: bytes, what: str) -> Any:
    """The document in a body. Raises BadAnswer; NaN and Infinity are no JSON."""

    def refuse(name: str) -> None:
        raise BadAnswer(
            f"{what} was answered with {name}: values that are not finite.",
            next_step="The model's weights are broken, or a 16-bit dtype overflows: look at the server's log.",
        )

    try:
        return json.loads(body, parse_constant=refuse)
    except ValueError as error:
        raise BadAnswer(f"{what} was not answered with JSON: {error}.") from error


def read_first_model(document: Any) -> str:
    """The first model of /v1/models. Raises BadAnswer."""
    try:
        return str(document["data"][0]["id"])
    except (KeyError, IndexError, TypeError) as error:
        raise BadAnswer("The server's /v1/models lists no model.", next_step="Set VLLM_MODEL_NAME.") from error


def read_health(status: int, document: Any) -> Health:
    """A server's health. vLLM without our plugin has no body: then the HTTP status alone counts."""
    found = document if isinstance(document, dict) else {}
    said = found.get("status") if isinstance(found.get("status"), str) else "healthy"
    return Health(
        status=str(said) if status == 200 or said != "healthy" else "unhealthy",
        model=found.get("model"),
        num_layers=found.get("num_layers"),
        hidden_size=found.get("hidden_size"),
        document=found,
    )


def read_hidden_states(document: Any, *, asked: dict[str, Any], count: int) -> HiddenStates:
    """The typed answer to `asked` for `count` prompts. Raises BadAnswer naming what does not fit."""
    where = "The server's answer to /v1/hidden_states"
    try:
        raw, model = document["hidden_states"], str(document["model"])
        hidden_size = int(document["metadata"]["hidden_size"])
        tokens = tuple(int(one) for one in document["prompt_tokens"])
        shapes = document.get("shapes") or [None] * len(raw)
        if len(raw) != count or len(tokens) != count or len(shapes) != count:
            raise BadAnswer(f"{where} has {len(raw)} states for {count} prompts.")
        one_layer = "layer" in asked
        layers = _layers(document, asked, one_layer)
        states = tuple(_array(one, shape) for one, shape in zip(raw, shapes, strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswer(
            f"{where} cannot be read ({type(error).__name__}: {error}).",
            next_step="Is it a server with the hidden-states plugin? Its /health says what it gives.",
        ) from error
    for position, (array, length) in enumerate(zip(states, tokens, strict=True)):
        expected = (() if one_layer else (len(layers),)) + ((length,) if asked["pooling"] == "all" else ())
        _check(array, (*expected, hidden_size), f"{where}: prompts[{position}]")
    return HiddenStates(
        states=states,
        layers=layers,
        one_layer=one_layer,
        pooling=str(asked["pooling"]),
        model=model,
        hidden_size=hidden_size,
        dtype=document["metadata"].get("dtype"),
        prompt_tokens=tokens,
    )


def joined(parts: Sequence[HiddenStates]) -> HiddenStates:
    """The answers to consecutive chunks as one. Raises BadAnswer when they are not of one model and the same layers."""
    first = parts[0]
    for part in parts:
        for name in ("model", "layers", "hidden_size", "dtype"):
            if getattr(part, name) != getattr(first, name):
                raise BadAnswer(
                    f"The server changed while it was asked: {name} was {getattr(first, name)!r} and is now "
                    f"{getattr(part, name)!r}.",
                    next_step="Ask one server at a time, not a balancer in front of different ones.",
                )
    return HiddenStates(
        states=tuple(array for part in parts for array in part.states),
        layers=first.layers,
        one_layer=first.one_layer,
        pooling=first.pooling,
        model=first.model,
        hidden_size=first.hidden_size,
        dtype=first.dtype,
        prompt_tokens=tuple(count for part in parts for count in part.prompt_tokens),
    )


def read_completions(document: Any, *, count: int, with_states: bool) -> Completions:
    """The typed answer of /v1/completions. Raises BadAnswer."""
    try:
        choices = sorted(document["choices"], key=lambda choice: int(choice["index"]))
        usage = document["usage"]
        states = _completion_states(document, count) if with_states else None
        found = Completions(
            texts=tuple(str(choice["text"]) for choice in choices),
            finish_reasons=tuple(choice.get("finish_reason") for choice in choices),
            model=str(document["model"]),
            prompt_tokens=int(usage["prompt_tokens"]),
            output_tokens=int(usage["completion_tokens"]),
            hidden_states=states,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswer(
            f"The server's answer to /v1/completions cannot be read ({type(error).__name__}: {error})."
        ) from error
    if len(found.texts) != count:
        raise BadAnswer(f"The server's answer to /v1/completions has {len(found.texts)} texts for {count} prompts.")
    return found


def read_embeddings(document: Any, *, count: int) -> "Floats":
    """[prompt, width] from an OpenAI-compatible /v1/embeddings. Raises BadAnswer."""
    import numpy as np

    where = "The answer to /v1/embeddings"
    try:
        rows = sorted(document["data"], key=lambda row: int(row["index"]))
        array = np.array([row["embedding"] for row in rows], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswer(f"{where} cannot be read ({type(error).__name__}: {error}).") from error
    _check(array, (count, array.shape[-1] if array.ndim == 2 else -1), where)
    return array


def _layers(document: dict[str, Any], asked: dict[str, Any], one_layer: bool) -> tuple[LayerName, ...]:
    """The layers of an answer. A server that follows only the deployment guide says just `layer`."""
    several = "layers" in document
    layers = tuple(one["layer"] for one in document["layers"]) if several else (document["layer"],)
    expected = 1 if one_layer else None if asked["layers"] == "all" else len(asked["layers"])
    if not layers or (expected is not None and len(layers) != expected):
        raise ValueError(f"{len(layers)} layers instead of {expected}")
    return layers


def _array(value: Any, shape: Any) -> "Floats":
    """One prompt's states from nested lists, or from base64 of 32-bit little-endian floats."""
    import numpy as np

    if isinstance(value, str):
        array = np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4").astype(np.float32)
        return array if shape is None else array.reshape([int(length) for length in shape])
    return np.asarray(value, dtype=np.float32)


def _completion_states(document: dict[str, Any], count: int) -> "Floats":
    import numpy as np

    array = np.asarray(document["hidden_states"], dtype=np.float32)
    array = array[None] if array.ndim == 1 else array
    _check(array, (count, array.shape[-1]), "The server's answer to /v1/completions: hidden_states")
    return array


def _check(array: "Floats", shape: tuple[int, ...], where: str) -> None:
    """Raise BadAnswer for a wrong shape, a value that is not finite, or a state of zeros alone."""
    import numpy as np

    if array.shape != shape:
        raise BadAnswer(f"{where} has shape {list(array.shape)} instead of {list(shape)}.")
    if not np.isfinite(array).all():
        raise BadAnswer(
            f"{where} holds values that are not finite (NaN or infinite).",
            next_step="The model's weights are broken, or a 16-bit dtype overflows: look at the server's log.",
        )
    # A residual stream is never exactly zero; servers that answer a failure with zeros exist.
    if not array.any(axis=-1).all():
        raise BadAnswer(f"{where} holds a state of nothing but zeros: the server failed without saying so.")
