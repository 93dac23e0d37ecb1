"""TCP ports: is one free, who has it, which one may we take."""

import errno
import random
import socket
import time
from typing import Any

import psutil

# Below the range from which Linux takes the ports of outgoing connections (32768 by default): a port picked
# here is not taken by a passing connection while the server is still importing its libraries.
_PICK_FROM = range(20000, 32000)


def is_free(host: str, port: int) -> bool:
    """Whether a server could bind `port` on `host` now; connections that are closing do not count.

    Raises OSError when that is not a matter of the port: an address of another machine, a port for the
    administrator only.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return not _answers(host, port)


def _answers(host: str, port: int) -> bool:
    # A wildcard listener of another process with SO_REUSEPORT would let our bind pass and take half the requests.
    try:
        with socket.create_connection((connect_host(host), port), timeout=0.5):
            return True
    except OSError:
        return False


def pick(host: str) -> int:
    """A port that is free on `host` now and that no other call gets within a minute. OSError: there is none."""
    for _ in range(200):
        port = random.choice(_PICK_FROM)  # noqa: S311 - a port is no secret
        if is_free(host, port) and _marked(host, port):
            return port
    raise OSError(f"no free port on {host} between {_PICK_FROM.start} and {_PICK_FROM.stop - 1}")


def _marked(host: str, port: int) -> bool:
    """Leave a closed connection at `port`; False where another `pick`, of whatever process, has left one.

    The kernel remembers it for a minute (TIME_WAIT) and refuses the port to whoever binds without SO_REUSEADDR, as is
    done here. Servers bind with it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.bind((host.strip("[]"), port))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of the connection, for who binds with it
            listener.listen()
            with socket.create_connection((connect_host(host), port), timeout=0.5):
                listener.accept()[0].close()  # who closes first is who remembers
    except OSError:
        return False
    return True


def owner(port: int) -> tuple[int, str] | None:
    """(pid, command) of the process that listens on `port`, None when it cannot be known."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.pid and _listens_on(connection, port):
                return connection.pid, " ".join(psutil.Process(connection.pid).cmdline())[:120]
    except psutil.Error:
        return None
    return None


def listens(pids: list[int], port: int) -> bool:
    """Whether one of these processes listens on `port`."""
    for pid in pids:
        try:
            if any(_listens_on(connection, port) for connection in psutil.Process(pid).net_connections("tcp")):
                return True
        except psutil.Error:
            continue
    return False


def _listens_on(connection: Any, port: int) -> bool:
    return bool(connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port)


def wait_until_free(host: str, port: int, timeout_s: float) -> bool:
    """Wait until `port` can be bound again; False when it could not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not is_free(host, port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def connect_host(host: str) -> str:
    """Where a client on this machine reaches a server bound to `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}.get(host, host.strip("[]"))  # noqa: S104


def base_url(host: str, port: int) -> str:
    """The URL under which a client on this machine reaches a server bound to `host` and `port`."""
    name = connect_host(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
