"""True hidden states from real vLLM servers, against Hugging Face, under mixed load."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from server_asked import client_of, ids_of, key_of, metric
from waiting import wait_for

from bench.studies.hidden_truth import Reference, place_of, relative_error
from checkpoints.prepare import prepare
from serve.engine.server import Server

pytestmark = pytest.mark.engine

HERE = Path(__file__).parent
LAYERS: list[int | str] = ["embeddings", 0, 1, -2, -1, "final_norm"]


@pytest.fixture(scope="module")
def checkpoint() -> str:
    return prepare("demo-1m").path


def decoded(document: dict[str, Any], position: int) -> np.ndarray:
    """The states of one prompt as [layer, …], whichever encoding and however many layers."""
    found = document["hidden_states"][position]
    if document["encoding_format"] == "base64":
        found = np.frombuffer(base64.b64decode(found), "<f4").reshape(document["shapes"][position])
    array = np.asarray(found, dtype=np.float32)
    assert list(array.shape) == document["shapes"][position]
    return array if isinstance(document["layer"], list) or document["layer"] == "all" else array[None]


def worst_error(document: dict[str, Any], prompts: list[list[int]], reference: Reference) -> float:
    places = [place_of(one["layer"], reference.num_layers) for one in document["layers"]]
    assert document["prompt_tokens"] == [len(ids) for ids in prompts]
    return max(
        relative_error(decoded(document, position), reference.expected(ids, places, document["pooling"]))
        for position, ids in enumerate(prompts)
    )


def mixed_requests() -> list[dict[str, Any]]:
    """Forty requests of 1 to 1,020 tokens with shared prefixes and repeats, every pooling, every layer."""
    prefix = ids_of(400, 0)
    prompts = [[ids_of(length, length)] for length in (1, 2, 127, 128, 129, 255, 256, 257, 600, 1020)]
    prompts += [[prefix + ids_of(tail, tail)] for tail in (1, 5, 100, 300)] * 2
    prompts += [[ids_of(300, 1), ids_of(3, 2), prefix], [prefix]]
    choices: list[Any] = [-2, "all", LAYERS, "embeddings", "final_norm", -1, [-4, -3, -2], 0]
    return [
        {
            "prompts": ids,
            "layers": choices[number % len(choices)],
            "pooling": ("last", "mean", "all")[number % 3],
            "encoding_format": ("float", "base64")[number % 2],
        }
        for number, ids in enumerate(prompts * 2)
    ]


async def under_load(server: Server, requests: list[dict[str, Any]]) -> list[httpx.Response]:
    """All requests at once, beside six streamed completions and six requests whose clients go away."""

    async def stream(client: httpx.AsyncClient, seed: int) -> str:
        body = {"prompt": ids_of(100 + seed, seed), "max_tokens": 300, "stream": True, "ignore_eos": True}
        async with client.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200
            return [line async for line in response.aiter_lines() if line][-1]

    async def leave(client: httpx.AsyncClient, seed: int) -> None:
        body = {"prompts": [ids_of(900, seed)] * 8, "layers": "all", "pooling": "mean"}
        with contextlib.suppress(httpx.ReadTimeout):
            await client.post("/v1/hidden_states", json=body, timeout=httpx.Timeout(60, read=0.05))

    async with httpx.AsyncClient(
        base_url=server.base_url,
        timeout=300,
        trust_env=False,
        headers=key_of(server),
        limits=httpx.Limits(max_connections=100),
    ) as client:
        streams = [asyncio.create_task(stream(client, seed)) for seed in range(6)]
        leavers = [asyncio.create_task(leave(client, 50 + seed)) for seed in range(6)]
        responses = await asyncio.gather(*(client.post("/v1/hidden_states", json=one) for one in requests))
        assert await asyncio.gather(*streams) == ["data: [DONE]"] * 6
        await asyncio.gather(*leavers)
    return list(responses)


def test_states_are_hugging_faces_under_mixed_load(keyed_server: Server, client: httpx.Client, checkpoint: str):
    reference = Reference(checkpoint)
    requests = mixed_requests()
    responses = asyncio.run(under_load(keyed_server, requests))
    errors = []
    for request, response in zip(requests, responses, strict=True):
        assert response.status_code == 200, response.text[:500]
        errors.append(worst_error(response.json(), request["prompts"], reference))
    assert max(errors) <= 1e-5, sorted(errors)[-5:]
    assert metric(client, "vllm:num_preemptions_total") > 0
    assert metric(client, "vllm:prefix_cache_hits_total") > 0
    # Those who went away may be noticed, and what the engine did for them counted, after the others' answers.
    wait_for(lambda: 'outcome="cancelled"' in client.get("/metrics").text)
    wait_for(lambda: metric(client, "nbridge_hidden_states_in_flight") == 0)
    wait_for(lambda: metric(client, "vllm:num_requests_running") + metric(client, "vllm:num_requests_waiting") == 0)


def test_every_layer_and_pooling_with_a_warm_prefix_cache(client: httpx.Client, checkpoint: str):
    reference = Reference(checkpoint)
    prompts = [ids_of(300, 9), ids_of(1, 3)]
    for _ in range(2):
        for pooling in ("last", "mean", "all"):
            body = {"prompts": prompts, "layers": LAYERS, "pooling": pooling}
            document = client.post("/v1/hidden_states", json=body).json()
            assert worst_error(document, prompts, reference) <= 1e-5
            for layer in LAYERS:
                alone = client.post("/v1/hidden_states", json={**body, "layers": layer}).json()
                assert alone["layer"] == layer
                assert worst_error(alone, prompts, reference) <= 1e-5


def test_texts_and_chats_are_tokenized_by_the_model(client: httpx.Client, checkpoint: str):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    reference = Reference(checkpoint)
    texts = ["The river", "What is AI?", "A word: Größe, 数"]
    document = client.post("/v1/hidden_states", json={"prompts": texts}).json()
    assert worst_error(document, [tokenizer(text)["input_ids"] for text in texts], reference) <= 1e-5
    assert document["usage"]["prompt_tokens"] == sum(document["prompt_tokens"])
    chat = [{"role": "user", "content": "What is AI?"}, {"role": "assistant", "content": "A thing."}]
    for place in (True, False):
        rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=place, tokenize=False)
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        body = {"messages": chat, "add_generation_prompt": place}
        document = client.post("/v1/hidden_states", json=body).json()
        assert worst_error(document, [ids], reference) <= 1e-5


def vector_errors(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """‖found − expected‖ / ‖expected‖ of each vector."""
    return (np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)).ravel()


def test_sixteen_bit_states_are_as_good_as_hugging_faces(engine_server: Server, checkpoint: str):
    # On average: in 16 bit the worst of some thousand vectors is an outlier of one engine or the other.
    precise, coarse = Reference(checkpoint), Reference(checkpoint, torch.bfloat16)
    prompts = [ids_of(length, length) for length in (5, 40, 200, 700)]
    places = [place_of(layer, 4) for layer in LAYERS]
    with client_of(engine_server) as client:
        for pooling in ("last", "mean", "all"):
            body = {"prompts": prompts, "layers": LAYERS, "pooling": pooling, "encoding_format": "base64"}
            document = client.post("/v1/hidden_states", json=body).json()
            assert document["metadata"]["dtype"] == "bfloat16"
            ours, theirs = [], []
            for position, ids in enumerate(prompts):
                expected = precise.expected(ids, places, pooling)
                ours.append(vector_errors(decoded(document, position), expected))
                theirs.append(vector_errors(coarse.expected(ids, places, pooling), expected))
            assert np.concatenate(ours).mean() <= 1.5 * np.concatenate(theirs).mean()


def test_a_completion_carries_the_states_of_its_prompt(engine_server: Server):
    with client_of(engine_server) as client:
        plain = {"prompt": "The river", "max_tokens": 5, "temperature": 0}
        body = {**plain, "output_hidden_states": True, "hidden_state_layer": -1}
        answer = client.post("/v1/completions", json=body)
        document = answer.json()
        states = client.post("/v1/hidden_states", json={"prompts": "The river", "layer": -1}).json()
        assert np.allclose(document["hidden_states"], states["hidden_states"][0], rtol=0.05, atol=0.05)
        ordinary = client.post("/v1/completions", json=plain).json()
        assert "hidden_states" not in ordinary
        assert document["choices"] == ordinary["choices"]
        assert document["usage"] == ordinary["usage"]
        assert answer.headers["x-request-id"]
        refused = client.post("/v1/completions", json={**body, "stream": True})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "output_hidden_states")


def test_health_and_metrics_say_what_is_served(engine_server: Server):
    with client_of(engine_server) as client:
        response = client.get("/health")
        assert response.status_code == 200
        document = response.json()
        assert (document["status"], document["model"]) == ("healthy", "demo-1m")
        assert (document["num_layers"], document["hidden_size"]) == (4, 128)
        assert document["hidden_states"] == {"mode": "dynamic", "layers": "all"}
        before = metric(client, "nbridge_hidden_states_prompt_tokens_total")
        client.post("/v1/hidden_states", json={"prompts": [[5, 6, 7]]})
        assert metric(client, "nbridge_hidden_states_prompt_tokens_total") == before + 3
        request_id = client.post(
            "/v1/hidden_states", json={"prompts": "something private"}, headers={"X-Request-Id": "of-the-test"}
        ).headers["x-request-id"]
    assert request_id == "of-the-test"
    log = engine_server.log_path.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{") and request_id in line]
    line = next(line for line in lines if line["event"] == "hidden_states")
    assert (line["success"], line["model"], line["prompt_count"]) == (True, "demo-1m", 1)
    assert "something private" not in log


def test_the_guides_own_client_works_as_it_stands(engine_server: Server):
    folder = HERE / "data" / "guide"
    source = (folder / "neural-bridge" / "self-hosted-llm-client.ts").read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    generated = (folder / "neural-bridge" / "self-hosted-llm-client.js").read_text(encoding="utf-8")
    assert digest == GUIDES_CLIENT
    assert digest in generated.splitlines()[0]
    done = subprocess.run(
        ["node", folder / "use.js", engine_server.base_url],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env={**os.environ, "VLLM_BASE_URL": engine_server.base_url, "VLLM_MODEL_NAME": "demo-1m"},
    )
    found = json.loads(done.stdout)
    assert found["healthy"]
    assert found["globallyHealthy"]
    with client_of(engine_server) as client:
        prompts = [state["prompt"] for state in found["states"]]
        expected = client.post("/v1/hidden_states", json={"prompts": prompts, "layer": -2}).json()
    assert [state["layer"] for state in found["states"]] == [-2] * 3
    assert [state["tokenCount"] for state in found["states"]] == expected["prompt_tokens"]
    for state, batched, vector in zip(found["states"], found["batches"], expected["hidden_states"], strict=True):
        assert len(state["hiddenState"]) == 128
        assert state["metadata"]["model"] == "demo-1m"
        assert np.allclose(state["hiddenState"], vector, rtol=0.05, atol=0.05)
        assert np.allclose(batched["hiddenState"], vector, rtol=0.05, atol=0.05)
    assert "HTTP 400" in found["refused"]
    assert "out of range" in found["refused"]
    assert len(found["completion"]["hiddenStates"]) == 128
    assert found["completion"]["usage"]["completionTokens"] == 5
    assert "hiddenStates" not in found["plain"]


GUIDES_CLIENT = "1f82e8a7df1f834724dfae1303ee287a12c3b0a11d991bd8df2ef0a3beddc4e4"
