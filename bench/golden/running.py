"""A golden server in a process of its own, for studies and tests, and its log as they read it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_KEY = "NBRIDGE_GOLDEN_KEY"


@dataclass
class Golden:
    """A running golden server."""

    url: str
    process: subprocess.Popen[str]
    log_path: Path

    def log(self) -> list[dict[str, Any]]:
        """What it says of the requests that have ended, in the order of their ends."""
        return [json.loads(line) for line in self.log_path.read_text(encoding="utf-8").splitlines()]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def golden(log_path: Path, *words: str, api_key: str = "") -> Iterator[Golden]:
    """A golden server on a free port that logs to `log_path`; `words` are those of `nbridge golden`."""
    log_path.touch()
    argv = [sys.executable, "-m", "nbridge", "golden", "--port", "0", "--json", "--log", str(log_path.resolve())]
    argv += ["--api-key-env", _KEY] if api_key else []
    environment = {**os.environ, _KEY: api_key}
    with subprocess.Popen([*argv, *words], stdout=subprocess.PIPE, text=True, env=environment, cwd=_ROOT) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise RuntimeError("The golden server did not start; it said why on stderr.")
            yield Golden(json.loads(line)["url"], process, log_path)
        finally:
            process.kill()
