"""The gateway as it runs: HAProxy, the agent and the door to clouds, started, watched, reloaded and stopped together.

<data>/haproxy.cfg       what HAProxy reads; the files beside it in <data>/config-<n>/
<data>/haproxy.sock      its runtime interface, for the owner only
<data>/agent.json        what the agent reads; status.json is what it says
<data>/cloud.json        what the door to clouds reads; it listens at cloud.sock and writes spent.sqlite
<data>/changes.json      what was changed while running (gateway.fleet)
<data>/haproxy.log  agent.log  cloud.log; of each at most limits.log_bytes, and as much in its <name>.1
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from gateway import fleet, following
from gateway.agent.process import INPUT
from gateway.errors import GatewayError, NotRunning, PortTaken, SettingsError
from gateway.haproxy import program
from gateway.haproxy.render import CLOUD_SOCKET, CONFIG, Places, rendered
from gateway.haproxy.runtime import Runtime
from gateway.keys import upstream_keys, user_keys
from gateway.settings import Settings, load
from serve.processes import log_file, port
from serve.processes.process import OwnedProcess

SOCKET = "haproxy.sock"
CLOUD_INPUT = "cloud.json"
READY_S = 30.0
STOP_S = 5.0
POLL_S = 0.1
LOGS_S = 1.0
_LOCK = "nbridge-gateway.lock"
_SOCKET_PATH_BYTES = 100  # the kernel's limit is 107, and HAProxy adds a suffix while it binds


@contextlib.contextmanager
def locked(data: Path) -> Iterator[None]:
    """Hold a data folder for one gateway. Raises SettingsError while another has it, or when it cannot be used."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        if any(data.iterdir()) and not (data / _LOCK).exists():
            raise SettingsError(f"The folder {data} has files in it that are no gateway's; --data names another.")
        data.chmod(0o700)
        lock = (data / _LOCK).open("w", encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"The data folder {data} cannot be used: {error.strerror}; --data names another.") from None
    if len(str((data / SOCKET).absolute())) > _SOCKET_PATH_BYTES:
        raise SettingsError(f"The path {data.absolute()} is too long for a socket in it; --data names another folder.")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"Another gateway runs in {data}; end it first, or give this one --data.") from None
        yield


class Running:
    """A gateway from `start` to `stop`. `say` is told what happens to it, a line each."""

    def __init__(
        self,
        file: Path,
        data: Path,
        say: Callable[[str], None],
        complete: Callable[[Settings], Settings] = lambda settings: settings,
    ) -> None:
        """`complete` adds to the settings of the file what does not stand in it (the capacities of a run)."""
        self.file, self.data, self.say, self.complete = file, data.absolute(), say, complete
        self.haproxy_path = program.find()
        self._look_at_s = self._logs_at_s = 0.0
        self.settings = with_free_ports(complete(self._told(None)))
        self.runtime = Runtime(self.data / SOCKET)
        taken = {self.settings.gateway.port, self.settings.gateway.metrics_port}
        self._agent_port = _picked("127.0.0.1", taken)
        self._number = 0
        self._processes: dict[str, OwnedProcess] = {}
        self._started_s: dict[str, float] = {}

    def _told(self, before: Settings | None) -> Settings:
        """The file's settings, with a server for each address of a name that stands for several."""
        told = load(self.file)
        self._follows = following.follows(told)
        return following.expanded(told, before=before)

    @property
    def url(self) -> str:
        return port.base_url(self.settings.gateway.host, self.settings.gateway.port)

    @property
    def metrics_url(self) -> str:
        gateway = self.settings.gateway
        return f"{port.base_url(gateway.metrics_host, gateway.metrics_port)}/metrics"

    def pid(self, name: str) -> int:
        """The process of a part: haproxy (its master) or agent."""
        return self._processes[name].pid

    def start(self) -> None:
        """Render, check, start both, and return when HAProxy listens. Raises GatewayError; then nothing is left."""
        wanted = self.settings.gateway
        _free(wanted.host, wanted.port, "port")
        _free(wanted.metrics_host, wanted.metrics_port, "metrics_port")
        try:
            self._prepare(self.settings)
            for name in ("agent", *self._cloud_door(), "haproxy"):
                self._spawn(name)
            for name in (*self._cloud_door(), "haproxy"):
                self._wait_ready(name)
        except BaseException:
            self.stop()
            raise

    def _prepare(self, settings: Settings) -> None:
        """Write the configuration of these settings and have it checked; the old one stays when it is refused."""
        upstream_keys(settings)
        if settings.cloud or settings.gateway.compared_with:
            from gateway.cloud.prices import api_price, priced  # the prices of all the world, for those who want them

            priced(settings.cloud)
            if settings.gateway.compared_with:
                api_price(settings.gateway.compared_with)
        now = fleet.effective(settings, fleet.read(self.data))
        folder = self.data / f"config-{self._number + 1}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        places = Places(folder, self.data / SOCKET, self._agent_port)
        for name, text in rendered(now, places, user_keys(settings)).items():
            fleet.replace_text(folder / name, text)
        program.validate(self.haproxy_path, folder / CONFIG)
        self._number += 1
        fleet.replace_text(self.data / CONFIG, (folder / CONFIG).read_text(encoding="utf-8"))
        document = {
            "settings": settings.model_dump(mode="json"),
            "port": self._agent_port,
            "folder": str(folder),
            "socket": str(self.data / SOCKET),
        }
        text = json.dumps(document, indent=1) + "\n"
        for name in (INPUT, CLOUD_INPUT):
            fleet.replace_text(self.data / name, text)
        shutil.rmtree(self.data / f"config-{self._number - 2}", ignore_errors=True)

    def _cloud_door(self) -> tuple[str, ...]:
        return ("cloud",) if self.settings.cloud else ()

    def _spawn(self, name: str) -> None:
        argv = {
            "haproxy": [self.haproxy_path, "-W", "-f", str(self.data / CONFIG)],
            "agent": [sys.executable, "-m", "gateway.agent.process", str(self.data)],
            "cloud": [sys.executable, "-m", "gateway.cloud.process", str(self.data)],
        }[name]
        log = self.data / f"{name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        try:
            self._processes[name] = OwnedProcess(argv, environment={**program.MEMORY, **os.environ}, log_path=log)
        except OSError as error:
            raise GatewayError(f"{argv[0]} cannot be started: {error.strerror}.") from None
        self._started_s[name] = time.monotonic()

    def _wait_ready(self, name: str) -> None:
        """Until HAProxy says how its servers stand, or the door to clouds listens. Raises GatewayError."""
        is_ready = self._haproxy_speaks if name == "haproxy" else self._cloud_listens
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s:
            if self._processes[name].exit_status() is not None:
                break
            if is_ready():
                return
            time.sleep(POLL_S)
        who = {"haproxy": "HAProxy", "cloud": "The door to clouds"}[name]
        raise GatewayError(f"{who} did not come up; its log: {self.data / f'{name}.log'}")

    def _haproxy_speaks(self) -> bool:
        with contextlib.suppress(NotRunning):
            return bool(self.runtime.rows())
        return False

    def _cloud_listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as asked:
            return asked.connect_ex(str(self.data / CLOUD_SOCKET)) == 0

    def watch(self, is_over: Callable[[], bool], reloads: Callable[[], bool]) -> None:
        """Until `is_over`: start anew what has ended, and reload where `reloads` says so."""
        while not is_over():
            for name, process in list(self._processes.items()):
                status = process.exit_status()
                if status is None:
                    continue
                process.stop(0.0)
                self.say(f"{name} ended ({_ending(status)}); it is started anew.")
                time.sleep(max(0.0, 1.0 - (time.monotonic() - self._started_s[name])))
                self._prepare_again(name)
            if reloads() or self._moved():
                self.reload()
            self._roll_logs()
            time.sleep(POLL_S)

    def _roll_logs(self) -> None:
        """Keep each log, those of servers that a swap started included, within `limits.log_bytes`."""
        if time.monotonic() < self._logs_at_s:
            return
        self._logs_at_s = time.monotonic() + LOGS_S
        for log in self.data.glob("*.log"):
            with contextlib.suppress(OSError):
                log_file.roll(log, self.settings.limits.log_bytes)

    def _moved(self) -> bool:
        """Whether a followed name has other addresses than it had."""
        if not self._follows or time.monotonic() < self._look_at_s:
            return False
        self._look_at_s = time.monotonic() + following.LOOK_S
        try:
            now = self.complete(following.expanded(load(self.file), before=self.settings))
        except GatewayError:
            return False
        return {(one.model, one.url) for one in now.server} != {(one.model, one.url) for one in self.settings.server}

    def _prepare_again(self, name: str) -> None:
        if name == "haproxy":
            self._prepare(self.settings)  # with the servers that came and went meanwhile
        self._spawn(name)

    def reload(self) -> None:
        """Take the settings file anew, without losing a request; with an error in it the old settings stay."""
        try:
            new = with_free_ports(self.complete(self._told(self.settings)), self.settings)
            for key in ("host", "port", "metrics_host", "metrics_port"):
                if getattr(new.gateway, key) != getattr(self.settings.gateway, key):
                    raise SettingsError(f"{self.file}: gateway.{key} cannot change while the gateway runs.")
            self._prepare(new)
        except GatewayError as error:
            self.say(f"Not reloaded, the old settings stay: {error}")
            return
        self.settings = new
        for name in self._cloud_door():
            if name not in self._processes:
                self._spawn(name)
                with contextlib.suppress(GatewayError):  # it is watched like the others, and HAProxy checks it
                    self._wait_ready(name)
        os.kill(self.pid("haproxy"), signal.SIGUSR2)
        self.say("Reloaded.")

    def drain(self, is_over: Callable[[], bool]) -> None:
        """Take no new connections and let requests in work end, at most `limits.drain_s` or until `is_over`."""
        haproxy = self._processes["haproxy"]
        with contextlib.suppress(ProcessLookupError):
            os.kill(haproxy.pid, signal.SIGUSR1)
        deadline_s = time.monotonic() + self.settings.limits.drain_s
        while haproxy.exit_status() is None and time.monotonic() < deadline_s and not is_over():
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End both; requests in work are cut off."""
        for name in ("haproxy", "cloud", "agent"):
            if process := self._processes.get(name):
                process.stop(STOP_S)


def with_free_ports(settings: Settings, like: Settings | None = None) -> Settings:
    """The settings with a picked port (or that of `like`) in place of each 0."""
    gateway = settings.gateway
    found: dict[str, int] = {}
    for key, host in (("port", gateway.host), ("metrics_port", gateway.metrics_host)):
        if getattr(gateway, key) == 0:
            taken = {gateway.port, gateway.metrics_port, *found.values()}
            found[key] = getattr(like.gateway, key) if like else _picked(host, taken)
    return settings.model_copy(update={"gateway": gateway.model_copy(update=found)}) if found else settings


def _picked(host: str, taken: Collection[int]) -> int:
    """A free port that is none of those: the system may give a number out twice when nobody listens there yet."""
    while (number := port.pick(host)) in taken:
        pass
    return number


def _free(host: str, number: int, key: str) -> None:
    try:
        if port.is_free(host, number):
            return
    except OSError as error:
        words = f"this machine cannot listen there: {error.strerror}"
        raise SettingsError(f"gateway: host = {host!r}, {key} = {number}: {words}.") from None
    owner = port.owner(number)
    who = f"process {owner[0]} ({owner[1]})" if owner else "a process of another user or container"
    raise PortTaken(f"gateway.{key} = {number} is in use by {who}; end it, name another port, or 0 for any free one.")


def _ending(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit code {status}"
