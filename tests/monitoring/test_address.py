"""Addresses as people and other projects' documentation write them, and `localhost` on either loopback address."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from monitoring.errors import SettingsError
from monitoring.scrape import http_exchange
from monitoring.scrape.address import alternatives, is_loopback, normalised, reachable, resolved
from serve.client.client import Client

GIVEN = {
    "127.0.0.1:8000": "http://127.0.0.1:8000",
    "localhost:8000/v1/": "http://localhost:8000",
    "HTTP://Host:80/v1": "http://host:80",
    " my-server ": "http://my-server",
    ":8000": "http://localhost:8000",
    "[::1]:9": "http://[::1]:9",
    "https://a.example/proxy/": "https://a.example/proxy",
    "bücher.example:1": "http://xn--bcher-kva.example:1",
    # As the documentation of other servers and services gives them.
    "http://localhost:11434/v1/": "http://localhost:11434",  # Ollama
    "0.0.0.0:11434": "http://0.0.0.0:11434",  # Ollama's OLLAMA_HOST
    "http://127.0.0.1:1234/v1": "http://127.0.0.1:1234",  # LM Studio
    "http://localhost:30000": "http://localhost:30000",  # SGLang
    "https://openrouter.ai/api/v1": "https://openrouter.ai/api",
    "https://api.groq.com/openai/v1": "https://api.groq.com/openai",
    "https://api.deepinfra.com/v1/openai": "https://api.deepinfra.com/v1/openai",
    "https://generativelanguage.googleapis.com/v1beta/openai/": (
        "https://generativelanguage.googleapis.com/v1beta/openai"
    ),
    "vllm-llama3-stack.default.svc.cluster.local:8000": "http://vllm-llama3-stack.default.svc.cluster.local:8000",
}
WRONG = {
    "": "no address",
    "http://": "no address",
    "ftp://a": "no address",
    "unix:///run/vllm.sock": "no address",
    "http://a:port": "no address",
    "http://a:99999": "no address",
    "http://a:0": "port 0",
    "8000": "is written :8000",
    "::1": "in brackets",
    "http:/host:8000": "comes ://",
    "https//host": "comes ://",
    "http://a b": "no address",
    "http://a\nb": "no address",
    "http://me:secret@host:8000": "user or password",
    "me:secret@host": "user or password",
    "http://me:se/cret@host": "user or password",
    "http://host/?key=secret": "query",
}


@pytest.mark.parametrize("given", GIVEN)
def test_an_address_has_one_form(given: str) -> None:
    assert normalised(given) == GIVEN[given]
    assert normalised(GIVEN[given]) == GIVEN[given]
    assert http_exchange.address(given) == GIVEN[given]


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_address_is_refused_without_its_secrets(wrong: str) -> None:
    with pytest.raises(ValueError, match=WRONG[wrong]) as refusal:
        normalised(wrong)
    with pytest.raises(SettingsError, match=WRONG[wrong]):
        http_exchange.address(wrong)
    assert "secret" not in str(refusal.value)
    assert "cret@" not in str(refusal.value)


def test_localhost_stands_for_both_loopback_addresses() -> None:
    assert alternatives("https://localhost:8443/a") == (
        "https://localhost:8443/a",
        "https://127.0.0.1:8443/a",
        "https://[::1]:8443/a",
    )
    assert alternatives("http://host:1") == ("http://host:1",)
    found = [where[0] for _, where in resolved("localhost", 80)]
    assert sorted(found) == ["127.0.0.1", "::1"]
    assert [where[0] for _, where in resolved("127.0.0.1", 80)] == ["127.0.0.1"]


def test_loopback_addresses_are_known() -> None:
    assert all(map(is_loopback, ["http://localhost:1", "http://127.3.2.1", "http://[::1]:2"]))
    assert not any(map(is_loopback, ["http://0.0.0.0", "http://10.0.0.1:1", "http://localhost.example.org"]))


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"data": [{"id": "m"}]}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def listening(family: socket.AddressFamily, host: str) -> Iterator[int]:
    kind = type("_One", (ThreadingHTTPServer,), {"address_family": family})
    with kind((host, 0), _Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_localhost_is_found_whichever_loopback_address_a_server_listens_on(
    family: socket.AddressFamily, host: str
) -> None:
    with listening(family, host) as port:
        assert http_exchange.exchange("GET", f"http://localhost:{port}/v1/models", deadline_s=30).status == 200
        with Client(base_url=f"localhost:{port}/v1") as client:
            assert client.model_name() == "m"
        kept = reachable(f"http://localhost:{port}")
        with socket.create_connection((kept.split("//")[1].rpartition(":")[0].strip("[]"), port)):
            pass


def test_where_nobody_listens_the_address_stays_and_the_reason_names_it() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port meanwhile
        taken.bind(("127.0.0.1", 0))
        url = f"http://localhost:{taken.getsockname()[1]}"
        assert reachable(url) == url
        with pytest.raises(http_exchange.NoAnswer, match="no connection"):
            http_exchange.exchange("GET", url, deadline_s=30)
