"""Who starts what `servers` forks: in place of subprocess.Popen, for owned processes and for those of a test itself.

Whoever owns one meets `start` (see sitecustomize); a test that wants no warden takes `Popen` or `run`. What is not
exactly `python -m MODULE …` with a module of there, in an environment that imports the same, is executed as ever; so is
all that is started without $NBRIDGE_TEST_FORKS. What is forked is no descendant of who started it, which a test of
descendants has to know.
"""

import array
import atexit
import contextlib
import fcntl
import inspect
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import servers

VLLM = "vllm.entrypoints.openai.api_server"
_FIRST: dict[str, str] = {}  # the environment before any test has changed it
_HELD: list[object] = []  # as long as this process


def begin() -> None:
    """Before any test: say where to find what is imported for all workers of pytest. It ends with the first process."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        os.environ[servers.VARIABLE] = folder = tempfile.mkdtemp(prefix="nbridge-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.mkfifo(Path(folder) / servers.END)
        _HELD.append(os.open(Path(folder) / servers.END, os.O_RDWR))
    _FIRST.update(os.environ)


def import_once(module: str) -> None:
    """Have it imported, once for all workers; returns when that process can be asked."""
    path = Path(_FIRST[servers.VARIABLE]) / module
    if path.is_socket():
        return
    with path.with_name(f"{module}.lock").open("w") as lock, path.with_name(f"{module}.log").open("ab") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker starts it, the others wait
        if path.is_socket():
            return
        with path.with_name(servers.END).open("rb", buffering=0) as end:
            argv = [sys.executable, servers.__file__, module, str(path)]
            importing = subprocess.Popen(
                argv, env={**_FIRST, "PYTHONUNBUFFERED": "1"}, stdin=end, stdout=log, stderr=log
            )
        _HELD.append(importing)
        while not path.is_socket() and importing.poll() is None:
            time.sleep(0.02)


class Keeper:
    """The keeper of a forked server, which is no child of this process: as much of a Popen as its owner uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def __del__(self) -> None:
        os.close(self._fd)

    def wait(self) -> None:
        select.select([self._fd], [], [])

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)


def start(argv: Sequence[str], *, env: dict[str, str], stdout: Any, pass_fds: Sequence[int], **options: Any) -> Any:
    """In place of the subprocess.Popen of `serve.processes.process`: a Keeper if the server can be forked."""
    server = list(argv[6:])  # python -I -S warden.py CONTROL STATUS …
    if (module := _module(server)) and servers.VARIABLE in env:
        forked = _ask(module, server, env, str(Path.cwd()), [*pass_fds, stdout.fileno()])
        if forked is not None:
            with forked.asking:
                return forked.go()
    return subprocess.Popen(argv, env=env, stdout=stdout, pass_fds=pass_fds, **options)


class Popen(subprocess.Popen[Any]):
    """subprocess.Popen for a process of a test's own, which is forked where it can be and then reads nothing.

    `beside`: a module with whose imports any program of Python shall begin.
    """

    _forked: "_Forked | None" = None

    def __init__(self, argv: Sequence[object], *, beside: str = "", **options: Any) -> None:
        self._beside = beside
        super().__init__([*map(str, argv)], **options)

    def _execute_child(self, argv: list[str], *others: Any) -> None:
        execute: Any = super()._execute_child  # type: ignore[misc]
        asked = inspect.signature(execute).bind(argv, *others).arguments
        env = dict(os.environ if asked["env"] is None else asked["env"])
        module = self._beside or _module(argv)
        if module and servers.VARIABLE in env and asked["p2cread"] == -1:
            import_once(module)
            out, err = (fd if (fd := asked[name]) != -1 else own for own, name in ((1, "c2pwrite"), (2, "errwrite")))
            cwd = str(asked["cwd"] or Path.cwd())
            self._forked = _ask(module, argv, env, cwd, [out, err], asked["start_new_session"])
        if self._forked is None:
            execute(argv, *others)
            return
        self._forked.asking.sendall(b"go")
        self.pid = int(self._forked.words.readline())
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(asked[name] for name in pipes))  # type: ignore[attr-defined]

    def _internal_poll(self, **options: Any) -> int | None:
        if self._forked is not None:
            options["_waitpid"] = self._waited
        code: int | None = super()._internal_poll(**options)  # type: ignore[misc]
        return code

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if self._forked is not None:
            return self._waited(self.pid, flags)
        found: tuple[int, int] = super()._try_wait(flags)  # type: ignore[misc]
        return found

    def _waited(self, pid: int, flags: int) -> tuple[int, int]:
        """As os.waitpid: it is the child of a fork that says how it ended."""
        assert self._forked is not None
        if not select.select([self._forked.asking], [], [], 0 if flags else None)[0]:
            return 0, 0
        with self._forked.asking:
            return pid, int(self._forked.words.readline() or signal.SIGKILL)


def run(
    argv: Sequence[object], *, cwd: Path | None = None, timeout_s: float = 300, beside: str = ""
) -> subprocess.CompletedProcess[str]:
    """In place of subprocess.run: text that is captured, and no exit code raises."""
    pipe = subprocess.PIPE
    with Popen(argv, beside=beside, cwd=cwd, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


@dataclass
class _Forked:
    pid: int
    asking: socket.socket
    words: IO[str]

    def go(self) -> Keeper:
        keeper = Keeper(self.pid)
        self.asking.sendall(b"go")
        return keeper


def _module(argv: list[str]) -> str | None:
    """The module whose imports are those of a command."""
    if argv[:2] != [sys.executable, "-m"]:
        return None
    return argv[2] if argv[2] in servers.PRELOADED else servers.BESIDE.get(argv[2])


def _ask(
    module: str, argv: list[str], env: dict[str, str], cwd: str, fds: list[int], session: bool = False
) -> _Forked | None:
    """A fork that waits to go on; None when there is none for this."""
    asking = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError):
        asking.connect(str(Path(env[servers.VARIABLE]) / module))
        asked = json.dumps({"argv": argv, "env": env, "cwd": cwd, "session": session}).encode()
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        asking.sendmsg([len(asked).to_bytes(4, "big")], passed)
        asking.sendall(asked)
        words = asking.makefile()
        if pid := int(words.readline() or 0):
            return _Forked(pid, asking, words)
    asking.close()
    return None
