"""LoRA adapters of one server: loaded and unloaded while it runs (vLLM's routes for it)."""

from gateway.errors import AdapterRefused
from gateway.settings import Adapter, Server
from monitoring.errors import MonitoringError
from monitoring.scrape import http_exchange

LOAD_S = 60.0
_CLOSED = (
    "it loads no adapters while it runs; start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its "
    "environment"
)


def load(server: Server, adapter: Adapter, deadline_s: float = LOAD_S) -> None:
    """Have a server load an adapter. Raises AdapterRefused with the reason."""
    _ask(server, "load", {"lora_name": adapter.name, "lora_path": adapter.path}, deadline_s)


def unload(server: Server, name: str, deadline_s: float = LOAD_S) -> None:
    """Have a server forget an adapter; requests that it works on end with it. Raises AdapterRefused."""
    _ask(server, "unload", {"lora_name": name}, deadline_s)


def _ask(server: Server, what: str, document: dict[str, str], deadline_s: float) -> None:
    name = document["lora_name"]
    try:
        answer = http_exchange.exchange(
            "POST",
            f"{server.url}/v1/{what}_lora_adapter",
            deadline_s=deadline_s,
            headers=http_exchange.key_headers(server.api_key_env),
            document=document,
        )
    except MonitoringError as error:
        raise AdapterRefused(f"{server.name} did not {what} the adapter {name}: {error}") from None
    if answer.status == 200:
        return
    said = answer.text.strip()[:500]
    # A route that is not there says so without naming the adapter; one that finds no adapter names it.
    reason = _CLOSED if answer.status in (404, 405) and name not in said else f"HTTP {answer.status}: {said}"
    raise AdapterRefused(f"{server.name} did not {what} the adapter {name}: {reason}.")
