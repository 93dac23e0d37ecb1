"""From a valid request to its states: tokens, admission to the queue, the engine, and what can go wrong there."""

import asyncio
import dataclasses
import functools
import itertools
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request

from serve.hidden_states import protocol
from serve.hidden_states.admission import Admission
from serve.hidden_states.answer import States, check_finite
from serve.hidden_states.capture import FAILURES
from serve.hidden_states.limits import Limits
from serve.hidden_states.protocol import KEY, ApiError, Layer, Pooling
from serve.hidden_states.request import Ask

# Characters a token that a text hardly ever has: those of ordinary text are three to five.
PROBE_CHARACTERS = 8
# What vLLM calls a prompt in its error when it is too long, by its characters or by its tokens.
_TOO_LONG = ("input_text", "input_tokens")


@dataclass(frozen=True)
class Model:
    """The served model and how its states can be had, as its first worker says."""

    name: str
    num_layers: int
    hidden_size: int
    dtype: str
    max_model_len: int
    vocabulary: int
    mode: str
    taps: tuple[int, ...] | None = None
    reason: str | None = None

    def describe(self) -> dict[str, Any]:
        """The `hidden_states` part of /health."""
        layers: object = "all" if self.taps is None else [*protocol.layer_names(self.taps), "final_norm"]
        if self.mode == "off":
            return {"mode": "off", "layers": [], "reason": self.reason}
        return {"mode": self.mode, "layers": layers}


class Extractor:
    """Gives the states of prompts, as many at a time as `admission` lets in."""

    def __init__(self, engine: Any, model: Model, limits: Limits, *, models: Any, tokenization: Any) -> None:
        self.model = model
        self.limits = limits
        self.admission = Admission(limits)
        self._engine = engine
        self._models = models
        self._tokenization = tokenization

    def adapter(self, name: str | None) -> Any:
        """vLLM's LoRA request for a model name, None for the model itself. Raises ApiError 404 for another name."""
        if not name or self._models.is_base_model(name):
            return None
        if name in self._models.lora_requests:
            return self._models.lora_requests[name]
        raise ApiError(
            404, f"The model {protocol.shown(name)} does not exist; this server has {self.model.name}.", "model"
        )

    def check_layers(self, layers: Sequence[Layer], param: str) -> None:
        """Raise ApiError when this server cannot give these layers: 501 when it gives none, 400 naming the layer."""
        if self.model.mode == "off":
            raise ApiError(501, f"This server gives no hidden states: {self.model.reason}.")
        if self.model.taps is not None:
            protocol.check_compiled(layers, self.model.taps, self.model.num_layers, param)

    async def tokens(self, ask: Ask, raw_request: Request) -> list[list[int]]:
        """The token ids of each prompt, by the model's own tokenizer and chat template. Raises ApiError 400.

        vLLM tokenizes in a thread of its own, and refuses by its length, before that, a text that the context cannot
        hold even if all of it were the vocabulary's longest tokens. Of what passes that and is still very long, the
        beginning is tokenized first.
        """
        text_request, chat_request = _bounded_requests()
        ids: list[list[Any]] = []
        for position, prompt in enumerate(ask.prompts or ask.chats):
            name = f"{ask.field}[{position}]"
            if ask.prompts and isinstance(prompt, tuple):
                ids.append(list(prompt))
                continue
            try:
                text = _longest_text(prompt)
                if len(text) > 2 * PROBE_CHARACTERS * self.model.max_model_len:
                    # The interpreter stands still for seconds over megabytes: if the beginning alone is too long,
                    # vLLM says so now. The rest, as long again, has more tokens than the cut can have made.
                    start = text[: PROBE_CHARACTERS * self.model.max_model_len]
                    await self._tokenization.create_tokenize(text_request(prompt=start), raw_request)
                request = (
                    text_request(prompt=prompt, add_special_tokens=ask.add_special_tokens)
                    if isinstance(prompt, str)
                    else chat_request(messages=list(prompt), add_generation_prompt=ask.add_generation_prompt)
                )
                answer = await self._tokenization.create_tokenize(request, raw_request)
            except Exception as error:
                if getattr(error, "parameter", None) in _TOO_LONG:
                    raise ApiError(400, f"{name}: {str(error).partition(' (parameter=')[0]}", name) from error
                # Whatever a tokenizer or a chat template throws, it is this prompt that it cannot take.
                raise ApiError(
                    400, f"{name}: the model's tokenizer or chat template refuses it: {str(error)[:300]}", name
                ) from error
            if not hasattr(answer, "tokens"):
                raise ApiError(400, f"{name}: {answer.error.message}", name)
            ids.append(list(answer.tokens))
        protocol.check_ids(
            ids, vocabulary=self.model.vocabulary, max_model_len=self.model.max_model_len, field=ask.field
        )
        return ids

    async def states(
        self,
        prompts: Sequence[list[int]],
        layers: Sequence[Layer],
        pooling: Pooling,
        *,
        held: ExitStack,
        adapter: Any = None,
        field: str = "prompts",
        request_id: str | None = None,
    ) -> list[States]:
        """The states of each prompt, [layer, hidden] or, for pooling "all", [layer, token, hidden].

        Raises ApiError: 413 when the answer would be too large, 429 when the queue is full, 500 when the capture
        failed or a value is not finite, 503 when the engine is dead, 504 after `limits.timeout_s`. A cancellation
        aborts every prompt in the engine. The room for the answer is given back when `held` is closed.
        """
        values = protocol.check_size(
            [len(ids) for ids in prompts],
            layers=len(layers),
            hidden_size=self.model.hidden_size,
            pooling=pooling,
            max_values=self.limits.max_values,
            field=field,
        )
        wish = {"taps": [layer.tap for layer in layers], "pooling": pooling}
        # A client may use its request id twice; the engine must not see one twice.
        base = f"{request_id or 'hs'}-{uuid.uuid4().hex[:8]}"
        held.enter_context(self.admission.room(values))
        try:
            async with asyncio.timeout(self.limits.timeout_s), asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._one(ids, wish, f"{base}-{position}", adapter))
                    for position, ids in enumerate(prompts)
                ]
        except TimeoutError:
            raise ApiError(504, f"No answer within {self.limits.timeout_s} s; the prompts were given up.") from None
        except BaseExceptionGroup as group_error:
            raise _explained(group_error) from group_error
        states = [task.result() for task in tasks]
        check_finite(states, [layer.layer for layer in layers])
        return states

    async def _one(self, ids: list[int], wish: dict[str, Any], request_id: str, adapter: Any) -> States:
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            # The prompt's last token is always computed; states of the others need all of them computed.
            skip_reading_prefix_cache=True if wish["pooling"] != "last" else None,
            extra_args={KEY: wish},
        )
        # `encode` is meant for pooling models, but takes any parameters and yields outputs that carry a tensor,
        # where `generate` insists on text.
        outputs: AsyncIterator[Any] = self._engine.encode(
            tokens_input(prompt_token_ids=ids), params, request_id, lora_request=adapter
        )
        async for output in outputs:
            if output.finished:
                return _array(output.outputs.data)
        raise ApiError(500, "The engine ended the request without an answer.")


def _longest_text(prompt: Any) -> str:
    """A text itself, or of a chat the longest text in it."""
    if isinstance(prompt, str):
        return prompt
    contents = [message.get("content") or "" for message in prompt]
    parts = [part["text"] for one in contents if isinstance(one, list) for part in one]
    return max([one for one in contents if isinstance(one, str)] + parts, key=len, default="")


@functools.cache
def _bounded_requests() -> tuple[Any, Any]:
    """vLLM's requests to tokenize a text and a chat, held to the model's context; its own take any length."""
    from vllm.entrypoints.serve.tokenize.protocol import TokenizeChatRequest, TokenizeCompletionRequest

    class BoundedText(TokenizeCompletionRequest):  # type: ignore[misc]
        def build_tok_params(self, model_config: Any) -> Any:
            return dataclasses.replace(
                super().build_tok_params(model_config), max_total_tokens=model_config.max_model_len
            )

    class BoundedChat(TokenizeChatRequest):  # type: ignore[misc]
        def build_tok_params(self, model_config: Any) -> Any:
            return dataclasses.replace(
                super().build_tok_params(model_config), max_total_tokens=model_config.max_model_len
            )

    return BoundedText, BoundedChat


def _array(tensor: Any) -> States:
    if not tensor.dtype.is_floating_point:
        raise ApiError(500, f"The hidden states were not captured: {FAILURES.get(int(tensor[0]), 'unknown reason')}.")
    array: States = tensor.float().numpy()
    return np.ascontiguousarray(array)


def _explained(group: BaseExceptionGroup[Any]) -> Exception:
    """The one error to answer with, of those that the prompts of a request ended with."""
    from vllm.v1.engine.exceptions import EngineDeadError

    errors = list(_leaves(group))
    for error in itertools.chain((e for e in errors if isinstance(e, ApiError)), errors):
        match error:
            case ApiError():
                return error
            case EngineDeadError():
                return ApiError(503, "The engine is dead; the server needs a restart.")
            case ValueError():
                return ApiError(400, f"The engine refuses the prompt: {error}", "prompts")
    return ApiError(500, "The engine failed; the server's log has the reason.")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
