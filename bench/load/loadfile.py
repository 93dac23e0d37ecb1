"""What the sweep hands to Locust: the load file and the prompts file, and what goes back: the records file.

The load file is the JSON document named by the environment variable NBRIDGE_LOAD; the prompts file holds one JSON
object per line in sending order, warm-up prompts (`"warmup": true`) first.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from bench.client import stream
from bench.client.dialect import VLLM, Dialect
from bench.client.target import Target, target_of
from bench.load.conversation import Conversation


@dataclass(frozen=True)
class Load:
    """The load file; its fields are explained in the sweep that writes it."""

    target: str
    model: str
    endpoint: Literal["completions", "chat", "hidden_states"]
    records_path: str
    phase_path: str
    prompts_path: str
    kind: Literal["closed", "open"]
    concurrency: int | None = None
    rate_rps: float | None = None
    arrival: Literal["poisson", "gamma", "constant", "ramp", "step", "trace"] = "poisson"
    burstiness: float | None = None
    rates_rps: list[float] | None = None
    due_s: list[float] | None = None
    seconds: float | None = None
    requests: int | None = None
    warmup_requests: int = 0
    timeout_s: float = 300.0
    max_in_flight: int = 512
    seed: int = 0
    ignore_eos: bool = True
    temperature: float = 0.0
    verify_tls: bool = True
    ca_path: str | None = None
    api_key_env: str | None = None
    headers_env: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    extra_body: dict[str, Any] = field(default_factory=dict)
    dialect: dict[str, Any] = field(default_factory=VLLM.as_dict)
    keep_text: bool = False
    machines: bool = False

    def server(self) -> Target:
        """The server under load; ValueError when its address cannot be used or an environment variable is not set."""
        tls = {"verify_tls": self.verify_tls, "ca_path": self.ca_path}
        return open_target(self.target, self.api_key_env, headers_env=self.headers_env, query=self.query, **tls)


def read_load(path: str) -> Load:
    """The load file at `path`; raises ValueError that says what is wrong with it."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        load = Load(**document)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"The load file {path} (NBRIDGE_LOAD) is not usable: {error}") from error
    needed = load.concurrency if load.kind == "closed" else load.rate_rps
    if (load.arrival == "trace") != (load.due_s is not None):
        raise ValueError(f'{path}: `due_s` and arrival = "trace" go together.')
    if load.kind not in ("closed", "open") or not needed or needed <= 0:
        raise ValueError(f"{path}: a closed load needs `concurrency`, an open one `rate_rps`, above 0.")
    if load.seconds is None and load.requests is None:
        raise ValueError(f"{path}: set `seconds` or `requests`, so that the load ends.")
    return load


Item = stream.Request | Conversation  # what a user takes


def read_prompts(load: Load, to: Target) -> tuple[list[stream.Request], list[Item]]:
    """The warm-up and the measured requests of a load, encoded: nothing is left to encode while the load runs, but
    the turns of a conversation that wait for the answer before them."""
    dialect = Dialect.of(load.dialect)
    warm: list[stream.Request] = []
    measured: list[Item] = []
    run = secrets.token_hex(12)
    with Path(load.prompts_path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                prompt = json.loads(line)
                encode = partial(
                    stream.request,
                    to,
                    model=load.model,
                    endpoint=prompt.get("endpoint") or load.endpoint,
                    dialect=dialect,
                    temperature=load.temperature,
                    ignore_eos=load.ignore_eos,
                    extra_body=load.extra_body,
                    keep_text=load.keep_text,
                )
                if prompt.get("warmup"):
                    warm.append(encode(prompt, request_id=_id(run, number)))
                elif "then" in prompt:
                    measured.append(Conversation.of(prompt, _id(run, number), encode))
                else:
                    measured.append(encode(prompt, request_id=_id(run, number)))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ValueError(f"{load.prompts_path}: line {number} is not a prompt: {error!r}") from error
    if not measured:
        raise ValueError(f"{load.prompts_path} has no prompt to measure.")
    return warm, measured


def _id(run: str, number: int) -> str:
    """A UUID: servers exist that refuse every other X-Request-Id (llama-cpp-python's, by starlette-context)."""
    return str(UUID(f"{run}{number:08x}"))


def open_target(
    url: str, api_key_env: str | None, *, headers_env: Mapping[str, str] | None = None, **more: Any
) -> Target:
    """The target with its key and headers from the environment variables named; ValueError when one is not set."""
    names = {**({"api_key_env": api_key_env} if api_key_env else {}), **(headers_env or {})}
    if missing := next(((what, name) for what, name in names.items() if name not in os.environ), None):
        what, name = missing
        holds = "the API key" if what == "api_key_env" else f"the header {what}"
        raise ValueError(f"The environment variable {name} ({what}) is not set; it should hold {holds}.")
    headers = {header: os.environ[name] for header, name in (headers_env or {}).items()}
    return target_of(url, api_key=os.environ[api_key_env] if api_key_env else None, headers=headers, **more)


class Records:
    """The records file: one line per request, written in one piece when it ends, never a part of one."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, record: dict[str, Any]) -> None:
        """Appends one line; raises OSError (disk full) with all earlier lines intact."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, size)
            raise
