"""What stands in front of the replicas: our gateway, HAProxy without the agent, nginx as the guide has it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.studies.chaos import peers
from serve.processes import port
from serve.processes.process import OwnedProcess

HOST = "127.0.0.1"
READY_S = 180.0
# The deployment guide's §4.3, its names and ports replaced, and streams let through.
GUIDE_NGINX = """pid {folder}/nginx.pid;
error_log {folder}/error.log;
daemon off;
events {{}}
http {{
  access_log off;
  upstream vllm_backend {{
    least_conn;
{servers}
  }}
  server {{
    listen {host}:{port};
    location /v1/ {{
      proxy_pass http://vllm_backend;
      proxy_connect_timeout 300s;
      proxy_send_timeout 300s;
      proxy_read_timeout 300s;
      proxy_buffering off;
    }}
  }}
}}
"""


@dataclass
class Replica:
    """A fake replica in a process of its own."""

    name: str
    folder: Path
    port: int
    process: OwnedProcess | None = None

    def start(self) -> None:
        argv = [sys.executable, "-m", "bench.studies.chaos.replica", str(self.port), str(self.folder), "m"]
        self.process = OwnedProcess(argv, environment=dict(os.environ), log_path=self.folder / "replica.log")
        wait(lambda: listens(self.port), f"replica {self.name}")

    def be(self, fault: str) -> None:
        (self.folder / ".fault").write_text(fault, encoding="utf-8")
        (self.folder / ".fault").replace(self.folder / "fault")

    def signal(self, number: int) -> None:
        if self.process is not None:
            os.kill(self.process.pid, number)

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop(0.0)

    def began(self) -> list[str]:
        """The ids of the requests whose answer has begun here."""
        path = self.folder / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [
            entry["id"] for entry in map(json.loads, lines) if entry["status"] == 200 and entry["id"]
        ]  # canaries have none


@dataclass
class Door:
    """What users are sent to, where there are such: `gateway` our process, `process` that of whatever door it is,
    `socket` HAProxy's runtime interface.
    """

    kind: str
    url: str
    folder: Path
    socket: Path | None = None
    gateway: OwnedProcess | None = None
    process: OwnedProcess | None = None
    restart: Callable[[], None] | None = None
    document: dict[str, Any] = field(default_factory=dict)

    def status(self, name: str) -> str | None:
        """A server's state by HAProxy; None where nobody can say."""
        if self.socket is None:
            return None
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asked:
            asked.connect(str(self.socket))
            asked.sendall(b"show stat\n")
            page = b""
            while part := asked.recv(1 << 16):
                page += part
            for line in page.decode().splitlines():
                if line.startswith(f"model.m,{name},"):
                    return line.split(",")[17]
        return None

    def retried(self) -> int | None:
        """Requests that were sent more than once, by HAProxy's log."""
        logs = [path for path in self.folder.rglob("haproxy.log*") if path.is_file()]
        if not logs:
            return None
        lines = [line for path in logs for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "{"]
        return sum(json.loads(line)["retries"].strip("+") not in ("", "0") for line in lines)


@contextmanager
def opened(kind: str, folder: Path, replicas: list[Replica], model: str = "m") -> Iterator[Door]:
    """A door of this kind that listens. Raises BenchError when its program is missing."""
    number = port.pick(HOST)
    servers = "".join(
        f'[[server]]\nname = "{r.name}"\nurl = "http://{HOST}:{r.port}"\nmodel = "{model}"\n' for r in replicas
    )
    file = folder / "gateway.toml"
    file.write_text(f"[gateway]\nport = {number}\nmetrics_port = {port.pick(HOST)}\n{servers}", encoding="utf-8")
    peer = peers.program(kind) if kind in peers.PEERS else None
    if peer is None and shutil.which(kind.partition(" ")[0].replace("gateway", "haproxy")) is None:
        raise BenchError(f"{kind}: its program is not installed.")
    door = Door(kind, f"http://{HOST}:{number}", folder)
    processes: list[OwnedProcess] = []

    def run(argv: list[str], log: str) -> OwnedProcess:
        process = OwnedProcess(argv, environment=dict(os.environ), log_path=folder / log)
        processes.append(process)
        door.process = process
        wait(lambda: listens(number) or process.exit_status() is not None, kind)
        if process.exit_status() is not None:
            last = (folder / log).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise BenchError(f"{kind} ended: {' '.join(last) or 'it said nothing'}")
        return process

    nbridge = [sys.executable, "-m", "nbridge", "gateway"]
    if kind == "gateway":
        data = folder / "data"
        door.socket = data / "haproxy.sock"

        def start() -> None:
            door.gateway = run(
                [*nbridge, "run", str(file), "--data", str(data), "--json"], f"gateway{len(processes)}.log"
            )
            wait((data / "status.json").exists, "the agent")

        door.restart = start
        start()
    elif kind == "haproxy alone":
        out = folder / "out"
        subprocess.run([*nbridge, "render", str(file), "--out", str(out)], check=True, capture_output=True)
        door.socket = out / "haproxy.sock"
        run(["haproxy", "-W", "-f", str(out / "haproxy.cfg")], "haproxy.log")
    elif peer is not None:
        run(peers.command(kind, peer, number, [f"http://{HOST}:{r.port}" for r in replicas], model, folder), "peer.log")
        wait(lambda: peers.answers(door.url), kind)
    else:
        lines = "\n".join(f"    server {HOST}:{r.port};" for r in replicas)
        config = GUIDE_NGINX.format(folder=folder, servers=lines, host=HOST, port=number)
        (folder / "nginx.conf").write_text(config, encoding="utf-8")
        run(["nginx", "-p", str(folder), "-c", "nginx.conf"], "nginx.log")
    try:
        yield door
    finally:
        for process in processes:
            process.stop(5.0)


def listens(number: int) -> bool:
    """Whether somebody takes connections on a port of this machine."""
    try:
        socket.create_connection((HOST, number), 1.0).close()
    except OSError:
        return False
    return True


def wait(is_so: Callable[[], bool], what: str) -> None:
    """Wait until something is so. Raises BenchError when it takes too long."""
    deadline_s = time.monotonic() + READY_S
    while not is_so():
        if time.monotonic() > deadline_s:
            raise BenchError(f"{what} did not come up within {READY_S:g} s.")
        time.sleep(0.02)


def signalled(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
