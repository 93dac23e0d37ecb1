"""Real Ray for tests: clusters whose nodes are processes of this machine. Run by `make test-ray`."""

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

# A machine that runs other tests besides is slow: by its own patience Ray gives up a node after 15 s.
_PATIENCE = {
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_gcs_rpc_server_connect_timeout_s": "120",
    "RAY_gcs_server_request_timeout_seconds": "120",
    "RAY_worker_register_timeout_seconds": "600",
}
_START_S = 300.0
# The helpers of a node whose ports a raylet waits for those 15 s, unless it is told them.
_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
SKIP = "Ray is not installed here: `make test-ray` installs it and runs these tests"


# Read when Ray is imported, for good: whoever has no token is refused, also on the loopback address.
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def require_ray() -> None:
    """Skip the tests of a module where Ray is not installed."""
    pytest.importorskip("ray", reason=SKIP)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody has now."""
    with contextlib.ExitStack() as held:
        found = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def _node(**arguments: Any) -> dict[str, Any]:
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    return {"node_ip_address": "127.0.0.1", **ports, **arguments}


@contextlib.contextmanager
def _patiently() -> Iterator[None]:
    """Let nodes take as long to start as a busy machine needs: Ray looks for one for 30 s, and a raylet ends itself
    when its helpers have not said their ports within 15 s, so it is told them before."""
    from ray import _raylet
    from ray._private import services

    look, start = services.get_node, services.start_raylet

    def look_longer(*arguments: Any) -> Any:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                return look(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def start_told(*arguments: Any, **more: Any) -> Any:
        node_id, folder = arguments[2], arguments[11]
        for port in _PORTS:
            named = "DASHBOARD_AGENT_LISTEN_PORT_NAME" if port.startswith("dashboard") else f"{port.upper()}_NAME"
            _raylet.persist_port(folder, node_id, getattr(_raylet, named), more[port])
        return start(*arguments, **more)

    services.get_node, services.start_raylet = look_longer, start_told
    try:
        yield
    finally:
        services.get_node, services.start_raylet = look, start


@contextlib.contextmanager
def cluster(*nodes: dict[str, Any], mark: str | None = None, head: dict[str, Any] | None = None) -> Iterator[Any]:
    """A head that takes no engine and one node for each of `nodes` (arguments of Ray's add_node, as those of `head`);
    `client` is the head's address for drivers from outside.

    `mark`: the environment variable TEST_MARK of all that the nodes start.
    """
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ.update(_PATIENCE, RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False  # all on the loopback address (bench.cluster.connection says how)
    os.environ.pop("RAY_ADDRESS", None)
    if mark is not None:
        os.environ["TEST_MARK"] = mark
    made = Cluster()
    try:
        with _patiently():
            (client,) = free_ports(1)
            own = {"num_cpus": 0, "include_dashboard": False, "ray_client_server_port": client, **(head or {})}
            made.add_node(wait=False, **_node(**own))
            made.client = f"ray://127.0.0.1:{client}"
            for arguments in nodes:
                made.add_node(wait=False, **_node(**{"num_cpus": 1, **arguments}))
        made.wait_for_nodes(_START_S)
        yield made
    finally:
        made.shutdown()
        os.environ.clear()
        os.environ.update(before)
