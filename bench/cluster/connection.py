"""To Ray: the cluster at an address, the one that this machine belongs to, or one of its own for the run.

Ray is an optional extra and its import takes a second, so nothing here is imported before `--on` is given.
"""

import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

from bench.errors import ClusterError, NotOnCluster, PlanError

CLIENT_PORT = 10001  # where a head listens for drivers from outside, unless it was told otherwise
_TCP_WAIT_S = 10.0
_OBJECT_STORE_BYTES = 256 << 20  # of a cluster of our own: only pieces of files go through it
_ADDRESS = re.compile(r"(?:ray://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^:/\[\]\s]+):(?P<port>\d{1,5})")
Json = dict[str, Any]
_RESUMED = "What was measured is kept; go on with `nbridge bench --resume RUN --on …`."
_STARTING = "Start one there with: ray start --head (and RAY_AUTH_MODE=token in its environment)."


@contextlib.contextmanager
def connected(on: str, say: Callable[[str], None], *, after_loss: str = _RESUMED) -> Iterator[Any]:
    """The module `ray`, connected as `on` says ("ray" or "ray://HOST[:PORT]") until the context ends.

    `after_loss`: what a person is told to do when the connection was lost.
    Raises PlanError for another word, NotOnCluster without Ray or with another version of it, ClusterError when no
    head answers.
    """
    address = address_of(on)
    ray = _imported()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _connect(ray, address, say)
    finally:
        for number, handler in handlers.items():  # Ray puts its own there
            signal.signal(number, handler)
    try:
        yield ray
    except ConnectionError as error:
        raise ClusterError(f"The connection to Ray's head was lost ({_first_line(error)}). {after_loss}") from error
    finally:
        ray.shutdown()


def address_of(on: str) -> str | None:
    """The address of a head in `--on`, None for this machine's Ray. Raises PlanError."""
    if on == "ray":
        return None
    host = on.removeprefix("ray://")
    if on.startswith("ray://") and host:
        bare = host.startswith("[") and host.endswith("]")
        address = f"ray://{host}" if ":" in host and not bare else f"ray://{host}:{CLIENT_PORT}"
        if (found := _ADDRESS.fullmatch(address)) and 0 < int(found["port"]) < 65536:
            return address
    raise PlanError(
        f"--on {on}: expected ray (this machine's Ray, or one for this run) or ray://HOST[:PORT], the head of a "
        f"cluster (port {CLIENT_PORT} unless it was started with another)."
    )


def _imported() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to its makers unless told not to
    try:
        import ray
    except ModuleNotFoundError:
        raise NotOnCluster(
            "This needs Ray, which is not installed here: make ray in a checkout, else pip install "
            "'neural-bridge[ray]' by the versions of constraints.txt and constraints-ray.txt; the same on every node."
        ) from None
    return ray


def _connect(ray: Any, address: str | None, say: Callable[[str], None]) -> None:
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    known = address or os.environ.get("RAY_ADDRESS") or "auto"
    if known not in ("auto", "local"):
        _require_listening(known)
    if known != "local":
        try:
            with _briefly():
                ray.init(address=known, **quiet)
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            ray.shutdown()
            if problem := _problem(known, error):
                raise problem from error
        else:
            return
    _start_own(ray, quiet, say)


def _problem(known: str, error: Exception) -> ClusterError | None:
    """Why there is no connection, as a person reads it; None where no Ray runs on this machine."""
    text = str(error)
    if "ersion mismatch" in text:  # Ray's own words name both versions
        return NotOnCluster(f"{_named(known)}: {' '.join(text.split())} Install the same versions here and there.")
    if "InvalidAuthToken" in text or "uthentication" in type(error).__name__:
        return ClusterError(
            f"{_named(known)} refuses this machine: its token is missing or another one. Put the head's token into "
            "~/.ray/auth_token here (mode 0600) and set RAY_AUTH_MODE=token."
        )
    if known == "auto":
        return None
    return ClusterError(
        f"{_named(known)} does not answer as a Ray head ({_first_line(error)}). With ray://, is this the port for "
        f"drivers from outside ({CLIENT_PORT} unless told otherwise)? {_STARTING}"
    )


@contextlib.contextmanager
def _briefly() -> Iterator[None]:
    """Let Ray give up a head that does not answer after some 20 s: it would try for two minutes."""
    name = "RAY_gcs_server_port_wait_time_s"  # how often it tries, and each takes up to 6 s
    given = os.environ.setdefault(name, "3")
    try:
        yield
    finally:
        if given == "3":
            os.environ.pop(name, None)


def _start_own(ray: Any, quiet: Json, say: Callable[[str], None]) -> None:
    """A Ray for this run alone. Ray gives up after 15 s that a busy machine or a cold disk may take, so again."""
    say("no Ray runs on this machine: starting one for this run, on the loopback address, without its dashboard")
    from ray._private import ray_constants

    # Ray's own way to stay on the loopback address, which it takes by itself on a Mac only: an address of 127.0.0.1 it
    # replaces by the machine's, and listens there. For this process the constant, for those below the variable.
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    for last in (False, False, True):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **quiet,
            )
        except Exception as error:
            ray.shutdown()
            if last:
                raise ClusterError(
                    f"Ray does not start here ({_first_line(error)}). Its logs are in /tmp/ray/session_latest/logs."
                ) from error
        else:
            return


def _require_listening(address: str) -> None:
    """Raise ClusterError when nothing listens there: Ray itself would try for half a minute and more."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        return
    try:
        socket.create_connection((found["host"].strip("[]"), int(found["port"])), _TCP_WAIT_S).close()
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise ClusterError(
            f"{_named(address)} does not answer ({why}). Is this the head's address? {_STARTING}"
        ) from None


def _named(address: str) -> str:
    return "This machine's Ray" if address == "auto" else f"The Ray head at {address.removeprefix('ray://')}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
