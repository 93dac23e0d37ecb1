"""States from running servers, and, only where that is asked for, vectors of an embeddings API in their place."""

import os
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from alignment.errors import AlignmentError, BadInput
from alignment.prompts import sha256
from alignment.states import LayerName, States, block
from serve.client import Client, OnProgress
from serve.errors import ClientError

Layers = tuple[LayerName, ...] | Literal["all"]
APPROXIMATE_LAYER = "embeddings API"


def collect(
    client: Client,
    prompts: Sequence[str],
    *,
    layers: Layers,
    pooling: Literal["last", "mean", "all"],
    on_progress: OnProgress | None = None,
) -> States:
    """The states of prompts, from a server with the hidden-states plugin. Raises AlignmentError or a ClientError."""
    health, version = client.health(), client.version()
    if health.status == "unhealthy":
        raise AlignmentError("The server says of itself that it is unhealthy, so it is not asked for states.")
    asked = layers if layers == "all" else list(layers)
    found = client.hidden_states(prompts, layers=asked, pooling=pooling, on_progress=on_progress)
    # [layer, token, hidden] per prompt becomes [token, layer, hidden], so that all prompts' tokens go into one array.
    rows = [array.swapaxes(0, 1) if pooling == "all" else array[None] for array in found.states]
    return States(
        values=np.concatenate(rows),
        model=found.model,
        layers=tuple(block(layer, health.num_layers) for layer in found.layers),
        pooling=pooling,
        dtype=found.dtype,
        prompt_tokens=found.prompt_tokens,
        prompt_sha256=tuple(sha256(prompt) for prompt in prompts),
        num_layers=health.num_layers,
        server={"vllm": version, "mode": (health.document.get("hidden_states") or {}).get("mode")},
    )


def collect_embeddings(client: Client, prompts: Sequence[str], *, on_progress: OnProgress | None = None) -> States:
    """Vectors of an embeddings API in the place of states, marked as the approximation that they are."""
    values = client.embeddings(prompts, on_progress=on_progress)
    return States(
        values=values[:, None, :],
        model=client.model_name(),
        layers=(APPROXIMATE_LAYER,),
        pooling="embedding",
        dtype=None,
        prompt_tokens=(0,) * len(prompts),
        prompt_sha256=tuple(sha256(prompt) for prompt in prompts),
        approximation=True,
    )


def embeddings_reason(client: Client, *, allowed: bool, say: Callable[[str], None]) -> str | None:
    """Why a source's vectors are to come from the embeddings API; None: its states come from the server itself.

    The deployment guide's rule (§3.3): USE_SELF_HOSTED_LLM other than "true" means the API, and so does a server that
    is not healthy. Here the API is used only when that was `allowed`; else an unhealthy server is an error, and a
    setting that asks for the API raises BadInput. An unset variable means the server.
    """
    setting = os.environ.get("USE_SELF_HOSTED_LLM", "true")
    if setting.lower() != "true":
        if not allowed:
            raise BadInput(
                f"USE_SELF_HOSTED_LLM={setting} asks for an embeddings API, whose vectors are no hidden states. Say "
                "--allow-embeddings-api if that is meant, or set it to true to ask the servers."
            )
        return f"USE_SELF_HOSTED_LLM is {setting}"
    if not allowed:
        return None
    try:
        health = client.health()
    except ClientError as error:
        say(str(error))
        return "the server does not answer"
    return None if health.is_healthy else f"the server is {health.status}"
