"""A log's lines as people have them → what the program wrote, and how grave it called it. Pure.

Containers, clusters, service managers and parallel launchers write something before each line: it is taken off. So are
colours. What a client sent (access logs, logged prompts, the journal of requests) is no word of the engine.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["access", "info", "warning", "error", "plain"]
LONGEST = 4000  # characters of a line that are looked at: what says why stands at its beginning

_COLOURS = re.compile(
    r"(?:\x1b|\^\[|\\u001b|\\x1b|#033)?\[(?:\d{1,3}(?:;\d{1,3})*)?m|\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]"
)
_TIME = r"\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?"
# What stands before a line, from the outside in; each is taken off as often as it is found.
_PREFIXES = tuple(
    re.compile(pattern)
    for pattern in (
        r"\[pod/[^\]]+\] ?",  # kubectl logs --prefix
        rf"{_TIME} (?:stdout|stderr) [FP] ",  # a container runtime's own file
        r"[A-Za-z][\w.-]{0,60} +\| ?",  # docker compose logs
        r" {2,}\| ?",  # a group of exceptions
        r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ [\w.@/-]+(?:\[\d+\])?: ",  # journald, syslog
        rf"{_TIME} \S+ [\w.@/-]+\[\d+\]: ",  # journald with whole times
        r"(?:kern  ?:\w+ *: )?\[ *\d+\.\d{4,}\] (?=\S)",  # the kernel's own
        r"\[[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}\] ",  # dmesg -T
        # (EngineCore pid=7), (RayWorkerWrapper pid=7, ip=10.0.0.1)
        r"\((?:[\w.:<>/=-]+ )*\w+=[\w.:]+(?:, \w+=[\w.:]+)*(?: [\w.=]+)*\) ?",
        r"(?:\[(?:rank|default|host|node)\d+\]:|\[\d+,\d+\](?:<std\w+>)?:) ?",  # torchrun, mpirun
        rf"\[?{_TIME}\]? (?=[\[(]|INFO|WARN|ERROR|DEBUG|CRITICAL|\w+ +\d\d-\d\d )",  # kubectl logs --timestamps
    )
)
# A program's own mark of gravity, and where its message begins.
_LEVEL = r"(?P<level>DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)"
_MARKS = tuple(
    re.compile(pattern)
    for pattern in (
        # vLLM's, wherever it stands: launchers and collectors have more prefixes than anybody knows
        rf"(?:^|.{{0,160}}?[\s\]):|]){_LEVEL}(?: \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?)? \[?[\w./-]+\.py:\d+\] ?",
        rf"{_LEVEL}: {{2,}}",  # uvicorn
        r"\[(?P<level>[IWEF])\d{3,4} \d\d:\d\d:\d\d[.\d]* (?:\d+ )?[\w./-]+:\d+\] ?",  # torch
        r"(?P<level>[IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [\w./-]+:\d+\] ?",  # Kubernetes
        rf"\[?{_TIME}[^\]]*?\]?,? +(?:[-|] )?(?:\S+ +(?:[-|] )?)?\[?{_LEVEL}\b\]?[ :|-]*(?:[\w.]+:\w+:\d+ - )?",
        r"\S+:\d+:\d+ \[\d+\] NCCL (?P<level>INFO|WARN) ?",
        rf"\[{_LEVEL}\] *",
        rf"\[{_TIME}[^\]]*\] (?P<level>)",  # SGLang marks nothing
        r"(?P<level>)(?=time=\S+ level=)",
    )
)
_LOGFMT = re.compile(r"\blevel=(\w+)")
_LEVELS: dict[str, Level] = {
    "D": "info", "I": "info", "W": "warning", "E": "error", "F": "error", "": "plain",
    "TRACE": "info", "DEBUG": "info", "INFO": "info", "NOTICE": "info", "WARN": "warning", "WARNING": "warning",
    "ERROR": "error", "CRITICAL": "error", "FATAL": "error", "ERR": "error",
}  # fmt: skip
_SETTINGS = re.compile(r"Namespace\(|ServerArgs\(|non-default args|LLM engine \(v|engine_args=")
_ACCESS = re.compile(r'"(?:GET|POST|PUT|HEAD|DELETE|OPTIONS) \S+ HTTP/[\d.]+"')
_OURS = ("nbridge ",)
_FRAME = re.compile(r'\s*File "[^"]*", line \d+')
_CODE = re.compile(r"\s{3,}|\s*[\^~]+\s*$")


@dataclass(frozen=True)
class Line:
    """One line that a program wrote, without what stood before it.

    `level` is "plain" where it has no mark, "access" for one of an access log.
    """

    level: Level
    text: str


def clean(raw: Iterable[str]) -> Iterator[Line]:
    """The lines of a log without prefixes, frames of stacks, settings and journals of requests."""
    in_frame = False
    for line in raw:
        for level, text in _messages(line):
            if _FRAME.match(text):
                in_frame = True
                continue
            if in_frame and _CODE.match(text):
                continue  # the source code of a frame, which quotes messages that were not said
            in_frame = False
            if _ACCESS.search(text):
                yield Line("access", text.rstrip())
            elif text.strip() and not _SETTINGS.search(text):
                yield Line(level, text.rstrip())


def _messages(raw: str) -> Iterator[tuple[Level, str]]:
    text = _COLOURS.sub("", raw[:LONGEST])
    for _ in range(8):
        shorter = next((text[found.end() :] for one in _PREFIXES if (found := one.match(text))), text)
        if shorter == text:
            break
        text = shorter
    if text.startswith("{"):
        yield from _of_json(raw)
        return
    if text.startswith(_OURS):
        return
    for mark in _MARKS:
        if found := mark.match(text):
            level = _LEVELS.get(found["level"], "plain")
            text = text[found.end() :]
            if found["level"] == "" and (logfmt := _LOGFMT.search(text)):
                level = _LEVELS.get(logfmt[1].upper(), "plain")
            if " NCCL WARN" in found[0]:
                level = "error"  # NCCL calls its errors warnings
            yield level, text
            return
    yield "plain", text


def _of_json(raw: str) -> Iterator[tuple[Level, str]]:
    """A line of structured logs: Docker's file, or a program's. Requests' journals and other documents say nothing."""
    try:
        document: Any = json.loads(raw[raw.index("{") :])
    except ValueError:
        document = None
    if not isinstance(document, dict) or str(document.get("event", "")).isidentifier():
        return  # the journal's events are named by one word; structlog's are sentences
    if isinstance(inner := document.get("log"), str):
        for line in inner.splitlines():
            yield from _messages(line)
        return
    fields = document.get("fields")
    inside = {**document, **fields} if isinstance(fields, dict) else document
    level = _LEVELS.get(str(inside.get("level", inside.get("levelname", inside.get("severity", "")))).upper(), "plain")
    for key in ("message", "msg", "event", "exc_info", "exception", "error"):
        if isinstance(value := inside.get(key), str):
            for line in value.splitlines():
                yield level, line
