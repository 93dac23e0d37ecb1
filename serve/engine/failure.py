"""What a server's log, its exit status and the kernel's counters say about why it ended. Pure: text in, `Failure` out.

What a log says is read by `monitoring.logs`, for every kind of server; here its causes become errors of this package.
"""

import signal
from dataclasses import dataclass
from pathlib import Path

from monitoring.logs.reading import read
from serve import errors
from serve.processes.memory_kills import NOT_LOOKED, MemoryVerdict

READ_LOG = "Look into the log for what happened before."
KILLED = "A process of the server was killed by signal 9."
SILENT = ("killed", "ended-silently")  # causes that the kernel's counters know more of than the log
KERNELS = ("no-cpu-kernel", "no-kernel")  # causes that show at the first request only
_LESS_MEMORY = (
    "Lower cpu_kv_cache_gib, max_model_len or max_num_seqs, quantize the model, or end other programs that use memory."
)
_IF_MEMORY = f"If it was memory: {_LESS_MEMORY[0].lower()}{_LESS_MEMORY[1:]}"
_ERRORS: dict[str, type[errors.ServeError]] = {
    one.kind: one
    for one in (
        errors.StartFailed,
        errors.OutOfMemory,
        errors.Unsupported,
        errors.MissingWeights,
        errors.Unauthorized,
        errors.PortInUse,
        errors.BadModel,
        errors.BadArgument,
        errors.MissingPackage,
    )
}


@dataclass(frozen=True)
class Failure:
    """Why a server ended: the error class to raise, its summary, the engine's own words and the next step."""

    error: type[errors.ServeError]
    summary: str
    engine_words: str | None
    next_step: str

    def to_error(self, log_path: Path | None = None) -> errors.ServeError:
        return self.error(self.summary, engine_words=self.engine_words, next_step=self.next_step, log_path=log_path)


def classify(log: str, exit_status: int | None, memory: MemoryVerdict = NOT_LOOKED) -> Failure:
    """Why a start failed, from the log's text and the exit status (negative: a signal; None: still running).

    `memory` is what the kernel counted from before the start to now.
    """
    said = read(lines(log))
    words = said.words or " … ".join(said.matter) or said.last
    silent = said.cause is not None and said.cause.name in SILENT
    if silent or (not said.cause and exit_status == -signal.SIGKILL):
        summary = said.cause.says if said.cause and exit_status != -signal.SIGKILL else KILLED
        if memory.happened:
            return Failure(errors.OutOfMemory, f"{summary} {memory.words}", words, _LESS_MEMORY)
        return Failure(errors.StartFailed, summary, words, f"{memory.words} {_IF_MEMORY}")
    if said.cause:
        return Failure(_ERRORS[said.cause.kind], said.cause.says, words, said.cause.todo)
    why = ", for a reason that is not known here" if said.failed else ""
    return Failure(errors.StartFailed, f"The server ended {_exit_words(exit_status)}{why}.", words, READ_LOG)


def died(log: str, exit_status: int | None, memory: MemoryVerdict = NOT_LOOKED) -> Failure:
    """Why a server that was ready has ended, from its log since it was ready."""
    said = read(["Application startup complete", *lines(log)])
    if said.cause and said.cause.serving != "requests" and said.cause.name not in SILENT:
        summary = f"The server died while it served. {said.cause.says}"
        error = errors.EngineUnfit if said.cause.name in KERNELS else errors.EngineDied
        return Failure(error, summary, said.words, said.cause.todo)
    words = " … ".join(said.matter) if said.failed else None
    if exit_status not in (None, 0):
        summary = f"The server died while it served, {_exit_words(exit_status)}."
    else:
        summary = "The server's engine core died while it served" + ("." if words else ", without a word of why.")
    next_step = READ_LOG
    if exit_status == -signal.SIGKILL or not words or said.cause:
        next_step = f"{memory.words} {_LESS_MEMORY if memory.happened else _IF_MEMORY}"
    return Failure(errors.EngineDied, summary, words, next_step)


def lines(log: str) -> list[str]:
    """A log's lines; a progress bar's carriage returns end one, too."""
    return log.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def last_line(log: str) -> str | None:
    """The log's last message, None when it has none."""
    return read(lines(log)).last


def _exit_words(exit_status: int | None) -> str:
    if exit_status is None:
        return "without an exit status"
    return f"by signal {-exit_status}" if exit_status < 0 else f"with exit status {exit_status}"
