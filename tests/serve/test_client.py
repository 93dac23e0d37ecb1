import asyncio
import base64
import json
import socket
import struct
import subprocess
import sys
import threading

import httpx
import numpy as np
import pytest
from fake_states_server import encoded, error, running, states_document, vector

from serve.client import AsyncClient, Client
from serve.client.retry import Retries
from serve.errors import (
    BadAnswer,
    ClientError,
    KeyRefused,
    Refused,
    ServerFailed,
    SettingsError,
    TooLarge,
    Unavailable,
)


@pytest.fixture
def fake(monkeypatch):
    for name in ("VLLM_BASE_URL", "VLLM_MODEL_NAME", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with running() as server:
        yield server


@pytest.fixture
def connect(fake):
    """Clients of the fake server that do not sleep but note for how long they would have."""
    opened, slept = [], []

    async def sleep(seconds):
        slept.append(seconds)

    def open_one(**terms):
        client = Client(sleep=sleep, draw=lambda: 0.5, **{"base_url": fake.base_url, **terms})
        opened.append(client)
        return client

    open_one.slept = slept
    yield open_one
    for client in opened:
        client.close()


def test_one_layer_and_several(connect, fake):
    client = connect()
    one = client.hidden_states(["ab", "abc"], layer=-1)
    assert one.layers == (3,) and one.one_layer and one.prompt_tokens == (2, 3) and one.model == "fake"
    assert one.stacked().dtype == np.float32
    assert one.stacked().tolist() == [vector("ab", 3), vector("abc", 3)]
    several = client.hidden_states("ab", layers=[-3, -2])
    assert several.stacked().tolist() == [[vector("ab", 1), vector("ab", 2)]]
    assert client.hidden_states([7, 8, 9], layers="all").stacked().shape == (1, 4, 4)
    assert fake.posted()[0] == {"layer": -1, "pooling": "last", "encoding_format": "base64", "prompts": ["ab", "abc"]}
    assert fake.posted()[2]["prompts"] == [[7, 8, 9]]
    assert client.hidden_states("ab").layers == (2,)  # the second-to-last when nothing is said


def test_every_token(connect):
    found = connect().hidden_states(["ab", "abcd"], layers=[0, 1], pooling="all")
    assert [array.shape for array in found.states] == [(2, 2, 4), (2, 4, 4)]
    with pytest.raises(ValueError, match="same shape"):
        found.stacked()


def test_float_answers_are_the_same(connect):
    binary, text = connect(), connect(encoding="float")
    assert np.array_equal(binary.hidden_states("ab").stacked(), text.hidden_states("ab").stacked())


def test_the_guides_own_server_is_understood(connect, fake):
    fake.answer = lambda request: {
        "hidden_states": [vector(prompt, 2) for prompt in request["prompts"]],
        "layer": -2,
        "model": "guide",
        "prompt_tokens": [1],
        "metadata": {"num_prompts": 1, "hidden_size": 4, "dtype": "float16"},
    }
    found = connect().hidden_states("a")
    assert found.layers == (-2,) and found.dtype == "float16" and found.stacked().shape == (1, 4)


def test_batches_are_cut_joined_in_order_and_told_of(connect, fake):
    prompts = ["x" * (index + 1) for index in range(10)]
    told = []
    client = connect(max_prompts=3, concurrency=2)
    found = client.hidden_states(prompts, on_progress=lambda done, total: told.append((done, total)))
    assert found.stacked()[:, 0].tolist() == [float(index + 1) for index in range(10)]
    assert sorted(len(document["prompts"]) for document in fake.posted()) == [1, 3, 3, 3]
    assert told[-1] == (10, 10) and len(told) == 4


def test_no_more_requests_at_a_time_than_allowed(connect, fake):
    both = threading.Barrier(2, timeout=300)  # breaks unless two requests are under way together

    def wait(request):
        both.wait()
        return states_document(request)

    fake.answer = wait
    connect(max_prompts=1, concurrency=2).hidden_states(["a", "b", "c", "d"])
    assert fake.most_under_way == 2


def test_busy_server_is_asked_again_after_the_time_it_names(connect, fake):
    fake.script = [error(429, "queue full", Retry_After="7"), error(503, "loading"), error(502, ""), error(504, "")]
    assert connect(retries=Retries(base_s=0.5)).hidden_states("ab").stacked().shape == (1, 4)
    assert connect.slept == [7.25, 0.5, 1.0, 2.0]  # half of 0.5, 1, 2, 4; the first after the 7 s


def test_gives_up_with_the_servers_own_words(connect, fake):
    fake.script = [error(503, "the engine is loading", X_Request_Id="hs-1")] * 3
    with pytest.raises(
        Unavailable, match=r"HTTP 503 \(request id hs-1\).*the engine is loading.*Tried 3 times"
    ) as caught:
        connect(retries=Retries(attempts=3)).hidden_states("ab")
    assert len(connect.slept) == 2 and caught.value.status == 503 and caught.value.exit_code == 4


def test_a_long_retry_after_is_not_waited_for(connect, fake):
    fake.script = [error(429, "come back tomorrow", Retry_After="86400")]
    with pytest.raises(Unavailable, match="asks to wait 86400 s"):
        connect().hidden_states("ab")
    assert connect.slept == []


def test_cut_connection_is_tried_again_but_not_half_an_answer(connect, fake):
    fake.script = ["cut"]
    assert connect().hidden_states("ab").stacked().shape == (1, 4)
    assert len(connect.slept) == 1
    fake.script = ["half"]
    with pytest.raises(ClientError, match="broke off half-way"):
        connect().hidden_states("ab")
    assert len(connect.slept) == 1


def test_nobody_there(connect):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(Unavailable, match=rf"{url}.*got no answer.*Tried 2 times.*Does the server run"):
        connect(base_url=url, retries=Retries(attempts=2)).model_name()


def test_no_answer_in_time(connect, monkeypatch):
    client = connect(retries=Retries(attempts=2), timeout_s=3)

    def slow(request):
        raise httpx.ReadTimeout("", request=request)

    client._client._http = httpx.AsyncClient(transport=httpx.MockTransport(slow), base_url="http://x")
    with pytest.raises(Unavailable, match=r"no answer within 3 s.*Tried 2 times"):
        client.hidden_states("ab")


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [(400, Refused, 2), (401, KeyRefused, 2), (404, Refused, 2), (413, TooLarge, 2), (500, ServerFailed, 4)],
)
def test_other_refusals_are_not_tried_again(connect, fake, status, kind, code):
    fake.script = [error(status, "layer 99 is out of range.")]
    with pytest.raises(kind, match="layer 99 is out of range") as caught:
        connect().hidden_states("ab", layer=99)
    assert caught.value.exit_code == code and caught.value.status == status and connect.slept == []


def test_too_large_a_batch_is_halved(connect, fake):
    def at_most_two(request):
        if len(request["prompts"]) > 2:
            return error(413, "2 prompts at most")
        return 200, {}, json.dumps(states_document(request)).encode()

    fake.script = [at_most_two] * 20
    found = connect().hidden_states(["a", "bb", "ccc", "dddd", "eeeee"])
    assert found.prompt_tokens == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_states": [encoded([1.0, float("nan"), 1, 1])]}, "not finite"),
        ({"hidden_states": [encoded([0.0] * 4)]}, "nothing but zeros"),
        ({"hidden_states": [encoded([1.0] * 3)], "shapes": [[3]]}, r"shape \[3\] instead of \[4\]"),
        ({"hidden_states": [encoded([1.0] * 3)]}, "cannot be read"),
        ({"hidden_states": [encoded([1.0] * 4)] * 2, "shapes": [[4]] * 2}, "2 states for 1 prompts"),
        ({"hidden_states": [base64.b64encode(struct.pack("<f", 1.0)).decode()[:-1]]}, "cannot be read"),
        ({"hidden_states": [[[1.0], [1.0, 2.0]]]}, "cannot be read"),
        ({"prompt_tokens": ["two"]}, "cannot be read"),
        ({"metadata": {}}, "hidden_size"),
        ({"layers": [{"layer": 1}, {"layer": 2}]}, "2 layers instead of 1"),
    ],
)
def test_answers_that_cannot_be_are_errors(connect, fake, changes, words):
    fake.answer = lambda request: states_document(request, **changes)
    with pytest.raises(BadAnswer, match=words):
        connect().hidden_states("ab")
    assert connect.slept == []


def test_nan_in_json_and_no_json(connect, fake):
    fake.script = [(200, {}, b'{"hidden_states": [[NaN]]}'), (200, {}, b"<html>")]
    with pytest.raises(BadAnswer, match="NaN"):
        connect().hidden_states("ab")
    with pytest.raises(BadAnswer, match="not answered with JSON"):
        connect().hidden_states("ab")


def test_tokens_of_every_prompt_must_be_there(connect, fake):
    fake.answer = lambda request: states_document(request, prompt_tokens=[3])
    with pytest.raises(BadAnswer, match=r"shape \[2, 4\] instead of \[3, 4\]"):
        connect().hidden_states("ab", layer=0, pooling="all")


def test_two_servers_behind_one_address_are_noticed(connect, fake):
    names = iter("ab")
    fake.answer = lambda request: states_document(request, model=next(names))
    with pytest.raises(BadAnswer, match=r"model was 'a' and is now 'b'|model was 'b' and is now 'a'"):
        connect(max_prompts=1).hidden_states(["x", "y"])


def test_health_version_and_model(connect, fake):
    client = connect()
    assert client.health().is_healthy and client.health().num_layers == 4
    assert client.version() == "0.32.0" and client.model_name() == "fake"
    fake.health = (503, {}, b"")
    assert client.health().status == "unhealthy"
    fake.health = (200, {}, b"")  # vLLM without the plugin
    assert client.health().is_healthy and client.health().model is None
    fake.health = error(401, "who are you?")
    with pytest.raises(KeyRefused, match="VLLM_API_KEY"):
        client.health()


def test_completions_with_states(connect, fake):
    fake.answer = lambda request: {
        "model": "fake",
        "choices": [{"index": 1, "text": "B", "finish_reason": "stop"}, {"index": 0, "text": "A"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2},
        "hidden_states": [[1.0, 2.0], [3.0, 4.0]],
    }
    found = connect().completions(["a", "b"], max_tokens=1, hidden_state_layer=-2)
    assert found.texts == ("A", "B") and found.finish_reasons == (None, "stop") and found.output_tokens == 2
    assert found.hidden_states.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert fake.posted()[0] == {
        "model": "fake",
        "prompt": ["a", "b"],
        "max_tokens": 1,
        "output_hidden_states": True,
        "hidden_state_layer": -2,
    }
    fake.answer = lambda request: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}, "model": "m"}
    with pytest.raises(BadAnswer, match="0 texts for 1 prompts"):
        connect().completions("a")


def test_embeddings_come_in_order(connect, fake):
    fake.answer = lambda request: {
        "data": [{"index": i, "embedding": [len(text), 1.0]} for i, text in reversed(list(enumerate(request["input"])))]
    }
    assert connect(max_prompts=2).embeddings(["a", "bb", "ccc"]).tolist() == [[1, 1], [2, 1], [3, 1]]


def test_address_model_and_key_from_the_environment(fake, monkeypatch):
    monkeypatch.setenv("VLLM_BASE_URL", fake.base_url + "/v1/")
    monkeypatch.setenv("VLLM_MODEL_NAME", "mine")
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with Client() as client:
        client.hidden_states("ab")
        assert client.model_name() == "mine"
    path, document, headers = fake.requests[0]
    assert path == "/v1/hidden_states" and document["model"] == "mine"
    assert headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"base_url": "ftp://localhost:8000"}, "no address of a server"),
        ({"base_url": "http://me:secret@host"}, "user or password"),
        ({"api_key_env": "NBRIDGE_NO_SUCH_KEY"}, "NBRIDGE_NO_SUCH_KEY is not set"),
    ],
)
def test_unusable_terms(terms, words):
    with pytest.raises(SettingsError, match=words) as caught:
        Client(**terms)
    assert "secret" not in str(caught.value) and caught.value.exit_code == 2


def test_wrong_questions_are_not_sent(connect, fake):
    client = connect()
    for prompts, options, words in (
        ([], {}, "no prompts"),
        (["a", ""], {}, r"prompts\[1\] is empty"),
        ("a", {"layer": 1, "layers": [2]}, "either layer or layers"),
        ("a", {"layers": "-2"}, "list of layers"),
    ):
        with pytest.raises(SettingsError, match=words):
            client.hidden_states(prompts, **options)
    assert fake.requests == []


def test_asynchronous_and_inside_a_running_loop(fake):
    async def main():
        async with AsyncClient(base_url=fake.base_url) as client:
            first, second = await asyncio.gather(client.hidden_states("ab"), client.hidden_states("abc"))
        with Client(base_url=fake.base_url) as blocking:  # as in a notebook
            third = blocking.hidden_states("a")
        return [found.prompt_tokens for found in (first, second, third)]

    assert asyncio.run(main()) == [(2,), (3,), (1,)]


def test_a_failure_in_a_batch_ends_it(connect, fake):
    fake.script = [error(500, "out of order")] * 2
    with pytest.raises(ServerFailed, match="out of order"):
        connect(max_prompts=1, concurrency=1).hidden_states([f"p{index}" for index in range(50)])
    assert len(fake.posted()) <= 2


def test_closing_twice(fake):
    client = Client(base_url=fake.base_url)
    client.close()
    client.close()


def test_health_needs_no_numpy(fake):
    code = f"import sys; from serve.client import Client\nwith Client(base_url={fake.base_url!r}) as c: c.health()\n"
    code += "print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
