"""Users who ask without pause, and what each of their requests came to."""

import asyncio
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

GIVE_UP_S = 20.0
BODY = {"model": "m", "prompt": "1", "max_tokens": 20}
PAUSE_S = 0.05  # after a failure: a user does not hammer


@dataclass(frozen=True)
class Asked:
    """One request. `outcome`: answered; cut (after a token); failed (no answer, an error, or cut before any token)."""

    request_id: str
    stream: bool
    sent_s: float
    ended_s: float
    outcome: str
    why: str | None = None
    first_s: float | None = None


class Users:
    """Closed loop: each asks again when it has its answer. Every second one wants streams."""

    def __init__(self, url: str, count: int) -> None:
        self.url, self.count = url, count
        self.asked: list[Asked] = []
        self._over = asyncio.Event()

    async def run(self) -> None:
        await asyncio.gather(*(self._ask(number) for number in range(self.count)))

    def stop(self) -> None:
        self._over.set()

    async def _ask(self, number: int) -> None:
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=self.url, timeout=GIVE_UP_S, trust_env=False, limits=limits) as client:
            for turn in itertools.count():
                if self._over.is_set():
                    return
                one = await ask(client, uuid.uuid4().hex, {**BODY, "stream": bool((number + turn) % 2)})
                self.asked.append(one)
                if one.outcome == "failed":
                    await asyncio.sleep(PAUSE_S)


async def ask(client: httpx.AsyncClient, request_id: str, body: dict[str, Any]) -> Asked:
    """One completion, and what it came to."""
    stream = bool(body.get("stream"))
    sent_s, first_s, read = time.monotonic(), None, b""
    outcome, why = "answered", None
    try:
        asked = client.stream("POST", "/v1/completions", json=body, headers={"x-request-id": request_id})
        async with asyncio.timeout(GIVE_UP_S), asked as answer:
            async for piece in answer.aiter_raw():
                first_s = first_s or time.monotonic()
                read += piece
            if answer.status_code != 200:
                outcome, why = "failed", f"HTTP {answer.status_code}"
            elif (b"[DONE]" if stream else b'"choices"') not in read:
                outcome, why = "failed", "no answer in it"
    except (httpx.HTTPError, TimeoutError) as error:
        # A whole answer in one piece, and a stream without a token, are of no use.
        cut = stream and b"data:" in read
        outcome, why = ("cut" if cut else "failed"), type(error).__name__
    return Asked(request_id, stream, sent_s, time.monotonic(), outcome, why, first_s)


def summary(asked: Sequence[Asked]) -> dict[str, object]:
    """Counts of a case, and the longest time until an answer began."""
    firsts = [one.first_s - one.sent_s for one in asked if one.first_s is not None and one.outcome == "answered"]
    return {
        "requests": len(asked),
        "failed": sum(one.outcome == "failed" for one in asked),
        "cut": sum(one.outcome == "cut" for one in asked),
        "why": dict(Counter(f"{one.outcome}: {one.why}" for one in asked if one.outcome != "answered")),
        "slowest_first_s": round(max(firsts), 2) if firsts else None,
    }
