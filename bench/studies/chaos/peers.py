"""Other people's doors, each in a scratch environment of its own."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.studies.clients.peers import installed
from serve.processes import port as ports

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Peer:
    """A door: what pip installs, its program, and how that is started (program, port, servers, model, folder)."""

    package: str
    program: str
    command: Callable[[str, int, Sequence[str], str, Path], list[str]]


def program(name: str) -> str:
    """The path of a peer's program, installed first where it is not. Raises PeerError."""
    peer = PEERS[name]
    return installed(peer.package, peer.program, _say)


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")


def command(name: str, path: str, port: int, servers: Sequence[str], model: str, folder: Path) -> list[str]:
    """The command line of a peer in front of servers."""
    return PEERS[name].command(path, port, servers, model, folder)


def answers(url: str) -> bool:
    """Whether a peer is ready: some listen before they are."""
    try:
        return httpx.get(f"{url}/health/liveliness", timeout=2.0, trust_env=False).status_code < 500
    except httpx.HTTPError:
        return False


def _vllm_router(path: str, port: int, servers: Sequence[str], _model: str, folder: Path) -> list[str]:
    where = ["--host", HOST, "--port", str(port), "--prometheus-host", HOST]
    where += ["--prometheus-port", str(ports.pick(HOST))]  # 0 is refused
    quiet = ["--log-dir", str(folder), "--log-level", "warning", "--request-id-headers", "x-request-id"]
    return [path, "--worker-urls", *servers, "--policy", "round_robin", *where, *quiet]


def _litellm(path: str, port: int, servers: Sequence[str], model: str, folder: Path) -> list[str]:
    config = {
        "model_list": [
            {
                "model_name": model,
                "litellm_params": {
                    "model": f"text-completion-openai/{model}",
                    "api_base": f"{url}/v1",
                    "api_key": "none",
                },
            }
            for url in servers
        ],
        "litellm_settings": {"telemetry": False, "num_retries": 2},
        # nobody else reaches it, and no other door here looks at a key: it starts without one only when told so
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }
    (folder / "litellm.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML, too
    where = ["--host", HOST, "--port", str(port), "--num_workers", "1"]
    return [path, "--config", str(folder / "litellm.yaml"), *where, "--telemetry", "False"]


PEERS = {
    "vllm-router": Peer("vllm-router==0.1.17", "vllm-router", _vllm_router),
    "litellm": Peer("litellm[proxy]==1.108.0", "litellm", _litellm),
}
