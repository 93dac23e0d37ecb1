"""A Locust process on a load of the tests, and what it has written."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forks
from golden import Golden
from waiting import wait_for

from bench.cell.locust_process import processes_argv
from monitoring.scrape.metrics import parse, total

ROOT = Path(__file__).parents[2]
LOCUSTFILE = ROOT / "bench" / "load" / "locustfile.py"
KEY = "sk-never-written-42"


@dataclass
class Run:
    """A Locust process under way, or over, and what it has written."""

    folder: Path
    process: subprocess.Popen[str]

    def ended(self) -> "Run":
        self.output, self.words = self.process.communicate(timeout=300)
        return self

    @property
    def phase(self) -> dict[str, Any]:
        return json.loads((self.folder / "phase.json").read_text(encoding="utf-8"))

    @property
    def records(self) -> list[dict[str, Any]]:
        paths = sorted(self.folder.glob("requests*.jsonl"))
        return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]

    @property
    def measured(self) -> list[dict[str, Any]]:
        return sorted((r for r in self.records if not r["warmup"]), key=lambda record: record["scheduled"])

    def prompts_sent(self, server: Golden) -> list[int]:
        """The last id of each measured prompt (see `start`), in the order in which they reached the server."""
        wanted = {record["request_id"] for record in self.records}
        assert len(wanted) == len(self.records)
        prompts = [entry["body"]["prompt"] for entry in self.logged(server)]
        return [prompt[1] for prompt in prompts if prompt[1] >= 0]

    def logged(self, server: Golden) -> list[dict[str, Any]]:
        """What the server says of this run's requests; others may have asked it for chats, or with texts."""
        bodies = [(entry, entry["body"].get("prompt")) for entry in server.log()]
        return [entry for entry, prompt in bodies if isinstance(prompt, list) and prompt[0] == self.number]

    number = 0


def start(
    folder: Path,
    url: str,
    processes: int = 1,
    prompts: int = 200,
    warm: int = 2,
    file_limit_bytes: int | None = None,
    **load: Any,
) -> Run:
    """Starts Locust on a load; every run's prompts begin with a number of its own, warm-up ones go on with -1."""
    Run.number += 1
    folder.mkdir(exist_ok=True)
    lines = [{"prompt": [Run.number, -1], "max_tokens": 2, "scenario": "warm", "warmup": True}] * warm
    lines += [{"prompt": [Run.number, n], "max_tokens": 6, "scenario": "s"} for n in range(prompts)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    document = {
        "target": url,
        "model": "golden?ttft_s=0.01&gap_s=0.002",
        "api_key_env": "GOLDEN_KEY",
        "endpoint": "completions",
        "records_path": str(folder / "requests.jsonl"),
        "phase_path": str(folder / "phase.json"),
        "prompts_path": str(folder / "prompts.jsonl"),
        "kind": "closed",
        "concurrency": 4,
        "rate_rps": None,
        "arrival": "poisson",
        "seconds": None,
        "requests": None,
        "warmup_requests": warm,
        "timeout_s": 300.0,
        "max_in_flight": 64,
        "seed": 3,
        "ignore_eos": True,
        "temperature": 0.0,
        "verify_tls": True,
        "ca_path": None,
        **load,
    }
    (folder / "load.json").write_text(json.dumps(document), encoding="utf-8")
    environment = os.environ | {"NBRIDGE_LOAD": str(folder / "load.json"), "GOLDEN_KEY": KEY}
    # As on a machine so busy that Locust's master goes on before its workers have told it of their users.
    environment["LOCUST_WAIT_FOR_WORKERS_REPORT_AFTER_RAMP_UP"] = "0"
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    argv += processes_argv(processes) if processes > 1 else []
    process = forks.Popen(argv, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if file_limit_bytes is not None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (file_limit_bytes, file_limit_bytes))
    return Run(folder, process)


def served_tokens(phase: dict[str, Any]) -> int:
    """How many tokens the server says it sent between the two scrapes."""
    pages = (phase["metrics_before"], phase["metrics_after"])
    before, after = (total(parse(page), "vllm:generation_tokens_total") or 0 for page in pages)
    return round(after - before)


def wait_for_records(run: Run, count: int) -> None:
    wait_for(lambda: sum(path.read_bytes().count(b"\n") for path in run.folder.glob("requests*.jsonl")) >= count)
