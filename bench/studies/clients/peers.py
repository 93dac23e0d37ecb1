"""Other people's tools, each in a scratch environment of its own: how they are asked, and what they report."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.studies.clients.points import TOKENS
from bench.studies.clients.seen import Request, Seen
from checkpoints.cache import cache_dir

# `vllm bench serve` without vLLM's front door, which looks for a package of the name vllm: its CPU build has another.
_VLLM = (
    "from vllm.benchmarks.serve import add_cli_args, main; "
    "from vllm.utils.argparse_utils import FlexibleArgumentParser as Parser; "
    "parser = Parser(); add_cli_args(parser); main(parser.parse_args())"
)


class PeerError(BenchError):
    exit_code = 3


@dataclass(frozen=True)
class Peer:
    """A tool. `package`: what pip installs for it, None for what is in this environment; `command` and `read` are
    given (program, url, folder, users, requests, tokenizer's folder) and (folder).
    """

    package: str | None
    command: Callable[[str, str, Path, int, int, Path], list[str]]
    read: Callable[[Path], Seen]


def program(name: str, say: Callable[[str], None]) -> str:
    """The tool's program, installed first where it is not. Raises PeerError with the last lines of pip."""
    package = PEERS[name].package
    if package is None:
        if find_spec(name) is None:
            raise PeerError(f"{name} is not in this environment: make setup installs it.")
        return sys.executable
    return installed(package, name, say)


def installed(package: str, name: str, say: Callable[[str], None]) -> str:
    """A package's program, in a scratch environment that is made where it is not there yet. Raises PeerError."""
    folder = cache_dir() / "peers" / package
    found = folder / "bin" / name
    if not found.exists():
        say(f"installing {package} into {folder}")
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, package], capture_output=True, text=True, check=False)
        if done.returncode or not found.exists():
            last = " ".join(done.stderr.strip().splitlines()[-3:]) or "it said nothing"
            raise PeerError(f"{package} does not install here: {last}")
    return str(found)


def version(name: str) -> str:
    """The version of an installed tool, as pip has it."""
    package = PEERS[name].package
    return package.partition("==")[2] if package else _installed(name)


def _installed(name: str) -> str:
    from importlib import metadata

    for distribution in (name, f"{name}-cpu"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _vllm(program: str, url: str, folder: Path, users: int, requests: int, tokenizer: Path) -> list[str]:
    asked = ["--dataset-name", "random", "--random-input-len", "16", "--random-output-len", str(TOKENS)]
    load = ["--num-prompts", str(requests), "--max-concurrency", str(users), "--request-rate", "inf"]
    out = ["--save-result", "--save-detailed", "--result-dir", str(folder), "--result-filename", "vllm.json"]
    return [
        program, "-c", _VLLM, "--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions",
        "--model", "golden", "--tokenizer", str(tokenizer), "--request-id-prefix", "r", "--ready-check-timeout-sec",
        "0", "--disable-tqdm", *asked, *load, *out,
    ]  # fmt: skip


def _vllm_seen(folder: Path) -> Seen:
    said = json.loads((folder / "vllm.json").read_text(encoding="utf-8"))
    requests = tuple(
        Request(f"r{number}", ok=not error, ttft_s=None if error else ttft)
        for number, (ttft, error) in enumerate(zip(said["ttfts"], said["errors"], strict=True))
    )
    return Seen(requests, said["mean_itl_ms"] / 1000)


def _aiperf(program: str, url: str, folder: Path, users: int, requests: int, tokenizer: Path) -> list[str]:
    asked = ["--isl", "16", "--osl", str(TOKENS), "--osl-stddev", "0", "--isl-stddev", "0"]
    load = ["--request-count", str(requests), "--concurrency", str(users)]
    return [
        program, "profile", "--model", "golden", "--url", url, "--endpoint-type", "completions", "--streaming",
        "--tokenizer", str(tokenizer), "--use-server-token-count", "--use-legacy-max-tokens",
        "--artifact-dir", str(folder / "aiperf"), "--ui", "none", *asked, *load,
    ]  # fmt: skip


def _aiperf_seen(folder: Path) -> Seen:
    (path,) = (folder / "aiperf").rglob("profile_export.jsonl")
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    requests = tuple(
        Request(
            record["metadata"]["x_request_id"],
            ok=record.get("error") is None,
            ttft_s=_milliseconds(record["metrics"], "time_to_first_token"),
        )
        for record in records
    )
    (summary,) = (folder / "aiperf").rglob("profile_export_aiperf.json")
    said = json.loads(summary.read_text(encoding="utf-8"))
    itl = (said.get("inter_token_latency") or {}).get("avg")
    return Seen(requests, None if itl is None else itl / 1000)


def _milliseconds(metrics: dict[str, Any], name: str) -> float | None:
    value = (metrics.get(name) or {}).get("value")
    return None if value is None else float(value) / 1000


def _guidellm(program: str, url: str, folder: Path, users: int, requests: int, tokenizer: Path) -> list[str]:
    return [
        program, "run", "--backend", f"kind=openai_http,target={url},model=golden,request_format=/v1/completions",
        "--profile", f"kind=concurrent,streams={users}", "--constraint", f"kind=max_requests,count={requests}",
        "--data", f"kind=synthetic_text,prompt_tokens=16,output_tokens={TOKENS}",
        "--tokenizer", f"kind=hf_auto,model={tokenizer}",
        "--output", f"kind=json,path={folder / 'guidellm.json'}", "--disable-console",
    ]  # fmt: skip


def _guidellm_seen(folder: Path) -> Seen:
    said = json.loads((folder / "guidellm.json").read_text(encoding="utf-8"))
    (benchmark,) = said["benchmarks"]
    requests = [
        Request(
            request["response_id"],  # it sends no X-Request-Id and keeps the server's id of the answer
            ok=kind == "successful",
            ttft_s=None if (ttft := request["time_to_first_token_ms"]) is None else ttft / 1000,
        )
        for kind in ("successful", "errored", "incomplete")
        for request in benchmark["requests"][kind]
    ]
    itl = benchmark["metrics"]["inter_token_latency_ms"]["successful"]["mean"]
    return Seen(tuple(requests), itl / 1000)


PEERS = {
    "vllm": Peer(None, _vllm, _vllm_seen),
    "guidellm": Peer("guidellm==0.8.1", _guidellm, _guidellm_seen),
    "aiperf": Peer("aiperf==0.13.0", _aiperf, _aiperf_seen),
}
