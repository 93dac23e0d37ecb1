"""HAProxy's runtime interface: one command, one answer, over its socket; its statistics as numbers."""

import contextlib
import csv
import io
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import NotRunning, RuntimeRefused

TIMEOUT_S = 5.0
CODES = ("2xx", "3xx", "4xx", "5xx")


@dataclass(frozen=True)
class Row:
    """One server as HAProxy sees it. Counters are since its start; absent ones are 0, as HAProxy counts.

    `unconnected`: HAProxy's name for how its own check fails, of a server that is down for it.
    """

    backend: str
    name: str
    status: str
    weight: int
    sessions: int
    attempts: int
    failures: int
    retries: int
    bytes_out: int
    agent_words: str
    waiting: int = 0
    unconnected: str | None = None
    answers: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_up(self) -> bool:
        """Whether it takes requests."""
        return self.status.startswith(("UP", "no check"))


class Runtime:
    """The runtime interface behind a socket. Raises NotRunning when nobody answers there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, command: str) -> str:
        """What HAProxy answers to one command."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(TIMEOUT_S)
                connection.connect(str(self.path))
                connection.sendall(command.encode() + b"\n")
                parts = []
                while part := connection.recv(1 << 16):
                    parts.append(part)
        except OSError as error:
            raise NotRunning(f"HAProxy does not answer at {self.path}: {error.strerror or error}.") from None
        return b"".join(parts).decode("utf-8", "replace").strip()

    def tell(self, command: str, *expected: str) -> None:
        """Give a command that has nothing to say but `expected`. Raises RuntimeRefused with what it said instead."""
        said = self.ask(command)
        if said and not said.startswith(expected or ("\0",)):
            raise RuntimeRefused(f"HAProxy refused `{' '.join(command.split()[:3])} …`: {said}")

    def add(self, backend: str, name: str, words: str) -> None:
        """A new server, which takes requests once check and agent say so."""
        self.tell(f"add server {backend}/{name} {words} disabled", "New server registered")
        for command in ("enable health", "enable agent", "enable server"):
            self.tell(f"{command} {backend}/{name}")

    def remove(self, backend: str, name: str) -> None:
        """Take a server out for good; it must have no request left."""
        self.tell(f"disable agent {backend}/{name}")
        self.tell(f"set server {backend}/{name} state maint")
        self.cut(backend, name)
        self.tell(f"del server {backend}/{name}", "Server deleted")

    def cut(self, backend: str, name: str) -> None:
        """End the requests that are at a server: those that have not been answered yet go to another."""
        self.tell(f"shutdown sessions server {backend}/{name}")

    def entry(self, map_path: Path, key: str, value: str | None) -> None:
        """Put a key into a map, or take it out (None)."""
        with contextlib.suppress(RuntimeRefused):  # it is not there yet
            self.tell(f"del map {map_path} {key}")
        if value is not None:
            self.tell(f"add map {map_path} {key} {value}")

    def tracked(self, table: str, key: str) -> int:
        """How many requests that count under a key of a table are in work."""
        said = self.ask(f"show table {table} key {key}")
        found = re.search(r"conn_cur=(\d+)", said)
        return int(found[1]) if found else 0

    def text(self, map_path: Path, key: str, value: str) -> None:
        """Another text under a key of a map."""
        escaped = value.replace("\\", "\\\\").replace(" ", "\\ ").replace(";", "\\;")
        self.tell(f"set map {map_path} {key} {escaped}")

    def rows(self) -> dict[tuple[str, str], Row]:
        """(backend, server) → how it stands; BACKEND is the sum of all."""
        return parse(self.ask("show stat"))


def parse(page: str) -> dict[tuple[str, str], Row]:
    """The rows of `show stat`. Raises NotRunning when it is something else."""
    found: dict[tuple[str, str], Row] = {}
    try:
        for line in csv.DictReader(io.StringIO(page.removeprefix("# "))):
            if line["svname"] != "FRONTEND" and line["pxname"].startswith("model."):
                found[line["pxname"], line["svname"]] = _row(line)
    except (KeyError, ValueError, TypeError) as error:
        raise NotRunning(f"HAProxy's statistics cannot be read ({error}).") from None
    return found


def _row(line: Mapping[str, str]) -> Row:
    def number(key: str) -> int:
        return int(line.get(key) or 0)

    check = (line.get("check_status") or "").removeprefix("* ")
    fails = check.startswith(("L4", "L6", "L7")) and "OK" not in check
    return Row(
        backend=line["pxname"],
        name=line["svname"],
        status=line["status"],
        weight=number("weight"),
        sessions=number("scur"),
        attempts=number("lbtot"),
        # An attempt that was repeated elsewhere is in no count of answers, only in that of retries.
        failures=number("wretr") + number("eresp") + number("hrsp_5xx") + number("srv_abrt"),
        retries=number("wretr"),
        bytes_out=number("bout"),
        agent_words=line.get("last_agt") or "",
        waiting=number("qcur"),
        unconnected=check if fails and line["status"].startswith("DOWN") else None,
        answers={code: count for code in CODES if (count := number(f"hrsp_{code}"))},
    )
