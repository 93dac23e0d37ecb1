"""What comes back from a provider: events of a stream, and errors in OpenAI's shape. Pure."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gateway.cloud.ledger import NANO, Standing, next_opening
from gateway.cloud.usage import Used, joined, read, tokens_of

EVENT_BYTES = 16 << 20
_GAP = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE = re.compile(rb"\r\n|\n|\r")
_WORDS = 500
# A provider's status → what the client gets and its code. 401 and the like are about our key, not about the user's.
_OURS = {
    401: (502, "server_error", "cloud_key_refused", "the cloud {cloud} refused the gateway's key"),
    402: (503, "service_unavailable", "cloud_without_credit", "the account at the cloud {cloud} has no credit left"),
    403: (502, "server_error", "cloud_key_refused", "the cloud {cloud} does not let the gateway's key do that"),
    404: (502, "server_error", "cloud_without_model", "the cloud {cloud} has no model {asked} at this address"),
    407: (502, "server_error", "cloud_unreachable", "a proxy before the cloud {cloud} wants a password"),
}
_USERS = (400, 409, 413, 415, 422)


class TooLong(Exception):
    """An event that does not end."""


@dataclass
class Stream:
    """Bytes of a stream → whole events, and what they tell of usage.

    `ended`: the end of the answer was seen; `counted`: usage that holds for all of it. `sent_bytes`, `pieces`: of the
    text in it, for an estimate.
    """

    drop_usage: bool
    told: Used | None = None
    ended: bool = False
    counted: bool = False
    sent_bytes: int = 0
    pieces: int = 0
    _rest: bytes = field(default=b"", repr=False)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The events that are whole now and are passed on; what ends the answer is not. Raises TooLong."""
        self._rest += data
        while gap := _GAP.search(self._rest):
            event, self._rest = self._rest[: gap.end()], self._rest[gap.end() :]
            if not self.ended and self._is_passed(event):
                yield event
        if len(self._rest) > EVENT_BYTES:
            raise TooLong

    def rest(self) -> bytes:
        """What came after the last gap: a last event without one."""
        event, self._rest = self._rest, b""
        return event if event.strip() and not self.ended and self._is_passed(event) else b""

    def _is_passed(self, event: bytes) -> bool:
        lines = [line[5:].strip() for line in _LINE.split(event) if line.startswith(b"data:")]
        text = b"\n".join(lines)
        if text == b"[DONE]":
            self.ended = True
            return False
        try:
            document = json.loads(text) if text else None
        except (ValueError, RecursionError):
            return True
        if not isinstance(document, dict):
            return True
        found = read(document)
        self.counted = self.counted or (found is not None and _is_last(document.get("choices")))
        self.told = joined(self.told, found)
        self._weigh(document)
        return not (found and self.drop_usage and document.get("choices") == [])

    def _weigh(self, document: Mapping[str, Any]) -> None:
        before = self.sent_bytes
        choices = document.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, Mapping):
                self.sent_bytes += _text_bytes(choice.get("delta")) + _text_bytes({"text": choice.get("text")})
        self.pieces += self.sent_bytes > before

    def used(self, input_tokens: int) -> Used:
        """What the answer took: as told when it came to its end, else at least what was seen of it."""
        seen = max(self.pieces, tokens_of(self.sent_bytes))
        told = self.told
        if told is not None and (self.ended or self.counted):
            return told
        if told is None:
            return Used(input_tokens, seen, estimated=True)
        return Used(told.input or input_tokens, max(told.output, seen), told.cached, told.told_usd, estimated=True)


def _is_last(choices: Any) -> bool:
    """Whether usage beside these choices counts all of the answer: there are none, or one says why it ends."""
    if not isinstance(choices, list):
        return False
    return not choices or any(isinstance(one, Mapping) and one.get("finish_reason") for one in choices)


def whole(document: Any, input_tokens: int, size_bytes: int) -> Used:
    """What an answer in one piece took; estimated from its size when it does not say."""
    return read(document) or Used(input_tokens, tokens_of(_answer_bytes(document, size_bytes)), estimated=True)


def _answer_bytes(document: Any, size_bytes: int) -> int:
    choices = document.get("choices") if isinstance(document, Mapping) else None
    if not isinstance(choices, list):
        return 0 if isinstance(document, Mapping) and "data" in document else size_bytes
    known = [one for one in choices if isinstance(one, Mapping)]
    return sum(_text_bytes(one.get("message")) + _text_bytes({"text": one.get("text")}) for one in known)


def _text_bytes(value: Any) -> int:
    """The size of all texts in a message, its reasoning and its calls of tools included; its role is none."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, list):
        return sum(_text_bytes(one) for one in value)
    if isinstance(value, Mapping):
        return sum(_text_bytes(one) for key, one in value.items() if key not in ("role", "type", "id"))
    return 0


def error(message: str, kind: str, code: str) -> dict[str, Any]:
    """An error as OpenAI shapes it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def refusal(status: int, body: bytes, *, cloud: str, asked: str, key: str) -> tuple[int, dict[str, Any]]:
    """A provider's error → status and document for the client. The key is in none of it."""
    said = _said(body).replace(key, "…") if key else _said(body)
    if status in _OURS:
        ours, kind, code, words = _OURS[status]
        words = words.format(cloud=cloud, asked=asked)
        return ours, error(f"{words[0].upper()}{words[1:]}; that is for the gateway's owner to mend.", kind, code)
    if status == 429:
        return 429, error(f"The cloud {cloud} takes no more for now: {said}", "rate_limit_error", "cloud_rate_limited")
    if status in _USERS:
        return status, error(said, "invalid_request_error", "cloud_refused")
    words = f"The cloud {cloud} answered HTTP {status}: {said}"
    return (503 if status in (503, 529) else 502), error(words, "server_error", "cloud_failed")


def _said(body: bytes) -> str:
    """The words of an error, whatever their shape."""
    text = body[: 64 << 10].decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return "no words that are JSON" if text.lstrip()[:1] in ("<", "") else text.strip()[:_WORDS]
    if isinstance(document, list) and document:  # Google's
        document = document[0]
    for key in ("error", "message", "detail"):
        value = document.get(key) if isinstance(document, dict) else None
        if isinstance(value, dict):
            value = value.get("message") or value.get("code")
        if isinstance(value, str) and value:
            return value[:_WORDS]
    return "nothing that tells why"


def closed(cloud: str, standing: Standing, now: datetime) -> dict[str, Any]:
    """Why a cloud is closed by its limits, as an error for the client."""
    period = standing.closed_by or "day"
    limit = standing.limits.month if period == "month" else standing.limits.day
    usd = f"{(limit or 0) / NANO:g} USD a {period} (UTC)"
    if not standing.is_spent:
        words = f"What is left of the limit of the cloud {cloud}, {usd}, is reserved by requests in work; try again."
        return error(words, "rate_limit_error", "budget_reserved")
    opens = next_opening(now, period).strftime("%Y-%m-%dT%H:%M:%SZ")
    words = f"The limit of the cloud {cloud}, {usd}, is spent; it opens again at {opens}."
    return error(words, "insufficient_quota", "budget_spent")
