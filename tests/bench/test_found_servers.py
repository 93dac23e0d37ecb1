"""Servers as strangers have them: an Azure deployment's whole URL, an adapter's name, a redirect, IPv6 alone."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bench.errors import PlanError, TargetError
from bench.remote import find, settings_of


class Handler(BaseHTTPRequestHandler):
    """A deployment on Azure under /openai, a vLLM with an adapter under /lora, a redirect under /moved."""

    def do_GET(self) -> None:
        if self.path == "/lora/v1/models":
            self.answer(200, {"data": [{"id": "base"}, {"id": "sql-lora", "parent": "base"}]})
        elif self.path.startswith("/moved"):
            self.answer(307, {}, location="/lora/v1/models")
        else:
            self.answer(404, {"error": {"code": "404", "message": "Resource not found"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = urlsplit(self.path)
        if asked.path.startswith("/openai"):
            right = asked.path == "/openai/deployments/gpt-4o/chat/completions" and "api-version" in parse_qs(
                asked.query
            )
            if not right:
                self.answer(404, {"error": {"code": "404", "message": "Resource not found"}})
            elif self.headers["api-key"] != "a-key":
                self.answer(401, {"error": {"code": "401", "message": "Access denied."}})
            else:
                self.stream(body["max_tokens"])
        elif body.get("model") in ("base", "sql-lora") and asked.path.endswith("/chat/completions"):
            self.stream(body["max_tokens"])
        else:
            self.answer(404, {"error": {"message": f"The model `{body.get('model')}` does not exist."}})

    def answer(self, status: int, document: Any, **headers: str) -> None:
        raw = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def stream(self, tokens: int) -> None:
        """As Azure does: what was filtered first, without any choice."""
        events: list[Any] = [{"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}]
        events += [{"choices": [{"index": 0, "delta": {"content": "a "}, "finish_reason": None}]}] * tokens
        events += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}]
        events += [{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": tokens}}]
        raw = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass


class OnIpv6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


@contextmanager
def listening(kind: type[ThreadingHTTPServer], host: str) -> Iterator[int]:
    with kind((host, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening(ThreadingHTTPServer, "127.0.0.1") as port:
        yield f"http://127.0.0.1:{port}"


AZURE = ["headers.api-key=A_KEY", "model=gpt-4o"]


@pytest.mark.parametrize("version", ["2025-01-01-preview", "2024-10-21", "preview#"])
def test_a_deployments_whole_url_is_taken_as_it_was_copied(
    url: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "a-key")
    whole = f"{url}/openai/deployments/gpt-4o/chat/completions?api-version={version}"
    found = find(settings_of(None, whole, None, AZURE))
    assert (found.settings.endpoint, found.settings.query) == ("chat", {"api-version": version.rstrip("#")})
    assert found.dialect.chat is not None
    assert (found.dialect.chat.path, found.dialect.chat.usage) == ("/chat/completions", "end")


def test_a_version_that_looks_like_a_date_stays_a_text(url: str) -> None:
    given = settings_of(None, url, None, ["query.api-version=2024-10-21", "query.n=5", "extra_body.top_k=5"])
    assert given.query == {"api-version": "2024-10-21", "n": "5"}
    assert given.extra_body == {"top_k": 5}


def test_what_is_said_with_a_flag_stands_over_the_urls_own_query(url: str) -> None:
    assert settings_of(None, f"{url}/v1?a=1&b=", None, ["query.a=2"]).query == {"a": "2", "b": ""}


@pytest.mark.parametrize("name", ["key", "api_key", "subscription-key", "access_token", "sig", "CODE"])
def test_a_key_in_a_query_is_refused_and_not_repeated(url: str, name: str) -> None:
    with pytest.raises(PlanError, match="looks like a key") as refused:
        settings_of(None, f"{url}/v1?{name}=hush", None, [])
    assert "hush" not in str(refused.value)


def test_a_wanted_key_is_said_with_how_to_give_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "another")
    whole = f"{url}/openai/deployments/gpt-4o/chat/completions?api-version=preview"
    with pytest.raises(TargetError, match=r"HTTP 401 .* --with headers.api-key=VARIABLE"):
        find(settings_of(None, whole, None, AZURE))


def test_an_adapter_is_measured_by_its_name_and_a_wrong_one_is_told_the_right_ones(url: str) -> None:
    assert find(settings_of(None, f"{url}/lora", None, ["model=sql-lora"])).model == "sql-lora"
    with pytest.raises(TargetError, match=r"`sql_lora` does not exist. It serves base, sql-lora\."):
        find(settings_of(None, f"{url}/lora", None, ["model=sql_lora"]))


def test_a_redirect_is_named_and_not_followed(url: str) -> None:
    with pytest.raises(TargetError, match="redirects to '/lora/v1/models'"):
        find(settings_of(None, f"{url}/moved", None, []))


def test_a_server_on_ipv6_alone_is_found_by_name_and_by_address() -> None:
    with listening(OnIpv6, "::1") as port:
        for host in ("localhost", "[::1]"):
            assert find(settings_of(None, f"{host}:{port}/lora", None, [])).model == "base"
