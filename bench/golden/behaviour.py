"""What the golden server does with a request: timing, tokens, faults. Words in, one checked object out.

The same words stand on the command line (`nbridge golden ttft_s=0.2 per_event=4`) and, for one request, behind the
model's name as a query ("golden?ttft_s=0.2&per_event=4").
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import PlanError
from bench.golden.dialects import DIALECTS, Dialect

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Some = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Fault = Literal[
    "hang", "cut", "reset", "die",
    "garbage", "bad_chunk", "break_off", "error_event", "trailing", "no_done",
    "close_after", "close_on_next", "plain", "redirect",
]  # fmt: skip
Usage = Literal["chunk", "end", "none", "zeros", "final", "difference", "some", "float", "text", "huge", "late"]


class Behaviour(BaseModel):
    """How a request is answered; docs/golden.md explains every word.

    The first token leaves `ttft_s` after the request's turn has come, each further one `gap_s` after the one before;
    an event leaves when the last of its tokens is there. With `jitter` each of these waits is that much longer or
    shorter at most. `share` of the requests, drawn from `seed`, have the fault: `then`, `status` or the stall.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttft_s: Seconds = 0.1
    gap_s: Seconds = 0.01
    jitter: Share = 0.0
    seed: int = 0
    output_tokens: Some | None = None
    per_event: Some | None = None
    per_send: Some = 1
    halves: bool = False
    dialect: str = "vllm"
    usage: Usage | None = None
    body: Literal["chunked", "extended", "length", "close"] = "chunked"
    cached_tokens: Count = 0
    then: Fault | None = None
    after: Count = 0
    status: Annotated[int, Field(ge=200, le=599)] = 200
    retry_after_s: Seconds | None = None
    stall_s: Seconds = 0.0
    stall_after: Count = 1
    share: Share = 1.0

    @property
    def speaks(self) -> Dialect:
        return DIALECTS[self.dialect]

    def faulty(self, number: int) -> bool:
        """Whether request `number` has the fault."""
        return self.share >= 1 or self.draws(number, "fault").random() < self.share

    def draws(self, number: int, what: str) -> random.Random:
        """What is drawn for request `number`: the same on every machine."""
        return random.Random(f"{self.seed}/{number}/{what}")  # noqa: S311 (reproducible, not secret)

    def sound(self) -> Behaviour:
        """The same without its fault."""
        return self.model_copy(update={"then": None, "status": 200, "stall_s": 0.0})

    def service_s(self, output_tokens: int) -> float:
        """From a request's turn to its last token, without jitter and stalls: what the request occupies its place."""
        tokens = min(output_tokens, self.output_tokens or output_tokens, self.speaks.early or output_tokens)
        first = min(tokens, (self.per_event or self.speaks.per_event) * self.per_send)
        return self.ttft_s + self.gap_s * (tokens - first)


def parse(words: Mapping[str, str], where: str) -> Behaviour:
    """The behaviour that some words ask for. Raises PlanError, which names the word, its value and what would work."""
    try:
        behaviour = Behaviour.model_validate(dict(words))
    except ValidationError as error:
        raise PlanError(_explain(error, where)) from None
    if behaviour.dialect not in DIALECTS:
        raise PlanError(f"{where}: dialect = {behaviour.dialect}: {_nearest(behaviour.dialect, DIALECTS)}")
    return behaviour


def split(words: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` words as a table. Raises PlanError."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise PlanError(f"{word}: expected KEY=VALUE. {_nearest(key, Behaviour.model_fields)}")
        if key in found:
            raise PlanError(f"{key} is given twice: {found[key]} and {value}.")
        found[key] = value
    return found


class Behaviours:
    """The behaviour of every model name and dialect path, read once each; what a request does not say is `default`."""

    def __init__(self, default: Mapping[str, str]) -> None:
        self.default = dict(default)
        self.of = lru_cache(maxsize=1024)(self._of)

    def _of(self, model: str, dialect: str | None) -> Behaviour:
        words = {**self.default, **({"dialect": dialect} if dialect else {})}
        return parse(words | dict(parse_qsl(model.partition("?")[2])), f"model {model[:200]!r}")


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}."


def _explain(error: ValidationError, where: str) -> str:
    told = []
    for item in error.errors()[:3]:
        key = str(item["loc"][0])
        if item["type"] == "extra_forbidden":
            told.append(f"{key} is unknown. {_nearest(key, Behaviour.model_fields)}")
        else:
            told.append(f"{key} = {item['input']}: {item['msg'].removeprefix('Input ')}.")
    return f"{where}: " + " ".join(told)
