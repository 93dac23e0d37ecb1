"""What has been changed while the gateway runs: servers added and removed, drained ones, shares. Kept in a file.

The settings file stays the user's; this overlay lies in the data folder and survives restarts of every part.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway.errors import SettingsError
from gateway.settings import Adapter, Server, Settings, parse, parse_server

OVERLAY = "changes.json"


@dataclass(frozen=True)
class Overlay:
    """`shares`: server → the share of its weight that it is to have, from above 0 to 1."""

    added: tuple[Server, ...] = ()
    removed: tuple[str, ...] = ()
    drained: tuple[str, ...] = ()
    shares: dict[str, float] = field(default_factory=dict)
    adapters: tuple[Adapter, ...] = ()

    def with_adapter(self, adapter: Adapter) -> "Overlay":
        return replace(self.without_adapter(adapter.name), adapters=(*self.adapters, adapter))

    def without_adapter(self, name: str) -> "Overlay":
        return replace(self, adapters=tuple(one for one in self.adapters if one.name != name))

    def with_server(self, server: Server) -> "Overlay":
        kept = tuple(one for one in self.added if one.name != server.name)
        return replace(self._forgotten(server.name), added=(*kept, server))

    def without_server(self, name: str, *, in_file: bool) -> "Overlay":
        kept = tuple(one for one in self.added if one.name != name)
        gone = self._forgotten(name)
        return replace(gone, added=kept, removed=(*gone.removed, name) if in_file else gone.removed)

    def drain(self, name: str, *, on: bool = True) -> "Overlay":
        kept = tuple(one for one in self.drained if one != name)
        return replace(self, drained=(*kept, name) if on else kept)

    def share(self, name: str, value: float) -> "Overlay":
        kept = {other: one for other, one in self.shares.items() if other != name}
        return replace(self, shares=kept if value >= 1 else {**kept, name: value})

    def _forgotten(self, name: str) -> "Overlay":
        return replace(
            self,
            removed=tuple(one for one in self.removed if one != name),
            drained=tuple(one for one in self.drained if one != name),
            shares={other: one for other, one in self.shares.items() if other != name},
        )


def effective(settings: Settings, overlay: Overlay) -> Settings:
    """The settings with the changes in them. Raises SettingsError when the two contradict."""
    in_file = {one.name for one in settings.server}
    servers = [one for one in settings.server if one.name not in overlay.removed]
    servers += [one for one in overlay.added if one.name not in in_file]
    values = settings.model_dump()
    values["server"] = [one.model_dump() for one in servers]
    known = {one.name for one in settings.adapter}
    values["adapter"] += tuple(one.model_dump() for one in overlay.adapters if one.name not in known)
    return parse(values, "the settings with what was changed while running")


def read(data: Path) -> Overlay:
    """The overlay of a data folder; an empty one when there is none. Raises SettingsError for a damaged one."""
    path = data / OVERLAY
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Overlay(
            added=tuple(parse_server(one, str(path)) for one in document["added"]),
            removed=tuple(document["removed"]),
            drained=tuple(document["drained"]),
            shares={str(name): float(value) for name, value in document["shares"].items()},
            adapters=tuple(Adapter.model_validate(one) for one in document.get("adapters", ())),
        )
    except FileNotFoundError:
        return Overlay()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{path}, which holds what was changed while the gateway ran, cannot be read ({error}); "
            "take it away to go on with the settings file alone."
        ) from None


@contextmanager
def changing(data: Path) -> Iterator[None]:
    """Hold the overlay for one change: two commands at once must not lose each other's."""
    with (data / f"{OVERLAY}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def change(data: Path, how: Callable[[Overlay], Overlay]) -> Overlay:
    """Change the overlay in one step; the new one."""
    with changing(data):
        new = how(read(data))
        write(data, new)
    return new


def write(data: Path, overlay: Overlay) -> None:
    document = asdict(replace(overlay, added=(), adapters=())) | {
        "added": [one.model_dump() for one in overlay.added],
        "adapters": [one.model_dump() for one in overlay.adapters],
    }
    replace_text(data / OVERLAY, json.dumps(document, indent=1) + "\n")


def replace_text(path: Path, text: str) -> None:
    """A file for the owner only, replaced in one step."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)
