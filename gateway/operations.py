"""What is done to a running gateway: servers added, drained and removed; how it stands.

Each change is written to the overlay first, so that it outlives HAProxy and the agent, and then told to HAProxy.
"""

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gateway import adapters, fleet
from gateway.agent.process import INPUT, STATUS
from gateway.cloud.ledger import FILE, NANO, spent, utc_now
from gateway.errors import AdapterRefused, GatewayError, NotRunning, SettingsError
from gateway.haproxy.render import ADAPTERS, USERS_FRONT, backend_name, server_words, weights
from gateway.haproxy.runtime import Row, Runtime
from gateway.settings import Adapter, Server, Settings, parse
from monitoring.scrape.canary import Canary

APPLIED_S = 10.0
POLL_S = 0.1
STALE_S = 10.0
CANARY_S = 60.0


def _input(data: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((data / INPUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise NotRunning(f"No gateway runs in {data}; --data names its folder.") from None
    return document


def runtime(data: Path) -> Runtime:
    """The runtime interface of the gateway in a data folder. Raises NotRunning."""
    return Runtime(Path(_input(data)["socket"]))


def now(data: Path) -> Settings:
    """The settings of the gateway in a data folder, with what was changed while it runs. Raises NotRunning."""
    return fleet.effective(parse(_input(data)["settings"], str(data / INPUT)), fleet.read(data))


def status(data: Path) -> dict[str, Any]:
    """How every server stands, by the agent and by HAProxy; the models that nobody answers for. Raises NotRunning."""
    settings, rows = now(data), runtime(data).rows()
    try:
        document: dict[str, Any] = json.loads((data / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise NotRunning(f"The agent of the gateway in {data} has said nothing yet.") from None
    for name, one in document["servers"].items():
        one["haproxy"] = row.status if (row := _row(settings, rows, name)) else None
        one.pop("standing", None)
    document["clouds"] = _clouds(data, settings)
    age_s = time.time() - document["at"]
    document["agent_is_silent_for_s"] = round(age_s, 1) if age_s > STALE_S else None
    document["without_server"] = [
        model
        for model in settings.models
        if not any(
            row.is_up
            for (backend, name), row in rows.items()
            if backend == backend_name(settings, model) and name != "BACKEND"
        )
    ]
    return document


def _clouds(data: Path, settings: Settings) -> dict[str, dict[str, float | None]]:
    """What each cloud has spent this day and this month (UTC) and may spend, in dollars."""
    try:
        known = spent(data / FILE, utc_now()) if settings.cloud else {}
    except sqlite3.Error as error:
        raise NotRunning(f"What clouds have spent cannot be read: {error}.") from None
    found: dict[str, dict[str, float | None]] = {}
    for one in settings.cloud:
        day, month, reserved = (nano_usd / NANO for nano_usd in known.get(one.name, (0, 0, 0)))
        found[one.name] = {
            "day_usd": day,
            "month_usd": month,
            "reserved_usd": reserved,
            "usd_per_day": one.usd_per_day,
            "usd_per_month": one.usd_per_month,
        }
    return found


def money(clouds: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """A line for each cloud: what it has spent of what it may."""
    lines = []
    for name, one in clouds.items():
        periods = (("day", one["day_usd"], one["usd_per_day"]), ("month", one["month_usd"], one["usd_per_month"]))
        parts = [f"{spent_usd:.4f} of {limit:g} USD this {word}" for word, spent_usd, limit in periods if limit]
        lines.append(f"cloud {name}: {', '.join(parts)} (UTC)")
    return lines


def _row(settings: Settings, rows: dict[tuple[str, str], Row], name: str) -> Row | None:
    one = next((one for one in settings.server if one.name == name), None)
    return rows.get((backend_name(settings, one.model), name)) if one else None


def add(data: Path, server: Server) -> None:
    """Let a server in. Raises SettingsError when its name is taken or nobody serves its model yet."""
    settings = now(data)
    if server.name in {one.name for one in settings.server}:
        raise SettingsError(f"The gateway has a server {server.name!r} already; choose another name.")
    if not settings.servers_of(server.model):
        raise SettingsError(
            f"The gateway knows no model {server.model!r} ({', '.join(settings.models)}); a new model goes into the "
            "settings file, and SIGHUP lets the gateway read it."
        )
    before = fleet.read(data)
    new = fleet.effective(settings, before.with_server(server))
    backend = backend_name(new, server.model)
    peers = new.servers_of(server.model)
    words = server_words(server, backend, weights(peers)[server.name], int(_input(data)["port"]))
    fleet.change(data, lambda overlay: overlay.with_server(server))
    try:
        runtime(data).add(backend, server.name, words)
        for one in peers:  # of which one may be the largest now
            runtime(data).tell(f"set server {backend}/{one.name} weight {weights(peers)[one.name]}")
    except GatewayError:
        fleet.change(data, lambda overlay: overlay.without_server(server.name, in_file=False))
        raise


def drain(data: Path, name: str, *, on: bool = True) -> None:
    """Let a server take no new requests (or again), and wait until HAProxy knows. Raises SettingsError."""
    one = _known(now(data), name)
    fleet.change(data, lambda overlay: overlay.drain(name, on=on))
    if not wait(lambda: _is_done(data, one, on=on), APPLIED_S):
        raise NotRunning(
            f"HAProxy has not heard of it after {APPLIED_S:g} s: does the agent run (nbridge gateway status)?"
        )


def remove(data: Path, name: str, deadline_s: float) -> int:
    """Drain a server, wait for its requests at most until the deadline, take it out; how many were cut off."""
    settings = now(data)
    one = _known(settings, name)
    if len(settings.servers_of(one.model)) == 1:
        raise SettingsError(
            f"{name} is the last server of the model {one.model!r}; take the model out of the settings file, and "
            "SIGHUP lets the gateway read it."
        )
    drain(data, name)
    wait(lambda: sessions(data, one) == 0, deadline_s)
    cut = sessions(data, one)
    in_file = name not in {added.name for added in fleet.read(data).added}
    fleet.change(data, lambda overlay: overlay.without_server(name, in_file=in_file))
    backend = backend_name(settings, one.model)
    asked = runtime(data)
    if not wait(lambda: _deleted(asked, backend, name), APPLIED_S):
        asked.remove(backend, name)  # says why not
    return cut


def load_adapter(data: Path, adapter: Adapter) -> list[str]:
    """Have every server of a model load an adapter, ask each for a token by its name, then let users ask for it.

    Servers that are out get it by the agent before they come back; returns the names of those that have it now. Where
    one refuses it, it is taken from the others again and AdapterRefused raised. Raises SettingsError for a name that is
    taken or a model that has no servers.
    """
    settings, rows = now(data), runtime(data).rows()
    fleet.effective(settings, fleet.Overlay(adapters=(adapter,)))
    if adapter.name in {one.name for one in settings.adapter}:
        raise SettingsError(
            f"The gateway has an adapter {adapter.name!r} already; unload it first, or load the new one under another."
        )
    up = [one for one in settings.servers_of(adapter.model) if (row := _row(settings, rows, one.name)) and row.is_up]
    if not up:
        raise NotRunning(f"No server of the model {adapter.model!r} is up, so none can load an adapter.")
    done: list[Server] = []
    try:
        for one in up:
            adapters.load(one, adapter)
            done.append(one)
            beat = Canary(one.url, model=adapter.name, api_key_env=one.api_key_env, deadline_s=CANARY_S).ask()
            if not beat.up and beat.failed != "unserved":
                raise AdapterRefused(f"{one.name} loaded the adapter {adapter.name} and gave no token: {beat.reason}.")
        fleet.change(data, lambda overlay: overlay.with_adapter(adapter))
        runtime(data).entry(_folder(data) / ADAPTERS, adapter.name, adapter.model)
    except BaseException:
        fleet.change(data, lambda overlay: overlay.without_adapter(adapter.name))
        for one in done:
            with contextlib.suppress(AdapterRefused):
                adapters.unload(one, adapter.name)
        raise
    return [one.name for one in done]


def unload_adapter(data: Path, name: str, deadline_s: float) -> tuple[int, list[str]]:
    """Let nobody ask for an adapter any more, wait for the requests that have, at most until the deadline, unload it.

    Returns how many were still in work, and what servers said that did not unload it. Raises SettingsError.
    """
    settings = now(data)
    one = next((one for one in settings.adapter if one.name == name), None)
    if one is None:
        known = ", ".join(other.name for other in settings.adapter) or "none"
        raise SettingsError(f"The gateway has no adapter {name!r}; it has {known}.")
    if name not in {other.name for other in fleet.read(data).adapters}:
        raise SettingsError(f"The adapter {name!r} stands in the settings file; take it out there and send SIGHUP.")
    asked = runtime(data)
    asked.entry(_folder(data) / ADAPTERS, name, None)
    wait(lambda: asked.tracked(USERS_FRONT, name) == 0, deadline_s)
    left = asked.tracked(USERS_FRONT, name)
    fleet.change(data, lambda overlay: overlay.without_adapter(name))
    refused = []
    for server in settings.servers_of(one.model):
        try:
            adapters.unload(server, name)
        except AdapterRefused as error:
            refused.append(str(error))
    return left, refused


def _folder(data: Path) -> Path:
    """Where the maps of the configuration lie that runs now."""
    return Path(_input(data)["folder"])


def sessions(data: Path, one: Server) -> int:
    """The requests that are at a server now."""
    row = _row(now(data), runtime(data).rows(), one.name)
    return row.sessions if row else 0


def _is_done(data: Path, one: Server, *, on: bool) -> bool:
    """Whether HAProxy sends a server nothing (`on`; it may be down as well), or no longer drains it."""
    row = _row(now(data), runtime(data).rows(), one.name)
    status = row.status if row else "MAINT"
    return not status.startswith("UP" if on else "DRAIN")


def _deleted(asked: Runtime, backend: str, name: str) -> bool:
    """Whether a server could be taken out; HAProxy wants the last of its connections to be gone first."""
    try:
        asked.remove(backend, name)
    except GatewayError:
        return (backend, name) not in asked.rows()
    return True


def _known(settings: Settings, name: str) -> Server:
    found = next((one for one in settings.server if one.name == name), None)
    if found is None:
        raise SettingsError(f"The gateway has no server {name!r}; it has {', '.join(o.name for o in settings.server)}.")
    return found


def wait(is_so: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until something is so; whether it was in time."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True
