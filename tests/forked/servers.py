"""What is started again and again, imported once: a process that forks each, with a keeper and a warden of its own.

    python tests/forked/servers.py MODULE SOCKET

vLLM's API server imports for ten seconds of a core before it reads its command line, Locust for one and a half. This
process has done so when it is asked: it forks a keeper, which goes on as `serve.processes.warden` would have after its
start, and where the warden executes `python -m MODULE …` that module's main function runs instead. Environment, folder,
log, pipes, session and command line are those asked for. There is one for all workers of pytest; it ends when its
standard input does, which is with the tests.

Who asks for them, and how: forks. A command without a warden, which a test starts itself, has a process in between that
says how it ended.
"""

import array
import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from serve.processes import warden

VARIABLE = "NBRIDGE_TEST_FORKS"  # the folder of the sockets, each with the name of its module
END = "end"  # a pipe in that folder: the standard input of all who import, open for writing as long as the tests run
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
        "gateway.agent.process",
        "gateway.cli",
        "gateway.cloud.process",
        "gateway.operations",
        "gateway.running",
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
# Module → another of which its imports are a part.
BESIDE = {"gateway.agent.process": "nbridge", "gateway.cloud.process": "nbridge"}
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
                if len(fds) == 3:
                    _keep(asked["argv"], fds, kept)
                _command(asked["argv"], fds, kept, asking, asked["session"])
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


def _keep(argv: list[str], fds: list[int], kept: set[int]) -> None:
    """What `python -I -S warden.py CONTROL STATUS …` does in a session of its own."""
    os.setsid()
    control, status, log = fds
    _speak(log, log)
    warden.os.execvp = lambda _, argv: _serve(argv, kept)  # in this process and its own only
    warden.main(control, status, argv)
    os._exit(0)


def _command(argv: list[str], fds: list[int], kept: set[int], asking: socket.socket, session: bool) -> None:
    """Run a test's own process, and say which it is and how it ended."""
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(warden.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if session:
            os.setsid()
        _speak(*fds)
        _serve(argv, kept)
    for fd in fds:
        os.close(fd)
    asking.sendall(f"{pid}\n".encode())
    asking.sendall(f"{os.waitpid(pid, 0)[1]}\n".encode())
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
    if "gevent" in sys.modules:
        sys.modules["gevent"].reinit()
    code = 1
    try:
        _run(argv[1:])
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


def _run(words: list[str]) -> None:
    """What Python would run, words as on its command line: `-m MODULE …`, `-c CODE …` or `FILE …`."""
    sys.argv = words[1:] if words[0].startswith("-") else words
    if words[0] == "-m" and words[1] in {*PRELOADED, *BESIDE}:
        module = importlib.import_module(PRELOADED.get(words[1], words[1:])[0])
        sys.argv[0] = str(module.__file__)
        module.main()
    elif words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv[0] = "-c"
        sys.modules["__main__"] = module = ModuleType("__main__")
        exec(words[1], module.__dict__)
    else:
        sys.path[0] = str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
