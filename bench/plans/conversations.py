"""Conversations: what follows the first turn, how long a user thinks, and how many turns fit a context. Pure.

The body of a conversation is the body of its first turn, with `then` beside it: the turns that follow, each with the
`messages` that are said, `max_tokens` of the answer and `think_s` before it is sent. What goes between them, the
server's own answers, is known when the load runs.
"""

import math
import random
from collections.abc import Iterable
from typing import Any

from bench.plans.loads import Load, Think

TEMPLATE_TOKENS = 16  # what a chat template may add to a turn and its answer


def think_s(think: Think | None, rng: random.Random) -> float:
    """How long a user thinks before a turn, in seconds; a lognormal's `mean` is the mean that a reader expects."""
    if think is None or not think.mean:
        return 0.0
    if think.kind == "fixed":
        return think.mean
    return rng.lognormvariate(math.log(think.mean) - think.sigma**2 / 2, think.sigma)


def with_turns(
    body: dict[str, Any],
    turns: Iterable[tuple[list[dict[str, Any]], int, int]],
    room: int | None,
    load: Load,
    rng: random.Random,
) -> dict[str, Any]:
    """The body of a first turn with those that follow, as many as fit into `room` tokens (None: all).

    `turns` are (messages, tokens in them, tokens of the answer). `cut` says that some did not fit.
    """
    then: list[dict[str, Any]] = []
    cut = False
    for messages, said, answered in turns:
        if room is not None:
            room -= said + answered + TEMPLATE_TOKENS
            if room < 0:
                cut = True
                break
        then.append({"messages": messages, "max_tokens": answered, "think_s": think_s(load.think_s, rng)})
    return {**body, "then": then, **({"cut": True} if cut else {})}


def told(bodies: list[dict[str, Any]], max_model_len: int | None) -> str:
    """How many turns the conversations have, and how many were cut; `cut` leaves the bodies."""
    turns = sum(1 + len(body["then"]) for body in bodies)
    cut = sum(bool(body.pop("cut", False)) for body in bodies)
    said = f"{turns:,} turns in {len(bodies):,} conversations"
    return said + (f", {cut} of them cut short to fit a context of {max_model_len} tokens" if cut else "")
