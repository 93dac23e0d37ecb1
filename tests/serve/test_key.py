"""The key's guard over a small app: what is open, what is not, and what a refusal looks like."""

import asyncio
from argparse import Namespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from serve.errors import SettingsError
from serve.plugin.endpoint import api_keys
from serve.plugin.key import OPEN_ROUTES, KeyGuard

# Every route of vLLM 0.32's API server that computes, changes or tells something, with development mode, LoRA updates,
# profiling and elastic scaling switched on; and one that no vLLM has yet.
CLOSED = """
GET /v1/models · POST /v1/chat/completions · POST /v1/completions · POST /v1/responses · GET /v1/responses/x
POST /v1/messages · POST /v1/embeddings · POST /v1/hidden_states · POST /v1/load_lora_adapter
POST /v1/unload_lora_adapter · POST /v1/audio/transcriptions · POST /inference/v1/generate · POST /invocations
POST /ping · POST /tokenize · POST /detokenize · GET /tokenizer_info · POST /generative_scoring · POST /pooling
POST /classify · POST /score · POST /rerank · POST /v2/rerank · POST /scale_elastic_ep · POST /is_scaling_elastic_ep
POST /start_profile · POST /stop_profile · POST /sleep · POST /wake_up · GET /is_sleeping · POST /collective_rpc
POST /reset_prefix_cache · POST /reset_mm_cache · GET /server_info · POST /pause · POST /resume · POST /abort_requests
POST /update_weights · POST /init_weight_transfer_engine · GET /get_world_size · GET /load · GET /kv_event_sources
GET /docs · GET /openapi.json · DELETE /health · POST /metrics · PUT /version · GET /health/ · GET //health
GET /metricsx · GET /HEALTH · POST /something/that/comes/later · GET /
"""


def app_of(keys: list[str] | None = None) -> KeyGuard:
    inner = FastAPI()

    @inner.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
    async def answer(path: str) -> dict[str, str]:
        return {"asked": path}

    return KeyGuard(inner, ["right", "also right"] if keys is None else keys)


def ask(method: str, path: str, key: str | None = None, scheme: str = "Bearer", root: str = "") -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app_of(), root_path=root)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(
                method, f"http://x{path}", headers={} if key is None else {"Authorization": f"{scheme} {key}"}
            )

    return asyncio.run(run())


@pytest.mark.parametrize("route", [one.strip() for one in CLOSED.replace("\n", "·").split("·") if one.strip()])
def test_a_route_that_is_not_on_the_list_wants_a_key(route: str):
    method, path = route.split()
    refused = ask(method, path)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}
    assert ask(method, path, "right").status_code == 200


@pytest.mark.parametrize("path", sorted(OPEN_ROUTES))
def test_what_says_how_the_server_is_stays_open_for_readers(path: str):
    assert ask("GET", path).status_code == ask("HEAD", path).status_code == 200
    assert ask("GET", path, "wrong").status_code == 200
    assert ask("POST", path).status_code == 401


def test_a_browser_may_ask_whether_it_may_ask():
    assert ask("OPTIONS", "/v1/completions").status_code == 200


@pytest.mark.parametrize(
    ("scheme", "key", "status"),
    [
        ("Bearer", "right", 200),
        ("bearer", "also right", 200),
        ("Bearer", "", 401),
        ("Bearer", "Right", 401),
        ("Bearer", "right ", 401),
        ("Bearer", "right,also right", 401),
        ("Basic", "right", 401),
        ("", "right", 401),
    ],
)
def test_only_the_key_itself_opens(scheme: str, key: str, status: int):
    async def run() -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        headers = [(b"authorization", f"{scheme} {key}".encode())]
        scope = {"type": "http", "method": "POST", "path": "/a", "query_string": b"", "headers": headers}
        await app_of()(scope, receive, send)
        return int(sent[0]["status"])

    assert asyncio.run(run()) == status


def test_behind_a_proxy_with_a_path_of_its_own():
    assert ask("GET", "/api/health", root="/api").status_code == 200
    assert ask("POST", "/api/invocations", root="/api").status_code == 401
    assert ask("GET", "/v1/health", root="/v").status_code == 401


def test_a_websocket_without_a_key_is_refused_before_it_is_opened():
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    asyncio.run(app_of()({"type": "websocket", "path": "/v1/realtime", "headers": []}, receive, send))
    assert [(one["type"], one["code"]) for one in sent] == [("websocket.close", 1008)]


def test_the_keys_are_vllms(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_API_KEY", "of the environment")
    assert api_keys(Namespace(api_key=["a", "b"])) == ["a", "b"]
    assert api_keys(Namespace(api_key=None)) == ["of the environment"]
    monkeypatch.delenv("VLLM_API_KEY")
    assert api_keys(Namespace()) == []
    with pytest.raises(SettingsError, match="VLLM_API_KEY"):
        KeyGuard(FastAPI())
    with pytest.raises(SettingsError):
        KeyGuard(FastAPI(), [""])
