"""Learns a server's dialect by talking to it, before anything is measured.

    found = learn(target_of("http://127.0.0.1:8000"))
    found.model, found.dialect.chat

A request with every field that this program would like to send goes first. What the server refuses is left out, one
field at a time, by the name in its refusal where it gives one, until it answers; then the answer itself is read as any
measured one would be: where it counts tokens, and whether it has the length that was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from time import perf_counter as now
from typing import Any

from bench.client import stream
from bench.client.connection import Connection
from bench.client.dialect import Dialect, Route, pinned
from bench.client.identity import identify
from bench.client.pages import PROMETHEUS, Page, fetch, models
from bench.client.target import Target
from bench.client.verdict import plain

PROBE_TOKENS = 32
PROBE_ID = "9be00000-0000-4000-8000-"  # how the X-Request-Id of a probe begins; all of them are UUIDs
PROBE_TIMEOUT_S = 120.0
SHORT = "Reply with the single word OK."
LONG = "Write the numbers from one to forty in words, separated by commas."
_PATHS = {
    "completions": ("/v1/completions", "/completions"),
    "chat": ("/v1/chat/completions", "/chat/completions"),
}
# What can be left out, in the order in which it is tried where a refusal names nothing: the least common first.
_OPTIONAL = ("continuous_usage_stats", "min_tokens", "ignore_eos", "limit", "stream_options", "temperature")
_KEY = (
    "Put the key into an environment variable and name that variable with --api-key-env (or, for another header than "
    "Authorization, in `headers` of [target]: --with headers.api-key=VARIABLE)."
)
_IDS = list(range(10, 18))  # ordinary tokens in every vocabulary that was looked at
_numbers = count(1)


class ProbeError(Exception):
    """Why a server cannot be measured, in a sentence that says what would work."""


@dataclass(frozen=True)
class Found:
    """A server that answers: its dialect, the model to ask for, and its context length where it says one."""

    dialect: Dialect
    model: str
    max_model_len: int | None


def learn(
    to: Target,
    *,
    model: str | None = None,
    endpoint: str | None = None,
    path: str | None = None,
    pins: Mapping[str, Any] | None = None,
    extra_body: Mapping[str, Any] | None = None,
) -> Found:
    """Asks a server what it takes. `endpoint`, `path` and `pins` (fields of a Route) are not asked but taken as given.

    Raises ProbeError: nothing answers, a key is wanted, no model is named, or no endpoint answers a completion.
    """
    listing = _models(to)
    listed = models(listing.document()) if listing and listing.status == 200 else []
    if model is None:
        if not listed:
            status = f"HTTP {listing.status}" if listing else "nothing"
            raise ProbeError(
                f"/v1/models answered {status} and no list of models; name the model (--with model=NAME, or `model` in "
                "[target]) if this is an OpenAI-compatible server."
            )
        model = str(listed[0]["id"])
    about = next((entry for entry in listed if entry["id"] == model), listed[0] if listed else {})
    notes: list[str] = []
    headers = dict(listing.headers) if listing else {}
    routes: dict[str, Any] = {}
    for name in ("completions", "chat") if endpoint in (None, "hidden_states") else (endpoint,):
        asker = _Asker(to, name, model, dict(pins or {}), dict(extra_body or {}))
        routes[name] = asker.negotiate((path,) if path and endpoint else _PATHS[name])
        notes += asker.notes
        headers |= asker.headers
    metrics = _page(to, "/metrics")
    dialect = Dialect(
        server=identify(lambda at: _page(to, at), headers, about, metrics, to.host),
        hidden_states=_answers(to, "/v1/hidden_states"),
        metrics=bool(metrics and metrics.headers.get("content-type", "").startswith(PROMETHEUS)),
        models=bool(listed),
        notes=tuple(notes),
        **routes,
    )
    if not dialect.endpoints:
        names = [str(entry["id"]) for entry in listed]
        served = f" It serves {', '.join(names[:10])}." if names and model not in names else ""
        raise ProbeError("No endpoint answered a completion. " + " ".join(notes) + served)
    return Found(pinned(dialect, pins or {}), model, _length(about))


def _models(to: Target) -> Page | None:
    """The /v1/models page; ProbeError when nobody answers or a key is wanted."""
    try:
        page = fetch(to, "/v1/models")
        page = page if page.status != 404 else fetch(to, "/models")
    except OSError as error:
        raise ProbeError(f"no answer ({error}). Is the server up, and is this its address?") from error
    if page.status in (401, 403):
        raise ProbeError(f"HTTP {page.status}: it wants an API key. {_KEY}")
    if 300 <= page.status < 400:
        raise ProbeError(
            f"it answers HTTP {page.status} and redirects to {page.headers.get('location', 'nowhere')!r}. That is not "
            "followed, because it would be part of every time that is measured: give the address that it names."
        )
    return page


def _page(to: Target, path: str) -> Page | None:
    try:
        page = fetch(to, path)
    except OSError:
        return None
    return page if page.status == 200 else None


def _answers(to: Target, path: str) -> bool:
    """Whether a POST route exists: an empty body is refused there, but not as unknown."""
    try:
        return fetch(to, path, {}).status in (200, 400, 422)
    except OSError:
        return False


def _length(about: Mapping[str, Any]) -> int | None:
    """The context length in tokens of a /v1/models entry, by the names that servers give it."""
    meta = about.get("meta")
    places = (about, meta if isinstance(meta, dict) else {})
    for value in (place.get(name) for place in places for name in ("max_model_len", "context_length", "n_ctx")):
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
            return value
    return None


class _Asker:
    """Negotiates one endpoint."""

    def __init__(self, to: Target, endpoint: str, model: str, pins: dict[str, Any], extra_body: dict[str, Any]) -> None:
        self.to, self.endpoint, self.model, self.pins, self.extra_body = to, endpoint, model, pins, extra_body
        self.connection = Connection(to)
        self.notes: list[str] = []
        self.headers: dict[str, str] = {}
        self.route = Route("")

    def negotiate(self, paths: tuple[str, ...]) -> Route | None:
        """The endpoint's route; None when it does not exist or answers nothing, with a note that says so."""
        for path in paths:
            self.route = replace(Route(path, token_ids=False), **self.pins)
            record = self._until_answered()
            if record["outcome"] == "ok":
                self._read(record)
                self.connection.close()
                return self.route
            if record["http_status"] not in (404, 405):
                break
        self.connection.close()
        self.notes.append(f"{self.endpoint}: {_words(record)}")
        return None

    def ask(self, prompt: Any, *, tokens: int = PROBE_TOKENS) -> dict[str, Any]:
        """The record of one request; both ways to an exact length are asked for at once, as far as they are taken."""
        extra = {"min_tokens": tokens} if self.route.min_tokens and self.route.ignore_eos else {}
        routes: dict[str, Any] = {self.endpoint: replace(self.route, token_ids=True, usage="end", finish_reason=False)}
        what = stream.request(
            self.to,
            {"prompt": prompt, "max_tokens": tokens},
            request_id=f"{PROBE_ID}{next(_numbers):012x}",
            model=self.model,
            endpoint=self.endpoint,
            dialect=Dialect(**routes),
            extra_body={**extra, **self.extra_body},
        )
        exchange = self.connection.exchange(what.wire, PROBE_TIMEOUT_S)
        self.headers |= exchange.framing.headers
        record = stream.record(what, exchange, now(), self.to.secrets)
        if record["outcome"] == "rate_limited":
            wait_s = record["retry_after_s"]
            raise ProbeError(
                f"the server limits the rate of requests now (HTTP {record['http_status']}: {record['error']}); "
                + (f"it asks to wait {wait_s:g} s." if wait_s is not None else "try again later.")
            )
        if record["outcome"] == "timeout":
            raise ProbeError(f"no answer to {tokens} tokens on {self.route.path} within {PROBE_TIMEOUT_S:g} s.")
        if record["http_status"] in (401, 403):
            raise ProbeError(f"HTTP {record['http_status']} on {self.route.path}: {record['error']} {_KEY}")
        return record

    def _until_answered(self) -> dict[str, Any]:
        """Leaves out what is refused until an answer comes; what was left out unnamed is tried once more alone."""
        unnamed: list[str] = []
        record = self.ask(SHORT)
        while record["outcome"] in ("http_error", "protocol_error") and record["http_status"] not in (404, 405):
            named = [name for name in self._left() if self._names(record["error"] or "", name)]
            if not named and not self._left():
                return record
            field = named[0] if named else self._left()[0]
            if not named:
                unnamed.append(field)
            elif record["error_kind"] != "stream_error":
                self.notes.append(f"{self.endpoint}: {field} is refused ({record['error'][:120]})")
            self._set(field, "max_completion_tokens" if field == "limit" else False)
            record = self.ask(SHORT)
        for field in unnamed if record["outcome"] == "ok" else ():
            before = self.route
            self._set(field, "max_tokens" if field == "limit" else True)
            again = self.ask(SHORT)
            if again["outcome"] == "ok":
                record = again
            else:
                self.route = before
                self.notes.append(f"{self.endpoint}: not with {field} ({_words(again)[:160]})")
        return record

    def _left(self) -> list[str]:
        """The optional fields that are still sent and not pinned."""
        on = {
            "limit": self.route.limit == "max_tokens",
            "continuous_usage_stats": self.route.stream_options and self.route.continuous_usage_stats,
        }
        return [f for f in _OPTIONAL if f not in self.pins and on.get(f, getattr(self.route, f))]

    def _set(self, field: str, value: Any) -> None:
        if field not in self.pins:
            self.route = replace(self.route, **{field: value})

    def _names(self, error: str, field: str) -> bool:
        """Whether a refusal speaks of a field that was sent."""
        word = "max_tokens" if field == "limit" else field
        return re.search(rf"(?<![\w]){word}(?![\w])", error) is not None

    def _read(self, record: dict[str, Any]) -> None:
        """What a good answer shows: whether its length is the one asked for, and where its tokens are counted."""
        short = self.route.exact_lengths and _fell_short(record)
        if short:
            self.notes.append(
                f"{self.endpoint}: ignore_eos and min_tokens do nothing (an answer ended before {PROBE_TOKENS} tokens)"
            )
            self._set("ignore_eos", False)
            self._set("min_tokens", False)
        if len(record["chunk_s"]) < 8:
            record = longer if (longer := self.ask(LONG))["outcome"] == "ok" else record
        self._set("usage", record["usage"])
        self._set("finish_reason", record["finish_reason"] is not None)
        if self.endpoint == "completions" and "token_ids" not in self.pins:
            self._set("token_ids", self._takes_ids())

    def _takes_ids(self) -> bool:
        """Whether prompts may be token ids, and are taken as such: twice as many of them count for so many more."""
        one, two = self.ask(_IDS, tokens=2), self.ask(_IDS * 2, tokens=2)
        if one["outcome"] != "ok" or two["outcome"] != "ok":
            return False
        counts = one["prompt_tokens"], two["prompt_tokens"]
        if None in counts or counts[0] == counts[1]:
            return True  # a server that counts no prompts, or each the same, does not say
        if counts[1] - counts[0] != len(_IDS):
            self.notes.append(f"{self.endpoint}: token-id prompts are taken, but not as {len(_IDS)} tokens each")
            return False
        return True


def _fell_short(record: dict[str, Any]) -> bool:
    tokens = record["output_tokens"]
    return record["finish_reason"] != "length" and (tokens is None or tokens < PROBE_TOKENS)


def _words(record: dict[str, Any]) -> str:
    status = f"HTTP {record['http_status']}: " if record["http_status"] not in (None, 200) else ""
    return plain(f"{status}{record['error'] or record['outcome']}")
