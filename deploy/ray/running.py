"""An application on Ray from its first replica to its end: deployed, waited for, watched, drained."""

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import httpx

from deploy.errors import DeployError, DoorTaken, NotStarted, SettingsError
from deploy.ray.application import DEPLOYMENT, bound, gpus_of
from deploy.ray.replica import STOP_S
from deploy.ray.settings import PROXIES, Settings
from serve.engine.server import with_free_port
from serve.processes.port import base_url

POLL_S = 0.5
_DOOR_S = 60.0
_HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
Say = Callable[[str], None]


class Running:
    """One application on the Ray that this process is connected to."""

    def __init__(self, settings: Settings, ray: Any, say: Say) -> None:
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # what it has to say is said here, in one line each
        self.url = base_url(settings.door.host, settings.door.port)
        self._settings, self._ray, self._serve, self._say = settings, ray, serve, say
        self._told: dict[str, str] = {}

    def deploy(self) -> None:
        """Order the replicas and return. Raises DoorTaken or PortInUse when the door cannot be where it is to be."""
        door = self._settings.door
        self._require_door()
        self._serve.start(proxy_location=PROXIES[door.proxies], http_options={"host": door.host, "port": door.port})
        target = self._serve.RunTarget(
            target=bound(self._settings, gpus_of(self._settings)), name=door.name, route_prefix="/"
        )
        self._serve.run_many([target], wait_for_applications_running=False)

    def wait(self, should_stop: Callable[[], bool]) -> bool:
        """Whether all replicas of the start are ready; False when the wait was given up, as asked.

        Raises NotStarted with what a node says of its server, DeployError with what Ray says.
        """
        while not should_stop():
            status = self._status()
            words = "\n".join([status.message, *(one.message for one in status.deployments.values())])
            if (failed := NotStarted.found_in(words)) is not None:
                raise failed
            if status.status == "DEPLOY_FAILED":
                raise DeployError(f"Ray Serve could not deploy it: {' '.join(words.split())[-1500:]}")
            self._tell(status)
            if status.status == "RUNNING":
                self._require_answer(should_stop)
                return True
            time.sleep(POLL_S)
        return False

    def watch(self, should_stop: Callable[[], bool]) -> None:
        """Say what comes and goes, until it is to stop."""
        while not should_stop():
            self._tell(self._status())
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Let the requests of all replicas end within the grace, and end them; on a Ray Serve without another
        application its door goes as well."""
        name, deadline_s = self._settings.door.name, time.monotonic() + self._settings.door.drain_s + 2 * STOP_S
        self._serve.delete(name, _blocking=False)  # blocking, it gives up after a minute
        while name in (left := self._serve.status().applications) and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        if not set(left) - {name}:
            self._serve.shutdown()

    @property
    def replicas(self) -> int:
        """How many replicas answer now."""
        return self._states(self._status()).get("RUNNING", 0)

    def _require_door(self) -> None:
        from ray.serve.context import _get_global_client

        door, engine = self._settings.door, self._settings.engine
        if os.environ.get(_HAPROXY) == "1" and engine.api_key_env is None and not engine.allow_no_api_key:
            raise SettingsError(
                f"{_HAPROXY} = 1: with it Ray listens on every interface, whatever host says, and the servers have no "
                "API key: name the environment variable that holds one ([engine] api_key_env), unset the other, or say "
                "allow_no_api_key = true in [engine]."
            )
        running = _get_global_client(raise_if_no_controller_running=False)
        if running is None:
            here = engine.model_copy(update={"host": door.host, "port": door.port})
            with_free_port(here)
            return
        there = running.http_config
        if (there.host, there.port) != (door.host, door.port):
            raise DoorTaken(
                f"Ray Serve runs on this cluster already, with its door at {there.host}:{there.port}, and [ray] says "
                f"{door.host}:{door.port}. All its applications have one door: take its address, or end it with "
                "`serve shutdown`."
            )

    def _require_answer(self, should_stop: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + _DOOR_S
        while not should_stop():
            try:
                if httpx.get(f"{self.url}/-/healthz", timeout=5.0, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError as error:
                if time.monotonic() > deadline_s:
                    raise DeployError(
                        f"The replicas are ready and Ray's door at {self.url} does not answer ({error}). Does "
                        "something else listen there on the head? Ray's logs are in /tmp/ray/session_latest/logs."
                    ) from None
            time.sleep(POLL_S)

    def _status(self) -> Any:
        return self._serve.status().applications[self._settings.door.name]

    def _states(self, status: Any) -> dict[str, int]:
        deployment = status.deployments.get(DEPLOYMENT)
        return (
            {str(getattr(name, "value", name)): n for name, n in deployment.replica_states.items()}
            if deployment
            else {}
        )

    def _tell(self, status: Any) -> None:
        states = ", ".join(f"{count} {name.lower()}" for name, count in sorted(self._states(status).items()))
        if states and self._told.get("states") != states:
            self._told["states"] = states
            self._say(f"replicas: {states}")
