"""Asking a server how likely it holds each token of a prompt. What it answers is checked before it is believed.

Two ways to ask, both of /v1/completions with token ids: vLLM's `prompt_logprobs`, and `echo` with `logprobs`, as older
OpenAI servers have it. One request at a time: what else is in a batch changes the last digits of a result.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.client.pages import Page, fetch
from bench.client.target import Target as Address
from bench.client.verdict import plain
from bench.target import Target

Form = Literal["prompt_logprobs", "echo"]
FORMS: tuple[Form, ...] = ("prompt_logprobs", "echo")
_ECHOED = ("tokens", "token_logprobs", "top_logprobs")
_NOTHING = -9000.0  # vLLM writes −9999 where it means −∞
_ABOVE_ONE = 1.01  # what the probabilities of some tokens may add up to, with their rounding
_HALF = "\N{REPLACEMENT CHARACTER}"  # several tokens that are parts of characters have this text
_ROUNDED_ONE = 1e-3  # the logarithm of a probability of 1, with its rounding
_REQUEST_S = 600.0


class Unanswered(Exception):
    """Why a server's answer gives no log-probabilities, in a sentence."""


@dataclass(frozen=True)
class Told:
    """What a server told of one token: its log-probability, and by token those of the likeliest ones and its own."""

    logprob: float
    top: dict[str, float]


def ask(target: Target, to: Address, form: Form, ids: Sequence[int], top: int) -> list[Told]:
    """What `target` says of each of the prompt `ids` but the first, which nothing stands before.

    Raises Unanswered: it refuses, does not answer, or answers something else than was asked for.
    """
    route = target.dialect.completions
    if route is None:
        raise Unanswered("this server has no text completions")
    body: dict[str, Any] = {"model": target.model, "prompt": list(ids), route.limit: 1, "temperature": 0}
    body |= {"prompt_logprobs": top} if form == "prompt_logprobs" else {"echo": True, "logprobs": top}
    try:
        page = fetch(to, route.path, body | target.settings.extra_body, timeout_s=_REQUEST_S)
    except OSError as error:
        raise Unanswered(plain(str(error), to.secrets)) from error
    if page.status != 200:
        raise Unanswered(f"HTTP {page.status}: {plain(page.text, to.secrets)[:300]}")
    choice = _choice(page)
    return _prompt_logprobs(choice, ids) if form == "prompt_logprobs" else _echo(choice, len(ids))


def _choice(page: Page) -> dict[str, Any]:
    document = page.document()
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Unanswered("the answer has no choices")
    return choices[0]


def _prompt_logprobs(choice: dict[str, Any], ids: Sequence[int]) -> list[Told]:
    told = choice.get("prompt_logprobs")
    if not isinstance(told, list):
        raise Unanswered("the answer has no `prompt_logprobs`")
    _require_length(told, len(ids))
    found = []
    for place, (token, entry) in enumerate(zip(ids[1:], told[1:], strict=True), start=1):
        if not isinstance(entry, dict) or not all(isinstance(value, dict) for value in entry.values()):
            raise Unanswered(f"`prompt_logprobs` of token {place} is no table of tokens")
        found.append(_told({key: value.get("logprob") for key, value in entry.items()}, str(token), place))
    return found


def _echo(choice: dict[str, Any], count: int) -> list[Told]:
    """As `_prompt_logprobs`; tokens are known by their text, so those that are no whole characters are left out."""
    said = choice.get("logprobs")
    lists = [said.get(name) if isinstance(said, dict) else None for name in _ECHOED]
    if not all(isinstance(one, list) for one in lists):
        raise Unanswered(f"the answer has no `logprobs` of the prompt ({', '.join(_ECHOED)})")
    tokens, logprobs, tops = ([*one] for one in lists if one is not None)
    for one in (tokens, logprobs, tops):
        if len(one) == count + 1:
            one.pop()  # the token that was generated
        _require_length(one, count)
    if logprobs[0] is not None:
        raise Unanswered("`token_logprobs` does not begin with the prompt's first token, which has none")
    found = []
    for place in range(1, count):
        if not isinstance(tops[place], dict):
            raise Unanswered(f"`top_logprobs` of token {place} is no table of tokens")
        entry, token = tops[place], str(tokens[place])
        told = _told(entry | {token: logprobs[place]}, token, place)
        found.append(Told(told.logprob, {key: value for key, value in told.top.items() if _HALF not in key}))
    return found


def _require_length(told: list[Any], count: int) -> None:
    if len(told) != count:
        raise Unanswered(
            f"log-probabilities of {len(told)} tokens came for a prompt of {count}: the server changes the prompt, so "
            "what belongs to which token is not known"
        )


def _told(entry: dict[str, Any], token: str, place: int) -> Told:
    """One token's table, checked."""
    values = {key: _logprob(value, place) for key, value in entry.items()}
    if token not in values:
        raise Unanswered(f"`prompt_logprobs` of token {place} does not have the token itself")
    if values[token] == -math.inf:
        raise Unanswered(f"token {place} is impossible by this server (−∞), so the text has no likelihood")
    top = {key: value for key, value in values.items() if value != -math.inf}
    if (total := math.fsum(map(math.exp, top.values()))) > _ABOVE_ONE:
        raise Unanswered(
            f"the probabilities of token {place} add up to {total:.3g}, so these are no natural logarithms of them"
        )
    return Told(values[token], top)


def _logprob(value: Any, place: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= _ROUNDED_ONE:  # a NaN neither
        raise Unanswered(f"a log-probability of token {place} is {str(value)[:40]}, which is none")
    return -math.inf if value <= _NOTHING else min(float(value), 0.0)
