"""Runs one command and outlives it only to leave nothing behind. Standard library only; executed as a script.

    parent ──control pipe──► warden ──fork──► command ──► its children, grandchildren, …
           ◄──status pipe───   │
                 keeper ───────┘

The warden ends the command, and then every descendant, when

- the parent writes `stop <grace seconds>` to the control pipe, or the pipe closes because the parent died,
- the command itself ends (an engine core must not outlive its API server).

Keeper and warden are subreapers: a descendant whose parent dies becomes a child of the warden, and of the keeper
when the warden is gone too, so "all descendants" is well defined at any time. The keeper, the warden's parent,
does nothing but kill what a killed warden leaves; the warden ends everything when the keeper is killed. The
command carries PR_SET_PDEATHSIG, so that it goes at once with the warden.

On the status pipe the warden writes `pid <command> <warden>` or `cannot <errno>` after the start, and
`exit <status>` when the command has ended (negative: the signal's number).
"""

import contextlib
import ctypes
import math
import os
import select
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ORPHAN_GRACE_S = 5.0
KEEPER_CHECK_S = 1.0


def main(control_fd: int, status_fd: int, argv: list[str]) -> None:
    """Run `argv` to its end, or until the parent says stop or is gone; return when no descendant is left."""
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    _become_subreaper(libc)
    keeper_pid = os.getpid()
    warden_pid = os.fork()
    if warden_pid == 0:
        _become_subreaper(libc)
        _guard(libc, control_fd, status_fd, argv, keeper_pid)
        os._exit(0)
    os.close(control_fd)
    os.close(status_fd)
    while os.waitpid(-1, 0)[0] != warden_pid:
        pass
    _kill_all(warden_pid)


def _guard(libc: ctypes.CDLL, control_fd: int, status_fd: int, argv: list[str], keeper_pid: int) -> None:
    for fd in (control_fd, status_fd):
        os.set_inheritable(fd, False)  # a pipe that the command also held would never close
    wake_fd = _wake_on_child_exit()
    pid = _spawn(libc, argv, status_fd)
    if pid is None:
        return
    _say(status_fd, f"pid {pid} {os.getpid()}")
    ancestors = _ancestors(keeper_pid)
    status, deadline, has_parent = None, math.inf, True
    while status is None and (now := time.monotonic()) < deadline:
        watched = [wake_fd, control_fd] if has_parent else [wake_fd]
        ready = select.select(watched, [], [], min(KEEPER_CHECK_S, deadline - now))[0]
        if wake_fd in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_fd, 4096)
        # A process that the parent forked may still hold the other end of the pipe, so its pid is checked too.
        if control_fd in ready or (has_parent and _ancestors(keeper_pid) != ancestors):
            grace_s = _grace_s(control_fd) if control_fd in ready else None
            if deadline == math.inf:
                os.kill(pid, signal.SIGTERM)
            deadline = min(deadline, time.monotonic() + (ORPHAN_GRACE_S if grace_s is None else grace_s))
            has_parent = grace_s is not None
        status = _reap().get(pid)
    status = _kill_all(pid) if status is None else status
    _say(status_fd, f"exit {status}")
    _kill_all(pid)


def _become_subreaper(libc: ctypes.CDLL) -> None:
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _spawn(libc: ctypes.CDLL, argv: list[str], status_fd: int) -> int | None:
    """Start the command as the leader of its own session; None when it cannot be executed."""
    warden_pid = os.getpid()
    failed_r, failed_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != warden_pid:  # the warden died before the line above
                os._exit(1)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.execvp(argv[0], argv)  # noqa: S606 - argv comes from the parent as a list, no shell is involved
        except OSError as error:
            os.write(failed_w, str(error.errno).encode())
        os._exit(127)
    os.close(failed_w)
    errno = os.read(failed_r, 16)
    os.close(failed_r)
    if errno:
        os.waitpid(pid, 0)
        _say(status_fd, f"cannot {errno.decode()}")
        return None
    return pid


def _grace_s(control_fd: int) -> float | None:
    """The seconds that the latest `stop` message grants; None when the parent is gone."""
    words = os.read(control_fd, 256).split()
    return float(words[-1]) if words else None


def _kill_all(pid: int) -> int | None:
    """SIGKILL every descendant until the kernel knows of no child; the exit status of `pid` if it ended here."""
    status = None
    while True:
        for descendant in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(descendant, signal.SIGKILL)
        try:
            ended, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if ended == pid:
            status = os.waitstatus_to_exitcode(raw)
        elif ended == 0:
            time.sleep(0.01)


def _reap() -> dict[int, int]:
    """Collect every child that has ended: pid → exit status."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while (child := os.waitpid(-1, os.WNOHANG))[0]:
            ended[child[0]] = os.waitstatus_to_exitcode(child[1])
    return ended


def descendants(root: int, proc: Path = Path("/proc")) -> list[int]:
    """Every process below `root`, nearest first, read from /proc/<pid>/stat."""
    children: dict[int, list[int]] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(stat_fields(entry)[1]), []).append(int(entry.name))
    found = list(children.get(root, []))
    for pid in found:
        found += children.get(pid, [])
    return found


def stat_fields(entry: Path) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on: state, parent, group, session, …"""
    # The name in parentheses may hold anything, so the fields start after the last one.
    return (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()


def _ancestors(keeper_pid: int) -> tuple[int, int | None]:
    """The warden's parent and the keeper's; they change when keeper or parent die."""
    try:
        return os.getppid(), int(stat_fields(Path(f"/proc/{keeper_pid}"))[1])
    except OSError:
        return os.getppid(), None


def _wake_on_child_exit() -> int:
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    return read_fd


def _say(status_fd: int, text: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more: the parent is gone
        os.write(status_fd, f"{text}\n".encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
