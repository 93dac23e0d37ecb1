"""A real server that wants a key, for the tests of hidden states and of what one request does to others."""

import os
from collections.abc import Iterator

import httpx
import pytest
from server_asked import client_of, key_of

from checkpoints.prepare import prepare
from serve.engine.server import Server, start
from serve.engine.settings import parse


@pytest.fixture(scope="session")
def keyed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in 32 bit, split over two processes, short of everything: chunks of 256 tokens, 48 KV blocks of 32.

    Six streams of 400 tokens do not fit its cache together, so requests are preempted. Its key is in the environment
    variable that its settings name. Adapters can be loaded, and development routes are on: all that a key must guard.
    """
    os.environ["NBRIDGE_TEST_KEY"] = "a key for the tests"
    two = (os.cpu_count() or 1) >= 2
    values = {
        "model": prepare("demo-1m").path,
        "served_model_name": "demo-1m",
        "port": 0,
        "api_key_env": "NBRIDGE_TEST_KEY",
        "dtype": "float32",
        "max_num_batched_tokens": 256,
        "max_num_seqs": 16,
        "block_size": 32,
        "tensor_parallel_size": 2 if two else 1,
        "enable_prefix_caching": True,
        "environment": {
            "NBRIDGE_HIDDEN_MAX_VALUES": "1000000",
            "NBRIDGE_HIDDEN_MAX_PROMPTS": "64",
            "NBRIDGE_HIDDEN_MAX_QUEUED_VALUES": "3200000",
            "VLLM_SERVER_DEV_MODE": "1",
            # One core for each process; by itself vLLM wants a memory node for each.
            **({"VLLM_CPU_OMP_THREADS_BIND": "0|1"} if two else {}),
        },
        "extra_args": ["--num-gpu-blocks-override", "48"],
    }
    with start(parse(values, "the tests"), log_path=tmp_path_factory.mktemp("keyed") / "server.log") as server:
        yield server
    del os.environ["NBRIDGE_TEST_KEY"]


@pytest.fixture
def client(keyed_server: Server) -> Iterator[httpx.Client]:
    """A client that has the key of `keyed_server`."""
    with client_of(keyed_server, headers=key_of(keyed_server)) as opened:
        yield opened
