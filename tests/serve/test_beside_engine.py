"""What a request does to others, and what the key guards, on a real server with completions beside."""

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
from server_asked import client_of, key_of, metric
from waiting import wait_for

from serve.engine.server import Server
from serve.plugin.key import OPEN_ROUTES, READING

pytestmark = pytest.mark.engine

MUCH_TEXT = "The river runs through the valley. " * 200_000  # 7 MB
READERS = 24
# 1,000 tokens at 6 places of a model 128 wide: 768,000 values, of which the server has room for four times.
LARGE = {"prompts": [[5] * 1000], "layers": ["embeddings", 0, 1, 2, 3, "final_norm"], "pooling": "all"}


def complete(client: httpx.Client, **more: Any) -> httpx.Response:
    return client.post("/v1/completions", json={"prompt": "The river", "max_tokens": 4, **more})


def journal(server: Server, request_id: str) -> list[dict[str, Any]]:
    """The lines of a request, once the last is there: of vLLM's answers it is written when the client has them."""

    def whole() -> list[dict[str, Any]]:
        log = server.log_path.read_text(encoding="utf-8").rpartition("\n")[0]
        found = [json.loads(line) for line in log.splitlines() if line.startswith("{") and request_id in line]
        return found if found and found[-1]["event"] == "response" else []

    return list(wait_for(whole))


def test_a_text_of_megabytes_is_refused_by_its_length_with_completions_beside(client: httpx.Client):
    body = {"prompt": MUCH_TEXT, "max_tokens": 1, "output_hidden_states": True}
    chat = {"messages": [{"role": "user", "content": MUCH_TEXT}]}
    with ThreadPoolExecutor(8) as pool:
        large = [
            pool.submit(client.post, "/v1/hidden_states", json={"prompts": ["short", MUCH_TEXT]}),
            pool.submit(client.post, "/v1/hidden_states", json=chat),
            pool.submit(client.post, "/v1/completions", json=body),
        ]
        beside = [pool.submit(complete, client) for _ in range(8)]
        refused = [one.result() for one in large]
        assert [one.result().status_code for one in beside] == [200] * 8
    assert [one.status_code for one in refused] == [400] * 3
    errors = [one.json()["error"] for one in refused]
    assert [error["param"] for error in errors] == ["prompts[1]", "messages[0]", "prompt[0]"]
    assert all("maximum context length" in error["message"] for error in errors)
    # What was tokenized of it is the beginning; all of it would be 3.5 million tokens.
    assert not any(re.search(r"\d{5,} input tokens", error["message"]) for error in errors)


def ask_and_do_not_read(server: Server) -> socket.socket:
    url = httpx.URL(server.base_url)
    body = json.dumps(LARGE).encode()
    head = [
        "POST /v1/hidden_states HTTP/1.1",
        "Host: test",
        f"Authorization: {key_of(server)['Authorization']}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # what the kernel keeps for a reader is not asked
    connection.connect((url.host, url.port or 80))
    connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
    return connection


def test_clients_that_do_not_read_take_no_memory_without_bound(keyed_server: Server, client: httpx.Client):
    assert client.post("/v1/hidden_states", json=LARGE).status_code == 200
    in_flight, total = "nbridge_hidden_states_in_flight", "nbridge_hidden_states_requests_total"
    labels = ('pooling="all"', 'outcome="refused"')
    wait_for(lambda: metric(client, in_flight) == 0)
    refused_before = metric(client, total, *labels)
    process = psutil.Process(keyed_server.pid)
    before_bytes = process.memory_info().rss
    connections = [ask_and_do_not_read(keyed_server) for _ in range(READERS)]
    try:
        wait_for(lambda: metric(client, total, *labels) == refused_before + READERS - 4)
        wait_for(lambda: metric(client, in_flight) == 4)
        # The others are served: completions, and small answers.
        assert complete(client).status_code == 200
        assert client.post("/v1/hidden_states", json={"prompts": [[5, 6, 7]]}).status_code == 200
        full = client.post("/v1/hidden_states", json=LARGE)
        assert (full.status_code, full.headers["retry-after"]) == (429, "1")
        # Four answers of 3 MB, and not 24 of those with 9 MB of JSON each.
        assert process.memory_info().rss - before_bytes < 150_000_000
    finally:
        for connection in connections:
            connection.close()
    wait_for(lambda: metric(client, in_flight) == 0)
    assert client.post("/v1/hidden_states", json=LARGE).status_code == 200


def routes(client: httpx.Client) -> list[tuple[str, str]]:
    document = client.get("/openapi.json").json()
    return [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]


def test_every_route_that_the_server_has_wants_the_key_but_those_that_are_open(
    keyed_server: Server, client: httpx.Client
):
    found = routes(client)
    named = {path for _, path in found}
    # Of the routes that vLLM's own key leaves open, those that this server has.
    assert named >= {"/invocations", "/tokenize", "/detokenize", "/collective_rpc", "/sleep", "/reset_prefix_cache"}
    with client_of(keyed_server) as stranger:
        for method, path in [*found, ("GET", "/openapi.json"), ("GET", "/docs"), ("POST", "/none")]:
            answer = stranger.request(method, path, json=None if method == "GET" else {"prompt": "a"})
            is_open = method in READING and path in OPEN_ROUTES
            assert (answer.status_code == 401) != is_open, (method, path, answer.status_code)
            if not is_open:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert stranger.get("/metrics").status_code == stranger.get("/version").status_code == 200
        wrong = stranger.post("/invocations", json={"prompt": "a"}, headers={"Authorization": "Bearer wrong"})
        assert wrong.status_code == 401
    assert complete(client).status_code == 200  # the engine does not sleep


@pytest.mark.parametrize(
    ("route", "document"),
    [
        ("/invocations", {"prompt": "The river", "max_tokens": 3, "ignore_eos": True}),
        ("/tokenize", {"prompt": "The river"}),
        ("/detokenize", {"tokens": [5, 6, 7]}),
        ("/reset_prefix_cache", {}),
    ],
)
def test_with_the_key_the_journal_has_what_was_computed(
    keyed_server: Server, client: httpx.Client, route: str, document: dict[str, Any]
):
    request_id = f"of-the-test{route.replace('/', '-')}"
    answer = client.post(route, json=document, headers={"X-Request-Id": request_id})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-request-id"] == request_id
    last = journal(keyed_server, request_id)[-1]
    assert (last["event"], last["route"], last["status"], last["outcome"]) == ("response", route, 200, "ok")
    if route == "/invocations":
        assert last["output_tokens"] == 3


def test_without_the_key_the_journal_has_who_was_refused(keyed_server: Server):
    with client_of(keyed_server) as stranger:
        refused = stranger.post("/invocations", json={"prompt": "a"}, headers={"X-Request-Id": "a-stranger"})
    assert refused.status_code == 401
    assert [one["outcome"] for one in journal(keyed_server, "a-stranger")] == ["refused"]
