"""The agent's process: `python -m gateway.agent.process DATA`. Started and watched by `nbridge gateway`."""

import asyncio
import contextlib
import json
import os
import sqlite3
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from gateway import fleet
from gateway.agent.looking import Watched
from gateway.agent.metrics import Against, Own, Seen, page
from gateway.agent.verdict import Standing, answer, budget_is_spent, is_busy, percent, silence_s, step
from gateway.cloud.ledger import FILE, Total, spent, totals, utc_now
from gateway.errors import GatewayError
from gateway.haproxy.answers import models_document
from gateway.haproxy.render import CONNECT_S, METRICS_SOCKET, TEXTS, backend_name, listed
from gateway.haproxy.runtime import Row, Runtime
from gateway.settings import Settings, parse

INPUT, STATUS = "agent.json", "status.json"
BUDGET_HALF_S = 5.0
READ_S = 0.5


class Agent:
    """Everything the agent knows. `look` is one round over all servers; `reply` answers one agent check."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.settings: Settings
        self.overlay = fleet.Overlay()
        self.watched: dict[str, Watched] = {}
        self.failed = threading.Event()  # a canary: the next look is due
        self._seen: tuple[float, ...] = ()
        self._pool = ThreadPoolExecutor(max_workers=64, thread_name_prefix="look")
        self._totals: deque[tuple[float, int, int]] = deque()
        self._told: dict[str, str] = {}
        self._down_s: dict[str, float] = {}
        self._problem: str | None = None
        self._rows: dict[tuple[str, str], Row] = {}
        self._looked_at = 0.0
        self._against: Against | None = None
        self.follow()
        self._resume()

    def follow(self) -> None:
        """Read the input and the overlay where they have changed."""
        changed = tuple(_changed_at(self.data / name) for name in (INPUT, fleet.OVERLAY))
        if changed == self._seen:
            return
        self._seen = changed
        document = json.loads((self.data / INPUT).read_text(encoding="utf-8"))
        self.port, self.texts = int(document["port"]), Path(document["folder"]) / TEXTS
        self.runtime = Runtime(Path(document["socket"]))
        self.overlay = fleet.read(self.data)
        self.settings = fleet.effective(parse(document["settings"], INPUT), self.overlay)
        self._against = _against(self.settings)
        self._told = {}
        kept = self.watched
        self.watched = {}
        for one in self.settings.server:
            backend = backend_name(self.settings, one.model)
            old = kept.get(one.name)
            if old is not None and (old.server, old.backend, old.rules) == (one, backend, self.settings.health):
                self.watched[one.name] = old
            else:
                self.watched[one.name] = Watched(one, backend, self.settings.health, self._pool, failed=self.failed)
            self.watched[one.name].take(self.settings.adapters_of(one.model))

    def _resume(self) -> None:
        """Take over where a former agent left off: HAProxy lets in again only what an agent calls up."""
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            document = json.loads((self.data / STATUS).read_text(encoding="utf-8"))
            if document["at_monotonic_s"] > time.monotonic():
                return  # the machine has been started anew since
            for name, one in document["servers"].items():
                if name in self.watched:
                    watched = self.watched[name]
                    watched.standing = Standing(**one["standing"])
                    watched.ejections = int(one["ejections"])
                    watched.tokens = tuple(one["tokens"]) if one["tokens"] else None

    def look(self) -> None:
        """One round: what HAProxy counted, what each server shows, where each stands."""
        try:
            self.follow()
            self._problem = None
        except (GatewayError, OSError, ValueError, LookupError) as error:
            self._problem = str(error)  # the old ones go on
        try:
            rows = self.runtime.rows()
        except GatewayError:
            rows = {}
        for name, one in self.watched.items():
            before, others = one.standing, self._others(one)
            others_silent = all(other.is_silent for other in others)
            signs = one.look(rows.get((one.backend, name)), others_silent=others_silent)
            is_last = not any(other.standing.kept is None for other in others)
            rules, now_s = self.settings.health, time.monotonic()
            one.standing = step(before, signs, now_s, rules, is_last=is_last, is_alone=not others)
            if one.standing.out != before.out:
                one.forget_attempts()
                one.ejections += one.standing.out
                _say(f"{name} is {'out: ' + str(one.standing.reason) if one.standing.out else 'in again'}")
            one.busy = is_busy(signs)
        self._rows, self._looked_at = rows, time.time()
        if rows:
            self._tell_haproxy(rows)
            self._cut_what_is_left()
        fleet.replace_text(self.data / STATUS, json.dumps(self.document(), indent=1) + "\n")

    def _others(self, one: Watched) -> list[Watched]:
        """The other servers of the model that take requests now."""
        return [
            other
            for name, other in self.watched.items()
            if other is not one
            and other.backend == one.backend
            and not other.standing.out
            and name not in self.overlay.drained
            and (other.row is None or other.row.status.startswith("UP"))
        ]

    def _tell_haproxy(self, rows: dict[tuple[str, str], Row]) -> None:
        """The retry budget and the joined list of models, where they have changed."""
        now_s = time.monotonic()
        sums = [row for (_, name), row in rows.items() if name == "BACKEND"]
        self._totals.append((now_s, sum(row.retries for row in sums), sum(row.attempts for row in sums)))
        while len(self._totals) > 1 and self._totals[1][0] <= now_s - 2 * BUDGET_HALF_S:
            self._totals.popleft()
        spent = budget_is_spent(self._halves(now_s), self.settings.limits.retry_share)
        told = {one.server.model: one.listed.get(one.server.model, {}) for one in self.watched.values() if one.listed}
        texts = {"retries": "off" if spent else "on", "models": models_document(listed(self.settings), told)}
        for key, text in texts.items():
            if self._told.get(key) != text:
                with contextlib.suppress(GatewayError):
                    self.runtime.text(self.texts, key, text)
                    self._told[key] = text

    def _cut_what_is_left(self) -> None:
        """End what is still at servers that are down, so that it is repeated elsewhere.

        Not at once, as `on-marked-down shutdown-sessions` does it: who is being connected then is closed without an
        answer, whereas a connection that fails is repeated. After CONNECT_S nobody is being connected any more. A
        server that hangs is given as long again: should it only have been starved, its streams go on.
        """
        now_s = time.monotonic()
        for name, one in self.watched.items():
            if one.row is None or not one.row.status.startswith("DOWN"):
                self._down_s.pop(name, None)
                continue
            down_s = now_s - self._down_s.setdefault(name, now_s)
            is_starved_maybe = one.standing.hangs and one.silent_s < 2 * silence_s(one.rules)
            if one.row.sessions and down_s > CONNECT_S and not is_starved_maybe:
                with contextlib.suppress(GatewayError):
                    self.runtime.cut(one.backend, name)

    def _halves(self, now_s: float) -> list[tuple[int, int]]:
        """(retries, attempts) of the last seconds and of those before; empty until both have passed."""
        middle = next((one for one in reversed(self._totals) if one[0] <= now_s - BUDGET_HALF_S), None)
        first, last = self._totals[0], self._totals[-1]
        if middle is None or first[0] > now_s - 2 * BUDGET_HALF_S:
            return []
        pairs = ((middle, last), (first, middle))
        return [(new[1] - old[1], new[2] - old[2]) for old, new in pairs]

    def reply(self, asked: str) -> str:
        """The answer to one agent check; nothing for a server that is not known (any more)."""
        one = self.watched.get(asked.partition("/")[2])
        if one is None or one.backend != asked.partition("/")[0]:
            return ""
        name = one.server.name
        share = self.overlay.shares.get(name, 1.0)
        drained = name in self.overlay.drained
        return answer(one.standing, time.monotonic(), self.settings.health, drained=drained, share=share)

    def page(self) -> bytes:
        """The metrics page. What the ledger does not say is not on it."""
        known: dict[str, tuple[int, int, int]] | None = None
        sums: list[Total] = []
        if self.settings.cloud:
            with contextlib.suppress(sqlite3.Error):
                known, sums = spent(self.data / FILE, utc_now()), totals(self.data / FILE)
        own = [Own(one.server.model, name, one.ejections, one.tokens) for name, one in self.watched.items()]
        retries = self._told.get("retries", "on") == "on"
        return page(Seen(self.settings, self._rows, own, retries, self._looked_at, known, sums, self._against))

    def document(self) -> dict[str, Any]:
        """What the status file says."""
        now_s = time.monotonic()
        servers = {}
        for name, one in self.watched.items():
            drained = name in self.overlay.drained
            last = one.last
            servers[name] = {
                "model": one.server.model,
                "url": one.server.url,
                "state": _state(one, drained=drained),
                "reason": one.standing.reason or one.standing.kept,
                "percent": percent(one.standing, now_s, self.settings.health, self.overlay.shares.get(name, 1.0)),
                "haproxy": one.row.status if one.row else None,
                "requests": one.row.sessions if one.row else None,
                "attempts": one.row.attempts if one.row else None,
                "failures": one.row.failures if one.row else None,
                "canary_latency_s": last.latency_s if last else None,
                "canary": (last.reason or last.failed) if last and last.failed else None,
                "ejections": one.ejections,
                "tokens": one.tokens,
                "standing": asdict(one.standing),
            }
        retries = self._told.get("retries", "on")
        return {
            "at": time.time(),
            "at_monotonic_s": now_s,
            "pid": os.getpid(),
            "problem": self._problem,
            "retries": retries,
            "servers": servers,
        }


async def serve(agent: Agent) -> None:
    """Look and answer until the process is ended."""

    async def checked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            asked = (await asyncio.wait_for(reader.readuntil(b","), READ_S)).decode("ascii", "replace")
            writer.write(f"{agent.reply(asked.rstrip(','))}\n".encode())
            await writer.drain()
        writer.close()

    async def shown(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The metrics page, to HAProxy; it asks for nothing else."""
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), READ_S)
            body = await asyncio.to_thread(agent.page)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE_LATEST}\r\nContent-Length: {len(body)}"
            writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(checked, "127.0.0.1", agent.port)
    async with server, await asyncio.start_unix_server(shown, agent.data / METRICS_SOCKET):
        while True:
            next_s = time.monotonic() + agent.settings.health.look_s
            agent.failed.clear()
            await asyncio.to_thread(agent.look)
            await asyncio.to_thread(agent.failed.wait, max(0.0, next_s - time.monotonic()))


def _against(settings: Settings) -> Against | None:
    """The API whose prices tell what was saved: the one that is named, else the cloud that the policy uses."""
    chosen = [one for one in (settings.policy.overflow, settings.policy.hard) if one and settings.cloud_of(one)]
    if settings.gateway.compared_with is None and not chosen:
        return None
    from gateway.cloud.prices import Priced, api_price  # the prices of all the world, for those who want them

    if settings.gateway.compared_with is not None:
        found = api_price(settings.gateway.compared_with)
        return Against(found.name, found.standard.input.base, found.standard.output.base)
    cloud = settings.cloud_of(chosen[0])
    if cloud is None:
        return None
    return Against(chosen[0], *Priced(cloud, chosen[0]).usd_per_mtok)


def _state(one: Watched, *, drained: bool) -> str:
    """In one word: draining, out, kept (would be out, and is the last one), busy or in."""
    if drained:
        return "draining"
    if one.standing.out:
        return "out"
    return "kept" if one.standing.kept else "busy" if one.busy else "in"


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")
    sys.stderr.flush()


def main() -> None:
    """Run the agent of a data folder."""
    agent = Agent(Path(sys.argv[1]))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(agent))


if __name__ == "__main__":
    main()
