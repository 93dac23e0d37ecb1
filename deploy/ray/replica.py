"""A replica: the owner of one hooked vLLM server on its node. It lives as long as its engine does."""

import asyncio
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import Response

from checkpoints.cache import cache_dir
from checkpoints.errors import CheckpointError
from checkpoints.prepare import prepare
from deploy.errors import DeployError, NotStarted
from deploy.ray.passing import InWork, client, passed_on
from deploy.ray.scaling import WAITING
from deploy.ray.settings import Settings, parse
from monitoring.scrape import metrics
from serve.engine.server import Server, start
from serve.engine.settings import EngineSettings
from serve.errors import ServeError

LOOK_S = 0.2
LAST_WORDS_S = 0.5  # for requests that have just lost their engine to be told so
STOP_S = 30.0
_LOG_BYTES = 64 << 20
_log = logging.getLogger("ray.serve")


class Replica:
    """What Ray Serve makes as often as it scales. Its constructor returns when the server is ready."""

    async def __init__(self, document: dict[str, Any]) -> None:  # type: ignore[misc]  # Ray awaits it
        """`document`: the settings as `Settings.document` gives them. Raises NotStarted with the engine's own words."""
        self._ending = False
        self._died: str | None = None
        self._look_now = threading.Event()
        self._in_work = InWork()
        settings = parse(document, "the application's args")
        self._log_path = _log_path(settings)
        try:
            self._server: Server = await asyncio.to_thread(self._start, settings)
        except (ServeError, CheckpointError, DeployError) as error:
            raise NotStarted.of(error) from None
        self._client = client(self._server.base_url)
        threading.Thread(target=self._watch, name="engine-watch", daemon=True).start()

    async def __call__(self, request: Request) -> Response:
        if self._died is not None:
            # In half a second this process is gone. An error told at once would bring its sender back here at once, and
            # of all replicas the one that fails is the one that looks least busy.
            await asyncio.sleep(LAST_WORDS_S + STOP_S)
        answer = await passed_on(request, self._client, self._in_work)
        if answer.status_code >= 500:
            self._look_now.set()
        return answer

    async def check_health(self) -> None:
        """Ray asks every few seconds, and replaces a replica that has failed three times in a row, or not answered.

        By the server's own word: an engine that hangs has failed, one that is only busy has not.
        """
        if self._died is not None:
            raise RuntimeError(self._died)
        answer = await self._client.get("/health/live" if self._server.settings.is_hooked else "/health")
        if answer.status_code != 200:
            raise RuntimeError(_reason(answer.text) or f"The server says {answer.status_code} of its health.")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """How many requests wait in the engine now, by its own count; Ray asks, and gives it to `scaling.Policy`."""
        try:
            page = (await self._client.get("/metrics", timeout=5.0)).text
            waiting = metrics.total(metrics.parse(page), "vllm:num_requests_waiting")
        except (httpx.HTTPError, metrics.MetricsError):
            return {}  # it is busy, or has just ended
        return {} if waiting is None else {WAITING: waiting}

    def __del__(self) -> None:
        """Ray calls it when the requests of a replica that is to go have ended, or when their grace is over."""
        if self._ending:
            return
        self._ending = True
        if (server := getattr(self, "_server", None)) is not None:
            server.stop()
            self._log_path.unlink(missing_ok=True)  # of one that did its work nobody asks for the log

    def _start(self, settings: Settings) -> Server:
        return start(
            _resolved(settings.engine),
            log_path=self._log_path,
            timeout_s=settings.door.start_timeout_s,
            should_stop=lambda: self._ending,
            log_limit_bytes=_LOG_BYTES,
        )

    def _watch(self) -> None:
        """End this process soon after the engine: Ray then sends nothing here any more, and starts another replica.

        A replica without an engine would still be given requests, until the next looks at its health.
        """
        while not self._ending:
            if (died := self._server.failure()) is not None:
                self._died = str(died)
                _log.error("The replica ends with its engine. %s", self._died)
                deadline_s = time.monotonic() + LAST_WORDS_S
                while self._in_work.count and time.monotonic() < deadline_s:
                    time.sleep(0.01)
                time.sleep(0.1)  # what they were told has to leave this process
                os._exit(1)
            self._look_now.wait(LOOK_S)
            self._look_now.clear()


def _resolved(settings: EngineSettings) -> EngineSettings:
    """The settings with names of models replaced by what vLLM can load, made or found on this node."""
    checkpoint = prepare(settings.model, settings.quantization or "none", progress=_log.info)
    resolved = settings.resolved(
        path=checkpoint.path,
        name=checkpoint.name,
        load_format=checkpoint.load_format,
        quantization=checkpoint.vllm_quantization,
    )
    if resolved.speculative is None or resolved.speculative.model is None:
        return resolved
    draft = prepare(resolved.speculative.model, "none", progress=_log.info)
    return resolved.model_copy(update={"speculative": resolved.speculative.model_copy(update={"model": draft.path})})


def _log_path(settings: Settings) -> Path:
    from ray import serve

    context = serve.get_replica_context()
    folder = Path(settings.door.log_dir).expanduser() if settings.door.log_dir else cache_dir() / "ray"
    return folder / f"{context.app_name}-{context.replica_id.unique_id}.log"


def _reason(text: str) -> str | None:
    try:
        return " ".join(json.loads(text)["reasons"])
    except (ValueError, KeyError, TypeError):
        return None
