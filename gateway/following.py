"""One name, several servers: every address that a host has is a server of its own, followed as it changes.

For names that stand for replicas: a headless Service in Kubernetes, a scaled service in compose, several DNS entries.
"""

import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from gateway.settings import Settings, parse

Resolve = Callable[[str, int], tuple[str, ...]]
LOOK_S = 2.0
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there


def addresses(host: str, port: int) -> tuple[str, ...]:
    """The addresses that a name has now, sorted; none when it has none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(sorted({str(one[4][0]) for one in found}))


def follows(settings: Settings) -> bool:
    """Whether there is a name to follow."""
    return any(one.each for one in settings.server)


def expanded(settings: Settings, resolve: Resolve | None = None, before: Settings | None = None) -> Settings:
    """The settings with a server for each address of those that say `each`, named after it.

    A name without an address keeps the servers that it had `before`: a name server that fails is no reason to have
    none. Where there were none either, a place that nobody answers at stands for them, and users are told.
    """
    if not follows(settings):
        return settings
    values = settings.model_dump()
    servers: list[dict[str, Any]] = []
    for one in values["server"]:
        servers += _several(one, resolve or addresses, before) if one["each"] else [one]
    values["server"] = servers
    return parse(values, "the settings with the addresses of now")


def _several(one: dict[str, Any], resolve: Resolve, before: Settings | None) -> list[dict[str, Any]]:
    parts = urlsplit(one["url"])
    port = parts.port or 80
    found = [
        {
            **one,
            "name": f"{one['name']}-{address.replace(':', '-')}"[:64],
            "url": f"http://{f'[{address}]' if ':' in address else address}:{port}",
            "each": False,
        }
        for address in resolve(parts.hostname or "", port)
    ]
    kept = [
        other.model_dump()
        for other in (before.server if before else ())
        if other.model == one["model"] and other.name.startswith(f"{one['name']}-")
    ]
    return found or kept or [{**one, "name": f"{one['name']}-none"[:64], "url": NOWHERE, "each": False}]
