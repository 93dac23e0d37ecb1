"""One command owned as a whole: its process tree lives and dies with this object (see serve.processes.warden)."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from serve.processes import warden
from serve.processes.memory_kills import MemoryKills
from serve.processes.warden import descendants, stat_fields

OWNER_VARIABLE = "NBRIDGE_SERVER_ID"
KILL_WAIT_S = 30.0


class OwnedProcess:
    """A running command, its process group `pgid` and everything it has started.

    `pid` is the command's own process, which leads its session and group.
    """

    def __init__(self, argv: Sequence[str], *, environment: Mapping[str, str], log_path: Path) -> None:
        """Execute `argv`; its output goes to `log_path`, replaced. Raises OSError when it cannot be executed."""
        self._owner = uuid.uuid4().hex
        self.memory_kills = MemoryKills()
        # Appended to, so that whoever shortens the file meanwhile leaves no hole in it.
        log_path.write_bytes(b"")
        with log_path.open("ab") as log:
            control_r, self._control_w = os.pipe()
            status_r, status_w = os.pipe()
            # By path and isolated: the warden starts in some 40 ms, whatever the folder or PYTHONPATH.
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", warden.__file__, str(control_r), str(status_w), *argv],
                env={**environment, OWNER_VARIABLE: self._owner},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(control_r, status_w),
                start_new_session=True,
            )
        os.close(control_r)
        os.close(status_w)
        self._status = os.fdopen(status_r, encoding="ascii")
        self._ended = threading.Event()
        self._exit_status: int | None = None
        self.pid, self.warden_pid = self._read_pids(argv[0])
        self.pgid = self.pid
        self._watcher = threading.Thread(target=self._watch, name="server-watch", daemon=True)
        self._watcher.start()

    def _read_pids(self, program: str) -> tuple[int, int]:
        word, *numbers = self._status.readline().split() or ["nothing"]
        if word == "pid":
            return int(numbers[0]), int(numbers[1])
        self._keeper.wait()
        self._status.close()
        os.close(self._control_w)
        errno = int(numbers[0]) if numbers else 0
        raise OSError(errno, os.strerror(errno), program)

    def _watch(self) -> None:
        """Wait for the end; when the warden was killed, kill what it can no longer kill."""
        for line in self._status:
            word, _, number = line.strip().partition(" ")
            if word == "exit":
                self._exit_status = int(number)
        self._keeper.wait()
        if self._exit_status is None:
            self._exit_status = -signal.SIGKILL
            self._sweep()
        self._status.close()
        self._ended.set()

    def _sweep(self) -> None:
        deadline = time.monotonic() + KILL_WAIT_S
        while (left := owned_pids(self.pid, self._owner)) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    @property
    def keeper_pid(self) -> int:
        return self._keeper.pid

    def exit_status(self) -> int | None:
        """The command's exit status (negative: the signal that killed it), None while it runs."""
        return self._exit_status

    def pids(self) -> list[int]:
        """Every living process of the command, its own first; the warden is not one of them."""
        if self._ended.is_set():
            return []
        return [pid for pid in descendants(self._keeper.pid) if pid != self.warden_pid]

    def stop(self, grace_s: float) -> None:
        """SIGTERM to the command, after `grace_s` seconds SIGKILL to all of its tree; returns when none is left."""
        with contextlib.suppress(OSError):
            os.write(self._control_w, f"stop {grace_s}\n".encode())
        if not self._ended.wait(grace_s + KILL_WAIT_S):
            self._keeper.kill()  # hung on a process that the kernel will not end; the watcher sweeps the rest
            self._ended.wait(KILL_WAIT_S)
        with contextlib.suppress(OSError):
            os.close(self._control_w)
        self._control_w = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(0.0)


def owned_pids(session: int, owner: str, proc: Path = Path("/proc")) -> list[int]:
    """Living processes of a session, or with the owner's mark in their environment, wherever they hang now.

    Both are needed: a process can leave its session, and one that sets its title overwrites its environment.
    """
    mark, found = f"{OWNER_VARIABLE}={owner}".encode(), []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            fields = stat_fields(entry)
            is_zombie, in_session = fields[0] == "Z", int(fields[3]) == session
            if not is_zombie and (in_session or mark in (entry / "environ").read_bytes().split(b"\0")):
                found.append(int(entry.name))
    return found
