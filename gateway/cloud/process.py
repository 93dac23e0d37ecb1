"""The door's process: `python -m gateway.cloud.process DATA`. Started and watched by `nbridge gateway`.

It listens on a socket in the data folder and answers HAProxy's checks there: a cloud whose limit leaves no room is
down, so that nothing is routed to it. To be quick about it, it also says so to HAProxy itself.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from gateway import fleet
from gateway.cloud.answers import closed
from gateway.cloud.ledger import FILE, NANO, Ledger, Limits, Standing, utc_now
from gateway.cloud.passing import Passing, Rules, log
from gateway.cloud.prices import priced
from gateway.errors import GatewayError, SettingsError
from gateway.haproxy.render import CLOSED, CLOUD_SOCKET, OPEN, backend_name
from gateway.haproxy.runtime import Runtime
from gateway.settings import Settings, parse

INPUT, LOCK = "cloud.json", "cloud.lock"
LOOK_S = 0.5
WARNED_SHARE = 0.8


class Door:
    """The door of one data folder: rules as they are in its input now, and what HAProxy has been told."""

    def __init__(self, data: Path, client: httpx.AsyncClient, clock: Callable[[], datetime] = utc_now) -> None:
        self.data = data
        self.settings: Settings
        self.ledger = Ledger(data / FILE, clock)
        if self.ledger.left_open:
            log(problem=f"{self.ledger.left_open} requests were never settled; what they had reserved counts as spent")
        self.moved = asyncio.Event()
        self.passing = Passing(self.ledger, Rules({}, {}, 1.0, 1), client, self.moved.set)
        self._seen: int | None = None
        self._told: dict[str, str] = {}
        self._warned: set[tuple[str, str]] = set()
        self.follow()

    def follow(self) -> None:
        """Read the input where it has changed."""
        path = self.data / INPUT
        if (changed := path.stat().st_mtime_ns) == self._seen:
            return
        self._seen = changed
        document = json.loads(path.read_text(encoding="utf-8"))
        settings = parse(document["settings"], INPUT)
        self.passing.rules = rules(settings)
        self.ledger.limits = {one.name: limits(one.usd_per_day, one.usd_per_month) for one in settings.cloud}
        self.settings, self.texts = settings, Path(document["folder"]) / CLOSED
        self.runtime, self._told = Runtime(Path(document["socket"])), {}

    async def tell(self) -> None:
        """One round: follow, warn, and say to HAProxy which clouds are open, where that has changed."""
        with contextlib.suppress(OSError, ValueError, LookupError, GatewayError):
            self.follow()
        if self.passing.broken is not None:
            await self.passing.mend()
        for cloud in self.settings.cloud:
            standing = await self.passing.standing(cloud.name)
            self._warn(cloud.name, standing)
            text = OPEN
            if standing.closed_by is not None:
                text = json.dumps(closed(cloud.name, standing, self.ledger.clock()))
            for model in cloud.models:
                backend = backend_name(self.settings, model)
                if self._told.get(backend) != text:
                    with contextlib.suppress(GatewayError):
                        await asyncio.to_thread(self._say, backend, cloud.name, text)
                        self._told[backend] = text

    def _say(self, backend: str, cloud: str, text: str) -> None:
        self.runtime.text(self.texts, backend, text)
        self.runtime.tell(f"set server {backend}/{cloud} health {'up' if text == OPEN else 'down'}")

    def _warn(self, cloud: str, standing: Standing) -> None:
        """Say once a day, and once a month, that most of a limit is spent, or all of it."""
        day = self.ledger.clock().strftime("%Y-%m-%d")
        limits_now = standing.limits
        periods = (("day", day, standing.day, limits_now.day), ("month", day[:7], standing.month, limits_now.month))
        for period, when, spent, limit in periods:
            if limit is None or spent < WARNED_SHARE * limit:
                continue
            words = "all" if spent >= limit else f"{spent / limit:.0%}"
            mark = (cloud, f"{when} {words == 'all'}")
            if mark not in self._warned:
                self._warned.add(mark)
                usd = f"{spent / NANO:.4f} of {limit / NANO:g} USD"
                log(problem=f"{words} of the limit of the cloud {cloud} is spent: {usd} this {period} (UTC)")

    async def keep_telling(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.moved.wait(), LOOK_S)
            self.moved.clear()
            await self.tell()

    async def health(self, request: Request) -> Response:
        """For HAProxy: whether a cloud takes requests."""
        name = request.path_params["cloud"]
        if name not in self.ledger.limits:
            return PlainTextResponse("unknown\n", 404)
        standing = await self.passing.standing(name)
        if standing.closed_by is not None:
            await self.tell()  # why it is down must be there before it is down
        word = "broken" if self.passing.broken else standing.closed_by
        return PlainTextResponse(f"{word or 'open'}\n", 503 if word else 200)

    def app(self) -> Starlette:
        @asynccontextmanager
        async def life(_app: Starlette) -> AsyncIterator[None]:
            telling = asyncio.create_task(self.keep_telling())
            yield
            telling.cancel()

        routes = [Route("/health/{cloud}", self.health), Mount("/", self.passing)]
        return Starlette(routes=routes, lifespan=life)


def rules(settings: Settings, environ: Mapping[str, str] = os.environ) -> Rules:
    """What the door goes by. Raises SettingsError for a price that is missing or absurd."""
    return Rules(
        prices=priced(settings.cloud),
        keys={one.name: environ[one.api_key_env] for one in settings.cloud},
        whole_s=settings.limits.attempt_s,
        body_bytes=settings.limits.body_bytes,
    )


def limits(usd_per_day: float | None, usd_per_month: float | None) -> Limits:
    day, month = (None if usd is None else round(usd * NANO) for usd in (usd_per_day, usd_per_month))
    return Limits(day, month)


def listening(path: Path) -> socket.socket:
    """A socket for the owner only; one that a killed door left is replaced."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        made.bind(str(path))
    finally:
        os.umask(before)
    return made


@contextmanager
def alone(data: Path) -> Iterator[None]:
    """Hold a folder's ledger: two doors would each spend its limit. Raises SettingsError while another has it."""
    with (data / LOCK).open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"Another door to clouds runs in {data}; end it first.") from None
        yield


async def serve(data: Path, given: str | None = None) -> None:
    """Pass requests on until the process is ended; those in work are ended first. Raises SettingsError.

    `given` becomes the door's input; without it somebody else writes that.
    """
    with alone(data):
        if given is not None:
            fleet.replace_text(data / INPUT, given)
        await _serve(data)


async def _serve(data: Path) -> None:
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), follow_redirects=False) as client:
        door = Door(data, client)
        config = uvicorn.Config(door.app(), log_level="error", access_log=False, server_header=False, lifespan="on")
        await uvicorn.Server(config).serve([listening(data / CLOUD_SOCKET)])
        door.ledger.close()


def document(settings: Settings, folder: Path, runtime: Path) -> str:
    """The input of a door for a HAProxy of one's own: its files' folder and its runtime socket."""
    values = {"settings": settings.model_dump(mode="json"), "folder": str(folder), "socket": str(runtime)}
    return json.dumps(values, indent=1) + "\n"


def main() -> None:
    """Run the door of a data folder."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
