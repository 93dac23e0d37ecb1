"""The life of one vLLM server: start it, prove that what answers is ours, know when it dies, stop all of it."""

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx

from monitoring.logs.reading import says_engine_is_dead
from serve import errors
from serve.engine import failure
from serve.engine.command import PLUGIN, Command, build, detect_device, served_name, with_plugin
from serve.engine.settings import EngineSettings
from serve.engine.startup import Fact, StartupFacts, cache_facts, gather, line_facts
from serve.processes import gpu_memory, port
from serve.processes.log_file import LogReader, tail
from serve.processes.process import OwnedProcess

POLL_S = 0.25
TERM_GRACE_S = 15.0
START_GRACE_S = 3.0  # a server that is not ready has no requests to lose, and does not listen to SIGTERM
FREE_WAIT_S = 30.0


class Server:
    """A server that was ready. Use as a context manager, or call `stop`; nothing of it outlives this process."""

    def __init__(
        self,
        process: OwnedProcess,
        log: "_Log",
        *,
        settings: EngineSettings,
        api_key: str | None,
        startup: StartupFacts,
        gpu_before_bytes: int | None,
    ) -> None:
        self.settings = settings
        self.startup = startup
        self.base_url = port.base_url(settings.host, settings.port)
        self.model_name = served_name(settings)
        self.pid = process.pid
        self.pgid = process.pgid
        self.log_path = log.path
        self._process = process
        self._log = log
        self._api_key = api_key
        self._gpu_before_bytes = gpu_before_bytes
        self._stopping = self._stopped = False

    @property
    def api_key_env(self) -> str | None:
        """The NAME of the environment variable whose value this server asks for, None when it asks for no key."""
        return self.settings.api_key_env or ("VLLM_API_KEY" if self._api_key else None)

    def pids(self) -> list[int]:
        """Every living process of the server: API server, engine core, workers."""
        return self._process.pids()

    def failure(self) -> errors.ServeError | None:
        """How the server died, or None while it lives; never waits. New log lines go to `on_line` here."""
        if self._stopping:
            return None
        self._log.read()
        exit_status = self._process.exit_status()
        if exit_status is None and not self._log.engine_is_dead:
            return None
        what = failure.died(tail(self.log_path), exit_status, self._process.memory_kills.verdict())
        return what.to_error(self.log_path)

    def stop(self, drain_s: float = 0.0, grace_s: float = TERM_GRACE_S) -> None:
        """Let running requests end for at most `drain_s`, then end every process and wait for port and GPU memory.

        SIGTERM first, SIGKILL to all that is left after `grace_s`. Harmless when called twice, after the server
        died, or after an interrupted call.
        """
        if self._stopped:
            return
        if drain_s > 0:
            self._drain(drain_s)
        self._stopping = True
        self._process.stop(grace_s + (self.settings.shutdown_timeout_s if grace_s else 0))
        port.wait_until_free(self.settings.host, self.settings.port, FREE_WAIT_S)
        gpu_memory.wait_until_returned(self._gpu_before_bytes, FREE_WAIT_S)
        self._log.read()
        self._log.close()
        self._stopped = True

    def _drain(self, drain_s: float) -> None:
        deadline = time.monotonic() + drain_s
        with _client(self.base_url, self._api_key) as client:
            while time.monotonic() < deadline and self._process.exit_status() is None:
                # A server that is busy may be slow to answer, which is no reason to cut its requests off.
                with contextlib.suppress(httpx.HTTPError):
                    if requests_in_flight(client.get("/metrics").text) == 0:
                        return
                time.sleep(POLL_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(
    settings: EngineSettings,
    *,
    log_path: Path,
    timeout_s: float = 600.0,
    command: Command | None = None,
    on_line: Callable[[str], None] | None = None,
    on_wait: Callable[[float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    term_grace_s: float = START_GRACE_S,
    log_limit_bytes: int | None = None,
) -> Server:
    """Start vLLM (or `command` in its place) and return when it is ready, which is proved, not assumed.

    Ready means: a process of our tree listens on the port, /v1/models names our model and its root, /health is 200.
    `on_line` gets each log line, `on_wait` the seconds since the start some four times a second, and `should_stop`
    is asked as often. The log begins anew when it has grown past `log_limit_bytes`. A port of 0 in the settings becomes
    a free one (see `Server.settings`). Raises StartFailed subclasses; then nothing is left running.
    """
    gpu_before_bytes = None
    if command is None:
        device = detect_device()
        _check_installed()
        gpu_before_bytes = gpu_memory.used_bytes() if device == "gpu" else None
    settings = with_free_port(settings)
    command = command or build(settings, device=device)
    environment = _environment(command)
    started = time.monotonic()
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        process = OwnedProcess(command.argv, environment=environment, log_path=log_path)
    except OSError as error:
        raise errors.StartFailed(f"The server cannot be started: {error.filename}: {error.strerror}.") from None
    log = _Log(log_path, on_line, log_limit_bytes)
    api_key = environment.get("VLLM_API_KEY") or None
    try:
        # One client for all the looks: to make one takes longer than to ask.
        with _client(port.base_url(settings.host, settings.port), api_key) as client:
            while not _is_ready(process, settings, client):
                log.read()
                elapsed_s = time.monotonic() - started
                _raise_if_over(process, log, elapsed_s=elapsed_s, timeout_s=timeout_s, should_stop=should_stop)
                if on_wait:
                    on_wait(elapsed_s)
                time.sleep(POLL_S)
            ready_s = time.monotonic() - started
            log.read()
            facts = gather([log.facts, cache_facts(_metrics(client))], ready_s)
    except BaseException:
        process.stop(term_grace_s)
        log.close()
        raise
    return Server(process, log, settings=settings, api_key=api_key, startup=facts, gpu_before_bytes=gpu_before_bytes)


class _Log:
    """The log so far: facts gathered and whether the engine was said to be dead."""

    def __init__(self, path: Path, on_line: Callable[[str], None] | None, limit_bytes: int | None) -> None:
        self.path = path
        self._limit_bytes = limit_bytes
        self.facts: dict[str, Fact] = {}
        self.engine_is_dead = False
        self._on_line = on_line
        self._reader = LogReader(path)

    def read(self) -> None:
        for line in self._reader.new_lines():
            self.facts |= line_facts(line)
            self.engine_is_dead = self.engine_is_dead or says_engine_is_dead(line)
            if self._on_line:
                self._on_line(line)
        if self._limit_bytes is not None:
            self._reader.shorten(self._limit_bytes)

    def close(self) -> None:
        self._reader.close()


def _check_installed() -> None:
    if importlib.util.find_spec("vllm") is None:
        raise failure.classify("No module named vllm", 1).to_error()


def with_free_port(settings: EngineSettings) -> EngineSettings:
    """The settings with a port that is free now: the one set, or a picked one for 0.

    Raises PortInUse, or SettingsError when the address cannot be bound at all.
    """
    try:
        if settings.port == 0:
            return settings.model_copy(update={"port": port.pick(settings.host)})
        if port.is_free(settings.host, settings.port):
            return settings
    except OSError as error:
        raise errors.SettingsError(
            f"host = {settings.host!r}, port = {settings.port}: this machine cannot listen there: {error.strerror}."
        ) from None
    owner = port.owner(settings.port)
    who = f"process {owner[0]} ({owner[1]})" if owner else "a process of another user or container"
    raise errors.PortInUse(
        f"Port {settings.port} on {settings.host} is in use by {who}.",
        next_step="End that process, choose another port, or set port = 0 for any free one.",
    )


def _environment(command: Command) -> dict[str, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **command.environment}
    if PLUGIN in command.environment.get("VLLM_PLUGINS", "").split(",") and "VLLM_PLUGINS" in os.environ:
        environment["VLLM_PLUGINS"] = with_plugin(f"{os.environ['VLLM_PLUGINS']},{command.environment['VLLM_PLUGINS']}")
    for target, source in command.secrets.items():
        if not os.environ.get(source):
            raise errors.SettingsError(
                f"api_key_env = {source!r}: the environment variable {source} is not set; put the key into it."
            )
        environment[target] = os.environ[source]
    return environment


def _client(base_url: str, api_key: str | None) -> httpx.Client:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return httpx.Client(base_url=base_url, headers=headers, timeout=5.0, trust_env=False)


def _metrics(client: httpx.Client) -> str:
    try:
        return client.get("/metrics").text
    except httpx.HTTPError:
        return ""  # the facts are then those of the log


def _is_ready(process: OwnedProcess, settings: EngineSettings, client: httpx.Client) -> bool:
    if process.exit_status() is not None or not port.listens(process.pids(), settings.port):
        return False
    try:
        models, health = client.get("/v1/models"), client.get("/health")
    except httpx.HTTPError:
        return False  # it listens, but does not answer yet
    if models.status_code != 200 or health.status_code != 200:
        return False
    served = {entry.get("id"): entry.get("root") for entry in models.json().get("data", [])}
    return served.get(served_name(settings)) == settings.model


def _raise_if_over(
    process: OwnedProcess,
    log: _Log,
    *,
    elapsed_s: float,
    timeout_s: float,
    should_stop: Callable[[], bool] | None,
) -> None:
    exit_status = process.exit_status()
    if exit_status is not None:
        process.stop(0.0)
        log.read()
        memory = process.memory_kills.verdict()
        raise failure.classify(tail(log.path), exit_status, memory).to_error(log.path)
    if should_stop and should_stop():
        raise errors.StartCancelled(f"The start was given up after {elapsed_s:.0f} s, as asked.")
    if elapsed_s > timeout_s:
        raise errors.StartTimeout(
            f"The server was not ready after {timeout_s:.0f} s.",
            engine_words=failure.last_line(tail(log.path)),
            next_step="Allow more time (a first start downloads and compiles), or look into the log.",
            log_path=log.path,
        )


def requests_in_flight(metrics: str) -> int:
    """Requests running or waiting, summed over engines, in vLLM's Prometheus text."""
    names = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
    return round(sum(float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(names)))
