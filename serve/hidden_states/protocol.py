"""Layer numbers, limits and errors of `POST /v1/hidden_states`. Pure; needs neither vLLM nor torch.

Layer numbers are 0-based decoder blocks, Python style, in [-N, N-1]; the value is the residual stream after that
block, before the final norm. "embeddings" is the stream before the first block (Hugging Face's `hidden_states[0]`),
"final_norm" what the output head reads (Hugging Face's `hidden_states[-1]`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Pooling = Literal["last", "mean", "all"]
Encoding = Literal["float", "base64"]

# The key of SamplingParams.extra_args and of vLLM's --additional-config under which the parts of the plugin talk.
KEY = "nbridge_hidden_states"
POOLINGS: tuple[Pooling, ...] = ("last", "mean", "all")
ENCODINGS: tuple[Encoding, ...] = ("float", "base64")
DEFAULT_LAYER = -2
# A tap is a place in the model: 0 the embeddings, i + 1 the stream after block i, FINAL_NORM the model's output.
FINAL_NORM = -1

_TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    429: "RateLimitError",
    500: "InternalServerError",
    501: "NotImplementedError",
    503: "ServiceUnavailableError",
    504: "TimeoutError",
}


class ApiError(Exception):
    """An answer that is an error: HTTP status, message, and the request's field that is to blame (None: no field)."""

    def __init__(
        self, status: int, message: str, param: str | None = None, *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def document(self, request_id: str | None = None) -> dict[str, Any]:
        """OpenAI's error shape; `code` is the HTTP status, as in vLLM's own errors."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": _TYPES.get(self.status, "InternalServerError"),
            "param": self.param,
            "code": self.status,
        }
        return {"error": error if request_id is None else error | {"request_id": request_id}}


@dataclass(frozen=True)
class Layer:
    """A place in the model: its name in answers, its tap, its index in Hugging Face's `hidden_states` (None: none)."""

    layer: int | str
    tap: int
    hf_index: int | None

    @property
    def proof(self) -> str:
        """What the worker saw at start: that this goes into the next block, or is or becomes the model's output."""
        return "final_norm" if self.tap == FINAL_NORM or self.hf_index is None else "next_block"

    def document(self) -> dict[str, Any]:
        return {"layer": self.layer, "hf_index": self.hf_index}


def resolve(layer: object, num_layers: int, param: str = "layer") -> Layer:
    """The place that one layer number or name means in a model of `num_layers` blocks. Raises ApiError 400."""
    if layer == "embeddings":
        return Layer("embeddings", 0, 0)
    if layer == "final_norm":
        return Layer("final_norm", FINAL_NORM, num_layers)
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise ApiError(400, f'{param} must be a block number, "embeddings" or "final_norm", not {shown(layer)}.', param)
    if not -num_layers <= layer < num_layers:
        raise ApiError(
            400,
            f"{param} {shown(layer)} is out of range: the model has {num_layers} layers, "
            f'-{num_layers} to {num_layers - 1}; there are also "embeddings" and "final_norm".',
            param,
        )
    block = layer % num_layers
    # After the last block Hugging Face keeps only the normalised state, so that one has no index there.
    return Layer(block, block + 1, block + 1 if block + 1 < num_layers else None)


def check_ids(prompts: Sequence[Sequence[int]], *, vocabulary: int, max_model_len: int, field: str) -> None:
    """Raise ApiError 400 for a prompt without tokens, longer than the context, or with an unknown token id.

    One position is kept free, because the engine generates one token after each prompt.
    """
    for position, ids in enumerate(prompts):
        name = f"{field}[{position}]"
        if not ids:
            raise ApiError(400, f"{name} has no tokens.", name)
        if len(ids) >= max_model_len:
            raise ApiError(
                400,
                f"{name} has {len(ids)} tokens; the context of {max_model_len} tokens holds prompts of "
                f"{max_model_len - 1} at most.",
                name,
            )
        if not 0 <= min(ids) <= max(ids) < vocabulary:
            wrong = next(value for value in ids if not 0 <= value < vocabulary)
            raise ApiError(400, f"{name}: {shown(wrong)} is no token id of a vocabulary of {vocabulary}.", name)


def check_size(
    lengths: Sequence[int], *, layers: int, hidden_size: int, pooling: Pooling, max_values: int, field: str
) -> int:
    """How many floats an answer will hold. Raises ApiError 413 with the numbers when more than `max_values`."""
    rows = sum(lengths) if pooling == "all" else len(lengths)
    values = rows * layers * hidden_size
    if values > max_values:
        unit = "tokens" if pooling == "all" else "prompts"
        raise ApiError(
            413,
            f"{rows} {unit} × {layers} layers × {hidden_size} hidden = {values} values; this server answers with "
            f"{max_values} at most. Ask for fewer {unit} or layers{' or pool' if pooling == 'all' else ''}.",
            "pooling" if pooling == "all" else field,
        )
    return values


def check_compiled(ask: Sequence[Layer], taps: Sequence[int], num_layers: int, param: str) -> None:
    """Raise ApiError 400 naming the layer when it is not among the `taps` that the compiled model computes."""
    for layer in ask:
        if layer.tap != FINAL_NORM and layer.tap not in taps:
            raise ApiError(
                400,
                f"Layer {layer.layer} is not compiled in; this server has {layer_names(taps)} and final_norm. Start "
                f"it with other layers declared, or eagerly (--enforce-eager) for all {num_layers}.",
                param,
            )


def layer_names(taps: Sequence[int]) -> list[int | str]:
    """The public names of taps: block numbers and "embeddings"."""
    return ["embeddings" if tap == 0 else tap - 1 for tap in sorted(taps)]


def kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        return "an enormous number"
    text = repr(value) if isinstance(value, (str, int, float, bool)) else kind(value)
    return text if len(text) <= 60 else text[:57] + "…"
