"""What listens on this machine's loopback and can be watched: told by its own pages, looked for when somebody asks."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from dashboards.errors import SourceError
from monitoring.scrape.metrics import MetricsError, fetch

SERVER, EXPORTER, GATEWAY, OTHER = "vLLM server", "GPU exporter", "gateway", "OpenAI API without vLLM's metrics"
_MARKS = ((GATEWAY, "\nnbridge_gateway_"), (SERVER, "\nvllm:"), (EXPORTER, "\nnbridge_gpu_"))
MOST_PORTS = 200
TIMEOUT_S = 2.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1", "127.0.0.1": "127.0.0.1", "::1": "[::1]"}  # noqa: S104


@dataclass(frozen=True)
class Found:
    """Something that listens here: what it is, and the models that it says it serves."""

    address: str
    kind: str
    models: tuple[str, ...] = ()

    @property
    def can_be_watched(self) -> bool:
        return self.kind != OTHER


def listening() -> list[str]:
    """The addresses on the loopback at which something listens. Raises SourceError where the system does not tell."""
    try:
        found = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError) as error:
        raise SourceError(
            f"This system does not tell what listens on it ({type(error).__name__}): type the address in."
        ) from error
    places = {place for one in found if (place := _place(one)) is not None}
    return [f"http://{host}:{port}" for host, port in sorted(places)][:MOST_PORTS]


def _place(connection: Any) -> tuple[str, int] | None:
    """Where to ask what listens; None for what does not, or not on the loopback."""
    if connection.status != psutil.CONN_LISTEN or connection.laddr.ip not in _EVERYWHERE:
        return None
    return _EVERYWHERE[connection.laddr.ip], int(connection.laddr.port)


def look(
    addresses: Sequence[str], *, page: Callable[[str], str] | None = None, models: Callable[[str], Any] | None = None
) -> list[Found]:
    """What answers at `addresses` as a server, an exporter or a gateway does, each within some seconds."""
    if not addresses:
        return []
    with ThreadPoolExecutor(max_workers=min(32, len(addresses))) as pool:
        told = pool.map(lambda one: _of(one, page or _page, models or _models), addresses)
        return [one for one in told if one is not None]


def _of(address: str, page: Callable[[str], str], models: Callable[[str], Any]) -> Found | None:
    served = _names(models(address))
    try:
        text = f"\n{page(address)}"
    except MetricsError:
        text = ""
    kind = next((kind for kind, mark in _MARKS if mark in text), OTHER if served else None)
    return None if kind is None else Found(address, kind, served)


def _page(address: str) -> str:
    return fetch(address, timeout_s=TIMEOUT_S)


def _models(address: str) -> Any:
    """The answer to /v1/models, whatever it is; None without one that is JSON."""
    try:
        answer = httpx.get(f"{address}/v1/models", timeout=TIMEOUT_S, trust_env=False)
        return answer.json() if answer.status_code == 200 else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return None


def _names(document: Any) -> tuple[str, ...]:
    entries = document.get("data") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        return ()
    return tuple(str(one["id"]) for one in entries if isinstance(one, dict) and isinstance(one.get("id"), str))[:8]


def rows(found: Sequence[Found]) -> list[dict[str, Any]]:
    """What was found, a row each."""
    return [{"At": one.address, "Is a": one.kind, "Serves": ", ".join(one.models) or "–"} for one in found]
