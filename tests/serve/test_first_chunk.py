"""The head of an answer with its first piece: the order in which an ASGI server is told of them."""

import asyncio
from typing import Any

from serve.plugin.first_chunk import HEADER, HeadWithFirstChunk

START = {"type": "http.response.start", "status": 200, "headers": []}


def piece(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def told(messages: list[dict[str, Any]], *, asks: bool, fails: bool = False) -> list[list[dict[str, Any]]]:
    """What has been sent after each message of an app that sends these."""
    sent: list[dict[str, Any]] = []
    after: list[list[dict[str, Any]]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
            after.append(list(sent))
        if fails:
            raise RuntimeError("the engine fell over")

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "headers": [(HEADER, b"1")] if asks else []}
    try:
        asyncio.run(HeadWithFirstChunk(app)(scope, receive, send))
    except RuntimeError:
        after.append(list(sent))
    return after


def test_the_head_waits_for_the_first_piece() -> None:
    first, last = piece(b"data: 1"), piece(b"", more=False)
    assert told([START, piece(b""), first, last], asks=True) == [[], [], [START, first], [START, first, last]]


def test_an_answer_without_a_body_still_has_a_head() -> None:
    end = piece(b"", more=False)
    assert told([START, end], asks=True) == [[], [START, end]]


def test_without_the_header_nothing_is_held() -> None:
    first = piece(b"data: 1")
    assert told([START, first], asks=False) == [[START], [START, first]]


def test_an_app_that_fails_before_its_first_piece_has_sent_no_head() -> None:
    # So that the server around it can still answer 500.
    assert told([START], asks=True, fails=True) == [[], []]
