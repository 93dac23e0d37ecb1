"""What a server takes and gives: which endpoints, which fields of a request, and where its token counts stand. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

Usage = Literal["chunk", "difference", "end", "never"]


@dataclass(frozen=True)
class Route:
    """One endpoint: its path behind the target's own, and what a request to it may hold.

    `limit`: the field that bounds the answer. `exact_lengths`: whether an answer has the tokens asked for, by
    `ignore_eos` or `min_tokens`; without, its length is what the model makes of it. `usage`: where the answer counts
    its tokens: in every chunk (`chunk`: so far, `difference`: its own), at the end, or never. `finish_reason`:
    whether an answer says why it ended.
    """

    path: str
    limit: str = "max_tokens"
    token_ids: bool = True
    ignore_eos: bool = True
    min_tokens: bool = True
    temperature: bool = True
    stream_options: bool = True
    continuous_usage_stats: bool = True
    usage: Usage = "chunk"
    finish_reason: bool = True

    @property
    def exact_lengths(self) -> bool:
        return self.ignore_eos or self.min_tokens

    def body(self, model: str, max_tokens: int, *, temperature: float, ignore_eos: bool) -> dict[str, Any]:
        """A streaming request's fields, without what is asked."""
        found: dict[str, Any] = {"model": model, self.limit: max_tokens}
        if self.temperature:
            found["temperature"] = temperature
        if ignore_eos and self.ignore_eos:
            found["ignore_eos"] = True
        elif ignore_eos and self.min_tokens:
            found["min_tokens"] = max_tokens
        found["stream"] = True
        if self.stream_options:
            found["stream_options"] = {"include_usage": True}
            if self.continuous_usage_stats:
                found["stream_options"]["continuous_usage_stats"] = True
        return found


@dataclass(frozen=True)
class Dialect:
    """A server's dialect as a probe found it or a plan pinned it; `server` is what it says it is, None if nothing."""

    server: str | None = None
    completions: Route | None = None
    chat: Route | None = None
    hidden_states: bool = False
    metrics: bool = False
    tokenize: str | None = None
    models: bool = False
    notes: tuple[str, ...] = ()

    def route(self, endpoint: str) -> Route | None:
        return {"completions": self.completions, "chat": self.chat}.get(endpoint)

    @property
    def endpoints(self) -> tuple[str, ...]:
        names = [name for name in ("completions", "chat") if self.route(name)]
        return (*names, *(["hidden_states"] if self.hidden_states else []))

    def with_tokenize(self, path: str | None) -> Dialect:
        return replace(self, tokenize=path)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes)}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Dialect:
        """The dialect that `as_dict` gave."""
        known = {name: document[name] for name in (f.name for f in fields(cls)) if name in document}
        for name in ("completions", "chat"):
            known[name] = Route(**known[name]) if known.get(name) else None
        return cls(**{**known, "notes": tuple(known.get("notes") or ())})


# vLLM's own, in the versions that `nbridge serve` starts.
VLLM = Dialect(
    server="vLLM",
    completions=Route("/v1/completions"),
    chat=Route("/v1/chat/completions", token_ids=False),
    hidden_states=True,
    metrics=True,
    tokenize="/tokenize",
    models=True,
)


def pinned(found: Dialect, pins: Mapping[str, Any]) -> Dialect:
    """A dialect with a plan's own fields over what the probe found, in every endpoint that it has."""
    own = {name: value for name, value in pins.items() if name in {f.name for f in fields(Route)}}
    routes: dict[str, Any] = {
        name: replace(route, **{k: v for k, v in own.items() if k != "token_ids" or name == "completions"})
        for name in ("completions", "chat")
        if (route := found.route(name))
    }
    return replace(found, **routes)


WHERE = {
    "chunk": "usage in every chunk",
    "difference": "usage of each chunk alone",
    "end": "usage at the end",
    "never": "no usage",
}


def said(endpoint: str, route: Route) -> str:
    """What was learnt of one endpoint, for a reader."""
    takes = ["token-id prompts"] if route.token_ids and endpoint == "completions" else []
    takes += [route.limit, *(name for name in ("ignore_eos", "min_tokens", "temperature") if getattr(route, name))]
    if route.stream_options:
        takes.append("continuous_usage_stats" if route.continuous_usage_stats else "stream_options")
    return f"{endpoint} ({', '.join(takes)}; {WHERE[route.usage]})"


def line(dialect: Dialect) -> str:
    """What was learnt of a server, in one line for a reader."""
    parts = [said(name, route) for name in ("completions", "chat") if (route := dialect.route(name))]
    has = [path for path, there in (("/metrics", dialect.metrics), ("/v1/models", dialect.models)) if there]
    has += [dialect.tokenize] if dialect.tokenize else []
    has += ["/v1/hidden_states"] if dialect.hidden_states else []
    parts.append(f"has {', '.join(has)}" if has else "has none of /metrics, /tokenize, /v1/models")
    return f"{dialect.server or 'a server that does not say what it is'}: {'; '.join(parts)}"


def refused(dialect: Dialect, endpoint: str, scenario: str) -> str | None:
    """Why a load of this scenario cannot be carried, and what would work; None if it can."""
    if endpoint in dialect.endpoints:
        return None
    if endpoint == "hidden_states":
        return (
            "this server has no /v1/hidden_states; `nbridge serve` starts one that has, or add the plugin to your vLLM"
        )
    if not dialect.endpoints:
        return "this server answers neither /v1/chat/completions nor /v1/completions"
    if endpoint == "completions" and dialect.chat:
        return (
            f'scenario = "{scenario}" asks for text completions and this server answers chat only: '
            'use scenario = "chat", or endpoint = "chat" in [target] to send the same prompts as chat messages'
        )
    if endpoint == "chat" and dialect.completions:
        return f'scenario = "{scenario}" is a chat and this server answers text completions only: use "completion"'
    return f"this server has no endpoint for {endpoint}"


def dumps(body: Mapping[str, Any]) -> bytes:
    """A request's body as bytes on the wire."""
    return json.dumps(body, separators=(",", ":")).encode()
