"""What is started again and again, imported once: a process that forks each, with a keeper and a warden of its own.

    python tests/forked/servers.py MODULE SOCKET

vLLM's API server imports for ten seconds of a core before it reads its command line, Locust for one and a half. This
process has done so when it is asked: it forks a keeper, which goes on as `serve.processes.warden` would have after its
start, and where the warden executes `python -m MODULE …` that module's main function runs instead. Environment, folder,
log, pipes, session and command line are those asked for. It ends when its standard input does.

Whoever starts one meets `start` in place of subprocess.Popen (see sitecustomize). What is not exactly this command in
an environment that imports the same is executed as ever; so is all that is started without $NBRIDGE_TEST_FORKS. What is
forked is no descendant of who started it, which a test of descendants has to know.
"""

import array
import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NoReturn

from serve.processes import warden

VARIABLE = "NBRIDGE_TEST_FORKS"  # the folder of the sockets, each with the name of its module
# Module → what it imports: first the module whose main function it runs.
PRELOADED = {
    # The engine and its worker are forked from the API server, so what they import is imported here as well.
    "vllm.entrypoints.openai.api_server": (
        "vllm.entrypoints.launchers.api_server.entry",
        "vllm.entrypoints.launchers.cli_args",
        "vllm.entrypoints.serve.utils.api_utils",
        "vllm.v1.engine.async_llm",
        "vllm.v1.engine.core",
        "vllm.v1.executor.multiproc_executor",
        "vllm.v1.worker.cpu_worker",
        "vllm.model_executor.models.llama",
    ),
    "locust": (
        "locust.main",
        "bench.client.probe",
        "bench.client.stream",
        "bench.load.afar",
        "bench.load.conductor",
        "bench.load.crew",
        "bench.load.hub",
        "bench.load.loadfile",
        "bench.load.locust_statistics",
        "bench.load.users",
    ),
    "nbridge": (
        "nbridge",
        "alignment.cli",
        "bench.cli",
        "bench.execution",
        "bench.run",
        "gateway.cli",
        "monitoring.cli",
        "planning.cli",
        "reports.cli",
        "serve.cli",
        "matplotlib.figure",
        "pandas",
        "pyarrow.csv",
        "pyarrow.parquet",
        "scipy.stats",
    ),
}
# What libraries read while they are imported: with another value than here a server is not forked.
READ_BY_IMPORTS = (
    "HF_",
    "HOME",
    "KMP_",
    "LD_",
    "MKL_",
    "OMP_",
    "PYTHON",
    "TORCH",
    "TRANSFORMERS_",
    "VLLM_LOGGING",
    "XDG_",
)


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
    if (forked := _ask(server, env, str(Path.cwd()), [*pass_fds, stdout.fileno()])) is not None:
        with forked.asking:
            return forked.go()
    return subprocess.Popen(argv, env=env, stdout=stdout, pass_fds=pass_fds, **options)


def run(argv: list[str], *, cwd: Path, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """In place of subprocess.run for a command that reads nothing: it ends by itself, and what it says is kept."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        forked = _ask(argv, dict(os.environ), str(cwd), [out.fileno(), err.fileno()])
        if forked is None:
            return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=cwd)
        with forked.asking:
            forked.asking.settimeout(timeout_s)
            keeper = forked.go()
            try:
                status = int(forked.words.readline())
            except TimeoutError:
                keeper.kill()
                raise subprocess.TimeoutExpired(argv, timeout_s) from None
        said = [_said(file) for file in (out, err)]
    return subprocess.CompletedProcess(argv, status, *said)


def _said(file: IO[bytes]) -> str:
    file.seek(0)
    return io.TextIOWrapper(io.BytesIO(file.read())).read()


@dataclass
class _Forked:
    pid: int
    asking: socket.socket
    words: IO[str]

    def go(self) -> Keeper:
        keeper = Keeper(self.pid)
        self.asking.sendall(b"go")
        return keeper


def _ask(argv: list[str], env: dict[str, str], cwd: str, fds: list[int]) -> _Forked | None:
    """A fork that waits to go on; None when there is none for this."""
    if argv[:2] != [sys.executable, "-m"] or argv[2] not in PRELOADED or VARIABLE not in env:
        return None
    asking = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError):
        asking.connect(str(Path(env[VARIABLE]) / argv[2]))
        asked = json.dumps({"argv": argv, "env": env, "cwd": cwd}).encode()
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        asking.sendmsg([len(asked).to_bytes(4, "big")], passed)
        asking.sendall(asked)
        words = asking.makefile()
        if pid := int(words.readline() or 0):
            return _Forked(pid, asking, words)
    asking.close()
    return None


def main(module: str, path: str) -> None:
    """Import what `module` imports, then fork it for each that asks at the socket `path`, until standard input ends."""
    import setproctitle

    # The first call looks for its place beside the environment, which is another one in a fork.
    setproctitle.setproctitle(f"{module} imported for the tests")
    started = dict(os.environ)
    unpatched = socket.socket
    listener = unpatched(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen(64)
    Path(f"{path}.new").rename(path)  # who sees it can connect
    _keep_from_gevent()
    for name in PRELOADED[module]:
        with contextlib.suppress(ImportError):  # of another version; it is then imported by each that is forked
            importlib.import_module(name)
    imported = {name: value for name, value in os.environ.items() if started.get(name) != value}
    kept = {fd for fd in _open() if fd != listener.fileno()}
    assert threading.active_count() == 1, "a fork would lose threads"
    signal.signal(signal.SIGCHLD, _reap)  # who asked waits for the keeper itself
    gc.freeze()
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        asking = unpatched(fileno=listener._accept()[0])
        size, fds = _received(asking)
        words = asking.makefile("rb")
        asked = json.loads(words.read(size))
        others = {name for name in started.keys() | asked["env"] if started.get(name) != asked["env"].get(name)}
        if any(name.startswith(READ_BY_IMPORTS) for name in others - {"PYTHONUNBUFFERED"}):
            pid = 0
        elif (pid := os.fork()) == 0:
            listener.close()
            if words.read(2) == b"go":
                _become(asked, imported)
                (_keep if len(fds) == 3 else _command)(asked["argv"], fds, kept, asking)
            os._exit(1)
        with contextlib.suppress(OSError):
            asking.sendall(f"{pid}\n".encode())
        words.close()
        asking.close()
        for fd in fds:
            os.close(fd)


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _keep_from_gevent() -> None:
    """Give this module and the warden `os`, `select` … of their own: Locust's import replaces functions in these."""
    for module in (sys.modules[__name__], warden):
        for name in ("os", "select", "signal", "time"):
            own = ModuleType(name)
            own.__dict__.update(sys.modules[name].__dict__)
            setattr(module, name, own)


def _open() -> set[int]:
    """The open file descriptors; without the one of the folder that lists them."""
    return {int(entry.name) for entry in list(Path("/proc/self/fd").iterdir()) if entry.is_symlink()}


def _received(asking: socket.socket) -> tuple[int, list[int]]:
    fds = array.array("i")
    head, ancillary, _, _ = asking.recvmsg(4, socket.CMSG_SPACE(8 * fds.itemsize))
    for _, _, data in ancillary:
        fds.frombytes(data)
    return int.from_bytes(head, "big"), list(fds)


def _become(asked: dict[str, Any], imported: dict[str, str]) -> None:
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update({**imported, **asked["env"]})
    sys.path[0] = asked["cwd"]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _keep(argv: list[str], fds: list[int], kept: set[int], _: socket.socket) -> None:
    """What `python -I -S warden.py CONTROL STATUS …` does in a session of its own."""
    os.setsid()
    control, status, log = fds
    _speak(log, log)
    warden.os.execvp = lambda _, argv: _serve(argv, kept)  # in this process and its own only
    warden.main(control, status, argv)
    os._exit(0)


def _command(argv: list[str], fds: list[int], kept: set[int], asking: socket.socket) -> None:
    """Run to the end what subprocess.run would, and say how it ended."""
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(warden.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _speak(*fds)
        _serve(argv, kept)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    asking.sendall(f"{status}\n".encode())
    os._exit(0)


def _speak(out: int, err: int) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(source, target)


def _serve(argv: list[str], kept: set[int]) -> NoReturn:
    """The server in place of an executed one: nothing of its parents is open, and signals are a new Python's."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for fd in _open() - kept - {0, 1, 2}:
        os.close(fd)
    sys.modules["setproctitle"].setproctitle(" ".join(argv))
    main_module = importlib.import_module(PRELOADED[argv[2]][0])
    sys.argv = [str(main_module.__file__), *argv[3:]]
    if "gevent" in sys.modules:
        sys.modules["gevent"].reinit()
    code = 1
    try:
        main_module.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001 - this is where Python itself would print it
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
