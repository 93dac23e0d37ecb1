"""Bad requests for hidden states to a real server: refused, and the engine lives on."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_asked import client_of, ids_of, metric

from serve.engine.server import Server

pytestmark = pytest.mark.engine

BAD: list[tuple[Any, int, str | None]] = [
    ({"prompts": "a", "layer": 4}, 400, "layer"),
    ({"prompts": "a", "layer": -5}, 400, "layer"),
    ({"prompts": "a", "layers": [0, "middle"]}, 400, "layers[1]"),
    ({"prompts": []}, 400, "prompts"),
    ({"prompts": [[]]}, 400, "prompts[0]"),
    ({"prompts": ["a", ""]}, 400, "prompts[1]"),
    ({"prompts": [[5] * 1024]}, 400, "prompts[0]"),
    ({"prompts": ["word " * 3000]}, 400, "prompts[0]"),
    ({"prompts": [[1024]]}, 400, "prompts[0]"),
    ({"prompts": [[-1]]}, 400, "prompts[0]"),
    ({"prompts": [[2**70]]}, 400, "prompts[0]"),
    ({"prompts": {"a": "b"}}, 400, "prompts"),
    ({"prompts": [1.5]}, 400, "prompts[0]"),
    ({"prompts": "a", "pooling": "sum"}, 400, "pooling"),
    ({"prompts": "a", "max_tokens": "one"}, 400, "max_tokens"),
    ({"prompts": [[5] * 1000] * 2, "layers": "all", "pooling": "all"}, 413, "pooling"),
    ({"prompts": ["a"] * 65}, 413, "prompts"),
    ({"prompts": "a", "model": "gpt-4"}, 404, "model"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content"),
    (b'{"prompts": "a"', 400, None),
    (b'{"prompts": "\\ud800"}', 400, "prompts"),
    (b"[" * 200_000, 400, None),
    (b" " * (9 << 20), 413, None),
]


@pytest.mark.parametrize(("body", "status", "param"), BAD, ids=range(len(BAD)))
def test_bad_input_is_refused_and_the_engine_lives_on(client: httpx.Client, body: Any, status: int, param: str | None):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post("/v1/hidden_states", content=content, headers={"Content-Type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    assert len(error["message"]) < 500
    assert_well(client)


def test_the_longest_prompt_that_fits_is_answered(client: httpx.Client):
    assert client.post("/v1/hidden_states", json={"prompts": [ids_of(1023, 4)]}).status_code == 200


def test_a_wrong_key_is_refused_in_openais_shape(keyed_server: Server):
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        with client_of(keyed_server, headers=headers) as stranger:
            for path in ("/v1/hidden_states", "/v1/completions"):
                response = stranger.post(path, json={"prompts": "a", "prompt": "a"})
                assert response.status_code == 401
                assert set(response.json()["error"]) == {"message", "type", "param", "code"}
            assert stranger.get("/health").status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
LIKELY = st.fixed_dictionaries(
    {
        "prompts": st.text(max_size=20)
        | st.lists(st.integers(-2, 1030), max_size=5)
        | st.lists(st.text(max_size=9))
        | JSON
    },
    optional={
        "layer": st.integers(-6, 6) | JSON,
        "layers": st.sampled_from(["all", [0, -2], ["embeddings"]]) | JSON,
        "pooling": st.sampled_from(["last", "mean", "all"]) | JSON,
        "encoding_format": st.sampled_from(["float", "base64"]) | JSON,
        "model": st.just("demo-1m") | JSON,
        "messages": st.just([{"role": "user", "content": "hi"}]) | JSON,
        "maxTokens": JSON,
        "temperature": JSON,
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=LIKELY | JSON)
def test_no_document_harms_the_server(client: httpx.Client, document: Any):
    response = client.post(
        "/v1/hidden_states", content=json.dumps(document), headers={"Content-Type": "application/json"}
    )
    assert response.status_code in {200, 400, 404, 413}
    if response.status_code == 200:
        found = response.json()
        assert len(found["hidden_states"]) == found["metadata"]["num_prompts"]
    else:
        assert set(response.json()["error"]) == {"message", "type", "param", "code", "request_id"}


@pytest.mark.server_last
def test_after_all_of_it_the_server_is_well_and_ends(keyed_server: Server, client: httpx.Client):
    assert_well(client)
    assert metric(client, "nbridge_hidden_states_in_flight") == 0
    keyed_server.stop()
    assert keyed_server.pids() == []


def assert_well(client: httpx.Client) -> None:
    assert client.get("/health").json()["status"] == "healthy"
    answer = client.post("/v1/hidden_states", json={"prompts": [[5, 6, 7]]})
    assert (answer.status_code, len(answer.json()["hidden_states"][0])) == (200, 128)
