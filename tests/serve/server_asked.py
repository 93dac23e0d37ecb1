"""Requests to a real server of the tests, and what its metrics say."""

import os
import re
from typing import Any

import httpx
import numpy as np

from bench.studies.families import VOCABULARY
from serve.engine.server import Server


def client_of(server: Server, **options: Any) -> httpx.Client:
    return httpx.Client(base_url=server.base_url, timeout=300, trust_env=False, **options)


def key_of(server: Server) -> dict[str, str]:
    return {"Authorization": f"Bearer {os.environ[server.api_key_env or '']}"}


def metric(client: httpx.Client, name: str, *labels: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    found = [line for line in lines if re.match(rf"{name}(\{{| )", line) and all(label in line for label in labels)]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def ids_of(length: int, seed: int) -> list[int]:
    return [int(one) for one in np.random.default_rng(seed).integers(3, VOCABULARY, length)]
