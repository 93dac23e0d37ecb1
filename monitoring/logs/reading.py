"""A server's log → whether it failed, and the cause: the first one in time, not the last line. Pure: lines in.

A log may hold several starts, as of a container that is restarted: the last one that failed is read. A server that was
ready is judged by what can end it, around the line in which it says that its engine is dead: what stands long before
belongs to requests that merely failed.
"""

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from monitoring.logs.causes import Cause, begun, shown
from monitoring.logs.lines import Line, clean

WORDS_LIMIT = 400
MATTER = 5
_NEAR = 300  # lines before an engine's obituary in which its cause stands
_KEPT = 2000  # telling lines of a start, from its beginning and from its end

_STARTS = re.compile(r"vLLM API server version|█     █     █▄   ▄█|^server_args=")
_READY = re.compile(
    r"Application startup complete|The server is fired up and ready to roll|Uvicorn running on|server is listening on|"
    r"starting the main loop|Serving Flask app"
)
_ANSWERED = re.compile(r'"POST /\S* HTTP/[\d.]+" 200\b')
_DEAD = re.compile(
    r"EngineDeadError|died unexpectedly|EngineCore encountered a fatal error|Engine core proc|"
    r"Background loop has errored|Received sigquit from a child process|Scheduler hit an exception|"
    r"Main process exited, code=(?:killed|dumped)|Shard \d+ (?:crashed|terminated)"
)
# Somebody stopped it: what is written after that (also that the engine is dead) is its end as it should be.
_STOPPED = re.compile(
    r"shutdown triggered|trigger received signal=SIG|^KeyboardInterrupt\b|"
    r"[Rr]eceived (?:exit )?(?:signal )?(?:SIGTERM|SIGINT|15\b)|^Shutting down|Got sigterm|Gracefully stopping|"
    r"^Stopping vLLM|: Stopp(?:ing|ed) .*\.service|Caught signal 15"
)
_NOT_UP = re.compile(r"[Ee]ngine core initialization failed|EngineCore failed to start|Initialization failed\. ")
_EXCEPTION = re.compile(
    r"(?:[A-Za-z_][\w.]*\.)?(?:[A-Z]\w*(?:Error|Exception|Exit)|Exception|KeyError)(?:\[[^\]]*\])?(?::|$)"
)
_OTHER_ERROR = re.compile(
    r": error: |No module named |terminate called|std::bad_alloc|Error parsing config|(?i:^(?:fatal )?error\b)|"
    r"\w+ failed with (?:error|status|exit)|^panicked at|thread '.*' panicked"
)
_HARMLESS = re.compile(
    r"Exception ignored in|generation[ _]config|^(?:During handling|The above exception)|will be ignored|"
    r"[Ff]alling back|Warning:"
)
_SAYS_NOTHING = re.compile(
    r"[Ee]ngine core initialization failed|EngineCore failed to start|please check the stack trace above|"
    r"validation error for|WorkerProc initialization failed|EngineDeadError|See root cause above"
)


@dataclass(frozen=True)
class Reading:
    """What a log says. `words` are the line that shows the cause; `matter`, at most five, what a person should read.

    `cause` is None where nothing failed, and where it failed for a reason that is not known here. `earlier`: the start
    that failed was not the last one in the log. `was_stopped`: somebody stopped the server, as by SIGTERM or
    Ctrl-C. `last` is the log's last line.
    """

    failed: bool
    was_ready: bool
    cause: Cause | None = None
    words: str | None = None
    matter: tuple[str, ...] = ()
    earlier: bool = False
    was_stopped: bool = False
    last: str | None = None


@dataclass(frozen=True)
class _Told:
    number: int
    line: Line
    cause: Cause | None


@dataclass
class _Start:
    """One start of the server, its lines so far."""

    count: int = 0
    ready_at: int | None = None
    dead_at: int | None = None
    not_up: bool = False
    stopped: bool = False
    told: list[_Told] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=MATTER))
    _pending: str = ""

    @property
    def has_ended(self) -> bool:
        return self.dead_at is not None or self.not_up or self.ready_at is not None or bool(self.told)

    def add(self, line: Line) -> None:
        self.count += 1
        if self.stopped:
            return
        self.stopped = self.dead_at is None and line.level != "access" and bool(_STOPPED.search(line.text))
        if line.level == "access":
            if self.ready_at is None and _ANSWERED.search(line.text):
                self.ready_at = self.count
            return
        self.last.append(readable(line.text))
        if self.ready_at is None and line.level in ("info", "plain") and _READY.search(line.text):
            self.ready_at, self.told = self.count, [one for one in self.told if one.cause and one.cause.serving]
        if line.level == "info" and _EXCEPTION.match(line.text):
            line = Line("plain", line.text)  # a program that logs what another one wrote, as INFO
        if line.level == "info":
            if cause := begun(line.text):
                self._tell(line, cause)
            return
        if line.level == "error" and len(self.errors) < MATTER:
            self.errors.append(readable(line.text))
        if line.level != "warning":
            self.not_up = self.not_up or bool(_NOT_UP.search(line.text))
            if self.dead_at is None and _DEAD.search(line.text):
                self.dead_at = self.count
        self._judge(line)

    def _judge(self, line: Line) -> None:
        text = f"{self._pending} {line.text.strip()}".strip() if self._pending else line.text.strip()
        raised = bool(self._pending) or bool(_EXCEPTION.match(text) or _OTHER_ERROR.search(text))
        self._pending = ""
        if _HARMLESS.search(text):
            return
        cause = shown(text)
        if cause and cause.weak and not cause.serving and not raised and not text.startswith("Value error"):
            cause = None
        if _SAYS_NOTHING.search(text) and (cause is None or (cause.weak and not cause.serving)):
            # "1 validation error for ModelConfig" is followed by its reason, or by a field's name and then the reason.
            self._pending = "ValidationError:" if "validation error for" in text else ""
            return
        is_name_of_field = text.startswith("ValidationError: ") and " " not in text[17:]
        if is_name_of_field or (raised and cause is None and text.endswith(":")):
            self._pending = text  # the message follows on the next line
            return
        if raised or cause:
            self._tell(Line(line.level, text), cause)

    def _tell(self, line: Line, cause: Cause | None) -> None:
        if len(self.told) >= 2 * _KEPT:
            del self.told[_KEPT]
        if not any(one.line.text == line.text and one.cause == cause for one in self.told[-20:]):
            self.told.append(_Told(self.count, line, cause))

    def reading(self) -> Reading:
        if self._pending:
            self._tell(Line("plain", self._pending), None)
        last = self.last[-1] if self.last else None
        found = self._while_serving() if self.ready_at is not None else self._at_start()
        if found is None and self.ready_at is not None:
            failed = self.dead_at is not None
        else:
            loud = [one for one in self.told if one.line.level != "warning"]
            failed = found is not None or self.not_up or self.dead_at is not None or bool(loud)
        if not failed:
            return Reading(False, self.ready_at is not None, was_stopped=self.stopped, last=last)
        words = readable(found.line.text) if found else None
        cause = found.cause if found else None
        return Reading(True, self.ready_at is not None, cause, words, self._matter(), last=last)

    def _at_start(self) -> _Told | None:
        loud = [one for one in self.told if one.line.level != "warning"]
        if not loud and not self.not_up:
            return None
        strong = [one for one in self.told if one.cause and not one.cause.weak]
        # Nothing is known: what says little by itself counts where it comes first, and no exception without a cause.
        return next((one for one in strong if one.line.level != "warning"), None) or next(
            iter(strong), next((one for one in loud[:1] if one.cause), None)
        )

    def _while_serving(self) -> _Told | None:
        since = self.ready_at or 0
        after = [one for one in self.told if one.number > since and one.cause and one.line.level != "warning"]
        ends = [one for one in after if one.cause and one.cause.serving == "ends"]
        if self.dead_at is not None:
            near = [one for one in ends if one.number >= self.dead_at - _NEAR]
            ends = near or [one for one in after if one.number >= self.dead_at]
        strong = [one for one in ends if one.cause and not one.cause.weak]
        requests = [one for one in after if one.cause and one.cause.serving == "requests"]
        return next(iter(strong or ends or (requests if self.dead_at is None else [])), None)

    def _matter(self) -> tuple[str, ...]:
        since = max(self.ready_at or 0, (self.dead_at or 0) - _NEAR)
        told = [readable(one.line.text) for one in self.told if one.number > since and one.line.level != "warning"]
        return tuple(dict.fromkeys(told or self.errors or self.last))[:MATTER]


def read(raw: Iterable[str]) -> Reading:
    """What a log's lines say; `raw` may be endless in length, and is read once."""
    starts = [_Start()]
    for line in clean(raw):
        if _STARTS.search(line.text) and starts[-1].has_ended:
            starts = [*starts[-8:], _Start()]
        starts[-1].add(line)
    readings = [start.reading() for start in starts]
    failed = next((reading for reading in reversed(readings) if reading.failed), None)
    if failed is None:
        return readings[-1]
    if failed is readings[-1]:
        return failed
    return replace(failed, earlier=True, last=readings[-1].last)


def says_engine_is_dead(raw: str) -> bool:
    """Whether a log line of a server that was ready says that its engine has died."""
    return bool(_DEAD.search(raw)) and any(
        line.level in ("error", "plain") and _DEAD.search(line.text) for line in clean([raw])
    )


def readable(text: str) -> str:
    """A message without what its framework adds, cut to WORDS_LIMIT."""
    text = text.strip().removeprefix("ValidationError: ").removeprefix("Value error, ").partition(" [type=")[0]
    return text if len(text) <= WORDS_LIMIT else text[:WORDS_LIMIT].rstrip() + "…"
