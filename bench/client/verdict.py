"""How a request ended, from what arrived and how the connection went: outcome, kind of error, words. Pure.

The first cause wins. What a server says is quoted, never obeyed: `plain` makes it fit for a record, a report and a
terminal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from email.utils import parsedate_to_datetime

from bench.client import states
from bench.client.answer import Answer, error_message
from bench.client.events import Response

ERROR_CHARACTERS = 500
LONGEST_RETRY_S = 366 * 86_400.0

Verdict = tuple[str, str | None, str | None]  # outcome, error_kind, error
_CONTROL = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127, *range(128, 160)), " ")


def plain(text: str, secrets: Sequence[str] = ()) -> str:
    """Text from outside as a record may hold it: no half characters, no control characters, no secret, not long."""
    for secret in secrets:  # a server may quote the key it was given
        text = text.replace(secret, "***")
    return text.encode("utf-8", "replace").decode().translate(_CONTROL)[:ERROR_CHARACTERS]


def of_stream(response: Response, answer: Answer, failure: Verdict | None, *, reasons: bool = True) -> Verdict:
    """The verdict on a streamed answer: a finish_reason and a clean end are an answer, [DONE] or not.

    A [DONE] alone is none: it is also how a server ends an answer that it breaks off (llama-cpp-python does, when the
    next request comes). `reasons` is False for a server that never gives a finish_reason; a [DONE] then has to do.
    """
    ended = answer.finish_reason is not None or (answer.done and not reasons)
    whole = ended and answer.done and answer.error_kind is None and failure is None and cut_short(response)
    verdict: Verdict
    if refusal := _refused(response, failure):
        verdict = refusal
    elif answer.error_kind == "stream_error":
        verdict = "http_error", "stream_error", answer.error
    elif not whole and (broken := _broken(response, failure)):
        verdict = broken
    elif response.events is None:
        said = _said(response.body) or "an empty answer"
        verdict = "protocol_error", "not_sse", f"The answer is not an event stream ({_media(response)}): {said}"
    elif answer.error_kind is not None:
        verdict = "protocol_error", answer.error_kind, answer.error
    elif response.trailing is not None:
        verdict = _trailing(response)
    elif not ended:
        how = "with [DONE] and" if answer.done else "without a [DONE] and"
        verdict = (
            "protocol_error",
            "early_close",
            f"The server broke the answer off: it ended {how} without a finish_reason.",
        )
    else:
        verdict = "ok", None, None
    return verdict


def of_states(response: Response, answer: states.States, failure: Verdict | None) -> Verdict:
    """The verdict on an answer in one piece."""
    if verdict := _refused(response, failure) or _broken(response, failure):
        return verdict
    if not response.headers.get("content-type", "").lower().startswith("application/json"):
        return "protocol_error", "not_states", f"The answer is not JSON ({_media(response)})."
    if answer.error_kind is not None:
        return "protocol_error", answer.error_kind, answer.error
    return _trailing(response) if response.trailing is not None else ("ok", None, None)


def cut_short(response: Response) -> bool:
    """Whether the connection was closed before the framing of the response had ended."""
    return not response.complete and response.error is not None and "closed before" in response.error


def retry_after_s(response: Response) -> float | None:
    """For how long the server asks to be left alone (Retry-After: seconds, or a date against its own Date)."""
    said = response.headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            asked, since = (parsedate_to_datetime(text) for text in (said, response.headers.get("date", "")))
            seconds = (asked - since).total_seconds()
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return seconds if 0 <= seconds <= LONGEST_RETRY_S else None


def _refused(response: Response, failure: Verdict | None) -> Verdict | None:
    status = response.status
    if failure is not None and failure[0] in ("aborted", "timeout"):
        return failure
    if status is None or status == 200:
        return None
    if 300 <= status < 400:
        to = response.headers.get("location", "nowhere")
        return "http_error", "redirect", f"The server redirects to {to}; use that address as the target."
    said = _said(response.body) or f"The server answered {status}."
    limited = status == 429 or (status == 503 and "retry-after" in response.headers)
    return "rate_limited" if limited else "http_error", f"http_{status}", said


def _broken(response: Response, failure: Verdict | None) -> Verdict | None:
    if failure is not None:
        return failure
    if not response.complete:
        return "protocol_error", "early_close" if cut_short(response) else "bad_framing", response.error
    return None


def _trailing(response: Response) -> Verdict:
    return "protocol_error", "trailing_garbage", f"Bytes follow the response: its last read ends {response.trailing!r}"


def _media(response: Response) -> str:
    return f"content-type {response.headers.get('content-type', 'none')}"


def _said(body: bytes) -> str | None:
    text = body[: 64 * ERROR_CHARACTERS].decode("utf-8", "replace").strip()
    try:
        message = error_message(json.loads(text))
    except (ValueError, RecursionError):
        message = None
    return message or text[:ERROR_CHARACTERS] or None
