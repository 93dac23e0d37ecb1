"""A server that already runs and is not ours: found, asked for its dialect, and held against the plan's loads."""

import contextlib
import re
import tomllib
from collections.abc import Iterator
from datetime import date, time
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl

from bench.client import dialect as dialects
from bench.client.dialect import Dialect
from bench.client.pages import fetch, models, tokens
from bench.client.probe import ProbeError, learn
from bench.client.target import Target as Address
from bench.client.verdict import plain
from bench.errors import PlanError, TargetError
from bench.load.loadfile import open_target
from bench.plans.loads import Load
from bench.plans.plan import validate_target
from bench.plans.tables import RunningServer
from bench.plans.workload import Vocabulary, prompts
from bench.prompts.requests import open_file
from bench.target import CannotServe, Served, Target

_LOOKED_AT = 500  # so many of a load's requests show which endpoints it needs
_ORDINARY_IDS = 50  # fewer different tokens than this make no prompts
# By the names that vLLM and SGLang, llama.cpp and TGI give the text.
_ENDPOINT_URL = re.compile(r"(?P<base>.+?)(?P<v1>/v1)?(?P<path>/(?P<chat>chat/)?completions)/?")
_SECRET = re.compile(r"(^|[-_])(key|token|secret|sig|signature|code|password)$", re.IGNORECASE)
_TEXTS = ("query", "headers")  # tables of texts
_TOKENIZE = ("/tokenize", "/extras/tokenize")


def settings_of(
    given: RunningServer | None, url: str | None, api_key_env: str | None, more: list[str]
) -> RunningServer:
    """What has to be said to reach a server: the plan's [target], with what the command line says over it.

    `more`: "KEY=VALUE" for any key of [target], dotted ("dialect.ignore_eos=false"); VALUE as in TOML, or plain text.
    What is a name or a text there stays one (query.api-version=2024-10-21). A URL that names an endpoint
    (…/v1/chat/completions) sets `endpoint` and `path`, one with a query (?api-version=…) sets `query`. Raises
    PlanError, also for a query that holds a key: a run's folder tells how its server was reached.
    """
    document: dict[str, Any] = given.model_dump(exclude_unset=True) if given else {}
    document |= {name: value for name, value in (("url", url), ("api_key_env", api_key_env)) if value is not None}
    for text in more:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise PlanError(f"--with {text}: expected KEY=VALUE, e.g. endpoint=chat or dialect.ignore_eos=false.")
        table, *parts = document, *key.split(".", 1)
        if len(parts) == 2:
            table = table.setdefault(parts[0], {})
        if not isinstance(table, dict):
            raise PlanError(f"--with {text}: `{parts[0]}` is not a table.")
        table[parts[-1]] = _value(value, text=table is not document and parts[0] in _TEXTS)
    address, _, query = (document.get("url") or "").partition("?")
    if query:
        stated = dict(parse_qsl(query.partition("#")[0], keep_blank_values=True))
        document |= {"url": address, "query": stated | document.get("query", {})}
    if secret := next((name for name in document.get("query", {}) if _SECRET.search(str(name))), None):
        raise PlanError(
            f"The query's {secret!r} looks like a key, and a query is written into the run's folder. Put its value "
            "into an environment variable and send it as a header: --api-key-env NAME, or --with headers.HEADER=NAME."
        )
    if named := _ENDPOINT_URL.fullmatch(document.get("url") or ""):
        kind = "chat" if named["chat"] else "completions"
        document |= {"url": named["base"], "endpoint": kind, "path": f"{named['v1'] or ''}{named['path']}"}
    settings = validate_target(document, source="--target" if url or more else "[target]")
    if not settings.url:
        raise PlanError("[target] has no `url`: give the server's address there, or with --target.")
    return settings


def _value(written: str, *, text: bool) -> Any:
    """A value as in TOML, or plain text: whatever is no TOML, a date (nothing here is one), and all where `text`."""
    try:
        found = tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        return written
    return written if isinstance(found, date | time) or (text and not isinstance(found, str)) else found


def find(settings: RunningServer) -> Target:
    """The server at `settings.url`: its model, its dialect, its vocabulary. Raises TargetError with what to check."""
    url = settings.url or ""
    to = _address(settings)
    try:
        found = learn(
            to,
            model=settings.model,
            endpoint=settings.endpoint,
            path=settings.path,
            pins=settings.dialect.pins(),
            extra_body=settings.extra_body,
        )
    except ProbeError as error:
        raise TargetError(f"--target {url}: {plain(str(error), to.secrets)}") from error
    path, vocabulary = _vocabulary(to, found.model)
    return _target(settings, found.model, found.max_model_len, found.dialect.with_tokenize(path), vocabulary)


@contextlib.contextmanager
def running_server(remote: dict[str, Any]) -> Iterator[Served]:
    """The server of a run's document (`describe`). Raises CannotServe when it does not answer any more."""
    try:
        yield Served(again(remote), None, None)
    except TargetError as error:
        raise CannotServe("failed", str(error)) from error


def again(remote: dict[str, Any]) -> Target:
    """The server of a run's document, in the dialect that was learnt when the run began; its model as it is now.

    Raises TargetError when it does not answer.
    """
    if "dialect" not in remote:  # a run from before dialects were learnt
        return find(RunningServer(url=remote["base_url"], api_key_env=remote.get("api_key_env")))
    settings = RunningServer.model_validate(remote["settings"] | {"url": remote["base_url"]})
    to = _address(settings)
    try:
        listed = models(fetch(to, "/v1/models").document())
    except OSError as error:
        raise TargetError(
            f"--target {settings.url}: no answer ({error}). Is the server up, and is this its address?"
        ) from error
    names = [str(entry["id"]) for entry in listed]
    model = remote["model"] if settings.model or not names or remote["model"] in names else names[0]
    dialect = Dialect.of(remote["dialect"])
    vocabulary = _vocabulary(to, model)[1] if dialect.tokenize else None
    return _target(settings, model, remote["max_model_len"], dialect, vocabulary)


def describe(target: Target) -> dict[str, Any]:
    """What run.json says about a target: enough to measure it again, and what was learnt, in a line for readers."""
    return {
        "base_url": target.base_url,
        "api_key_env": target.api_key_env,
        "model": target.model,
        "max_model_len": target.max_model_len,
        "settings": target.settings.model_dump(mode="json"),
        "dialect": target.dialect.as_dict(),
        "learnt": dialects.line(target.dialect),
    }


def refusals(target: Target, loads: tuple[Load, ...]) -> dict[str, str]:
    """Why which loads cannot be carried by this server, by name, each with what would work.

    Raises PlanError for a prompts file that cannot be used.
    """
    found: dict[str, str] = {}
    for load in loads:
        for body in _bodies(load):
            endpoint = target.endpoint_of(body)
            why = dialects.refused(target.dialect, endpoint, load.scenario)
            route = target.dialect.route(endpoint)
            if why is None and route and isinstance(body.get("prompt"), list) and not route.token_ids:
                why = f"its prompts are token ids and this server takes text only ({endpoint})"
            if why is not None:
                found[load.name] = why
                break
    return found


def _bodies(load: Load) -> Iterator[dict[str, Any]]:
    """Enough of a load's requests to see which endpoints it needs."""
    if load.scenario != "file":
        yield from islice(prompts(load, _LOOKED_AT, None, repeat=1), _LOOKED_AT)
        return
    for entry in islice(open_file(load), _LOOKED_AT):
        yield {
            "endpoint": load.endpoint or ("completions" if entry.messages is None else "chat"),
            "prompt": entry.prompt,
        }


def _target(
    settings: RunningServer, model: str, max_model_len: int | None, dialect: Dialect, vocabulary: Vocabulary | None
) -> Target:
    to = _address(settings)
    scheme = "https" if to.tls else "http"
    return Target(
        f"{scheme}://{to.authority}{to.prefix}",
        model,
        settings.api_key_env,
        vocabulary=vocabulary and vocabulary.spoken(token_ids=_takes_ids(dialect, settings)),
        max_model_len=max_model_len,
        dialect=dialect,
        settings=settings,
    )


def _takes_ids(dialect: Dialect, settings: RunningServer) -> bool:
    return settings.endpoint != "chat" and dialect.completions is not None and dialect.completions.token_ids


def _address(settings: RunningServer) -> Address:
    try:
        return open_target(
            settings.url or "",
            settings.api_key_env,
            headers_env=settings.headers,
            query=settings.query,
            verify_tls=settings.verify,
            ca_path=settings.ca,
        )
    except ValueError as error:
        raise TargetError(f"--target {settings.url}: {error}") from error


def _vocabulary(to: Address, model: str) -> tuple[str | None, Vocabulary | None]:
    """The path of the server's tokenizer and what it yields, so that prompts have the lengths asked for."""
    for path in _TOKENIZE:
        try:
            vocabulary = Vocabulary.sampled(partial(tokens, to, path, model))
        except (OSError, ValueError, TypeError):
            continue
        if len(vocabulary.ordinary_ids) >= _ORDINARY_IDS:
            return path, vocabulary
    return None, None
