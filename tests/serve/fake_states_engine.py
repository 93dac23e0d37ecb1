"""A fake engine, and an application that answers `/v1/hidden_states` with the real handlers over it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import httpx
import torch
from fastapi import FastAPI
from starlette.requests import Request

from serve.hidden_states.extraction import Extractor, Model
from serve.hidden_states.limits import Limits
from serve.hidden_states.protocol import KEY
from serve.plugin import routes

MODEL = Model(
    name="tiny", num_layers=4, hidden_size=2, dtype="float32", max_model_len=16, vocabulary=100, mode="dynamic"
)


class FakeEngine:
    """Answers each prompt with a row of [first token, tap] per tap, unless told to wait or to fail."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.aborted: list[str] = []
        self.wait: asyncio.Event | None = None
        self.answer: Callable[[dict[str, Any], dict[str, Any]], torch.Tensor] = self.states
        self.entered = asyncio.Event()

    @staticmethod
    def states(prompt: dict[str, Any], wish: dict[str, Any]) -> torch.Tensor:
        ids = prompt["prompt_token_ids"]
        rows = torch.tensor([[float(ids[0]), float(tap)] for tap in wish["taps"]])
        return rows if wish["pooling"] != "all" else rows[:, None, :].expand(-1, len(ids), -1)

    async def encode(self, prompt: Any, params: Any, request_id: str, lora_request: Any = None) -> AsyncIterator[Any]:
        self.started.append(request_id)
        self.entered.set()
        try:
            if self.wait is not None:
                await self.wait.wait()
            data = self.answer(prompt, params.extra_args[KEY])
        except asyncio.CancelledError:
            self.aborted.append(request_id)
            raise
        assert params.max_tokens == 1
        assert (params.skip_reading_prefix_cache is True) == (params.extra_args[KEY]["pooling"] != "last")
        yield SimpleNamespace(finished=True, outputs=SimpleNamespace(data=data))


class FakeTokenization:
    """One token per character: its code modulo 100; a chat is its contents in a row, and one token more to answer."""

    longest = 0

    async def create_tokenize(self, request: Any, raw_request: Request) -> Any:
        if hasattr(request, "messages"):
            text = "".join(message["content"] for message in request.messages)
            text += "#" if request.add_generation_prompt else ""
        else:
            text = request.prompt
        if "ü" in text:
            raise ValueError("no ü here")
        self.longest = max(self.longest, len(text))
        limit = request.build_tok_params(SimpleNamespace(max_model_len=MODEL.max_model_len)).max_total_tokens
        if len(text) > limit:
            error = ValueError(f"This prompt has {len(text)} tokens (parameter=input_tokens, value={len(text)})")
            error.parameter = "input_tokens"  # type: ignore[attr-defined]
            raise error
        return SimpleNamespace(tokens=[ord(letter) % 100 for letter in text])


class FakeModels:
    def __init__(self) -> None:
        self.lora_requests = {"adapter": "its LoRA request"}

    def is_base_model(self, name: str) -> bool:
        return name == "tiny"


def app_of(engine: FakeEngine, *, model: Model = MODEL, **limits: int) -> FastAPI:
    app = FastAPI()
    app.add_api_route("/v1/hidden_states", routes.hidden_states, methods=["POST"])
    extractor = Extractor(engine, model, Limits(**limits), models=FakeModels(), tokenization=FakeTokenization())
    setattr(app.state, routes.STATE, extractor)
    return app


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://fake")


async def post(app: Any, document: Any, **options: Any) -> httpx.Response:
    async with client_of(app) as client:
        return await client.post("/v1/hidden_states", json=document, **options)


def ask(document: Any, engine: FakeEngine | None = None, **options: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        return await post(app_of(engine or FakeEngine(), **options), document)

    return asyncio.run(run())


WIDE = Model(**{**vars(MODEL), "hidden_size": 4096})


def wide_engine() -> FakeEngine:
    engine = FakeEngine()
    engine.answer = lambda prompt, wish: torch.ones(1, len(prompt["prompt_token_ids"]), 4096)
    return engine


def large(tokens: int = 15) -> dict[str, Any]:
    """A request for `tokens` × 4,096 values: with 15 tokens more than a small answer."""
    return {"prompts": [[1] * tokens], "pooling": "all", "layer": 0}
