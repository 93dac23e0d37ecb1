"""vLLM's endpoint plugin `nbridge`: hidden states over HTTP, in any vLLM that has this package installed.

Opt in with `VLLM_PLUGINS=nbridge`; the states themselves come from `--worker-cls serve.hidden_states.worker.Worker`.
Adds `POST /v1/hidden_states`, lets `POST /v1/completions` answer with states, gives `GET /health` a body, adds
`GET /health/detail` and `GET /health/live`, and logs every request.

vLLM swallows an error while it imports a plugin, but not one raised by its methods. So vLLM is imported only there,
after the contract has been checked.
"""

import importlib
import logging
import os
from argparse import Namespace
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import Response

from monitoring.alerting.thresholds import load
from serve.hidden_states import contract
from serve.hidden_states.extraction import Extractor, Model
from serve.hidden_states.limits import Limits
from serve.plugin import completions, routes
from serve.plugin.engine_health import Vitals, samples_of, stall_limit_s
from serve.plugin.first_chunk import HeadWithFirstChunk
from serve.plugin.journal import Journal, RequestLog, follow_engine
from serve.plugin.key import KEY_VARIABLE, KeyGuard
from serve.plugin.telemetry import log_terms, set_up_logging

WORKER_CLS = "serve.hidden_states.worker.Worker"
_RPC = "nbridge_hidden_states"
_log = logging.getLogger("vllm.nbridge.plugin")


class Plugin:
    """What vLLM asks of an endpoint plugin: a name, the tasks it is for, routes, and their state."""

    name = "nbridge"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._app: FastAPI | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Add our routes; vLLM lets them replace its own of the same path and method. Raises ContractError."""
        contract.check(contract.SERVER)
        self._app = app
        app.add_api_route(routes.ROUTE, routes.hidden_states, methods=["POST"], response_class=Response)
        if vllm_health := _route(app, "/health", "GET"):
            answers = {
                "/health": routes.health,
                "/health/detail": routes.health_detail,
                "/health/live": routes.health_live,
            }
            for path, answer in answers.items():
                endpoint = _health(vllm_health.endpoint, answer)
                app.add_api_route(path, endpoint, methods=["GET"], response_class=Response)
        if vllm_completions := _route(app, completions.ROUTE, "POST"):
            _wrap_completions(app, vllm_completions)

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Ask the engine what it can capture. Raises SettingsError for a bad limit, ContractError for a bad vLLM."""
        log_format, log_prompts = log_terms()
        set_up_logging(log_format)
        tokenization = getattr(state, "serving_tokenization", None) or getattr(
            state, "openai_serving_tokenization", None
        )
        models = getattr(state, "openai_serving_models", None)
        missing = [
            name
            for name, found in {
                "app.state.serving_tokenization.create_tokenize": hasattr(tokenization, "create_tokenize"),
                "app.state.openai_serving_models.is_base_model": hasattr(models, "is_base_model"),
                "app.state.openai_serving_models.lora_requests": hasattr(models, "lora_requests"),
                "app.state.openai_serving_models.base_model_paths": bool(getattr(models, "base_model_paths", None)),
            }.items()
            if not found
        ]
        contract.refuse(missing)
        model = await _model(engine_client, models)
        extractor = Extractor(engine_client, model, Limits.from_environment(), models=models, tokenization=tokenization)
        setattr(state, routes.STATE, extractor)
        journal = Journal(log_prompts=log_prompts)
        follow_engine(engine_client)
        vitals = _vitals(engine_client, journal)
        setattr(state, routes.VITALS, vitals)
        vitals.start()
        if self._app is not None:
            # Here and not in attach_router, so that it goes around vLLM's check of the API key.
            _wrap(self._app, journal, api_keys(args))
        _log.info("Hidden states: %s, %s", model.describe(), extractor.limits)


async def _model(engine: Any, models: Any) -> Model:
    config = engine.vllm_config
    facts, reason = None, None
    if _has_rpc(config.parallel_config.worker_cls):
        facts = (await engine.collective_rpc(_RPC))[0]
    else:
        reason = f"vLLM runs without --worker-cls {WORKER_CLS}"
        _log.warning("No hidden states: %s", reason)
    model_config = engine.model_config
    return Model(
        name=models.base_model_paths[0].name,
        num_layers=int(facts["num_layers"] if facts else model_config.get_total_num_hidden_layers()),
        hidden_size=int(model_config.get_hidden_size()),
        dtype=str(model_config.dtype).removeprefix("torch."),
        max_model_len=int(model_config.max_model_len),
        vocabulary=int(model_config.get_vocab_size()),
        mode=facts["mode"] if facts else "off",
        taps=tuple(facts["taps"]) if facts and facts["taps"] is not None else None,
        reason=facts["reason"] if facts else reason,
    )


def _vitals(engine: Any, journal: Journal) -> Vitals:
    from vllm.v1.metrics.prometheus import get_prometheus_registry

    async def ask() -> object:
        """Something that the engine answers from within its loop, through every worker where we have a method there."""
        if _has_rpc(engine.vllm_config.parallel_config.worker_cls):
            return await engine.collective_rpc(_RPC)
        return await engine.is_sleeping()

    registry = get_prometheus_registry()
    return Vitals(ask, lambda: samples_of(registry), journal, load(), stalled_s=stall_limit_s())


def _has_rpc(worker_cls: Any) -> bool:
    """Whether a worker class (its dotted name) is ours or derived from ours, so that it can be asked."""
    if worker_cls == WORKER_CLS:
        return True
    module, _, name = str(worker_cls).rpartition(".")
    try:
        return hasattr(getattr(importlib.import_module(module), name), _RPC)
    except (ImportError, AttributeError, ValueError):
        return False


def _route(app: FastAPI, path: str, method: str) -> APIRoute | None:
    for route in app.routes:
        if isinstance(route, APIRoute) and route.path == path and method in route.methods:
            return route
    return None


def _health(
    vllm_health: Callable[[Request], Awaitable[Response]],
    answer: Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    async def health(raw_request: Request) -> Response:
        """Whether the engine lives, and what it serves."""
        return await answer(raw_request, vllm_health)

    return health


def _wrap_completions(app: FastAPI, vllm_route: APIRoute) -> None:
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    complete: Any = vllm_route.endpoint

    async def create_completion(request: CompletionRequest, raw_request: Request) -> Any:
        """vLLM's completions; with output_hidden_states also the hidden states of each prompt's last token."""
        if completions.wants_states(request):
            return await completions.with_states(request, raw_request, complete)
        return await complete(request, raw_request)

    app.add_api_route(
        vllm_route.path,
        create_completion,
        methods=["POST"],
        dependencies=vllm_route.dependencies,
        responses=vllm_route.responses,
        response_model=None,
    )


def api_keys(args: Namespace) -> list[str]:
    """The keys that vLLM was given, by the same rule: --api-key before $VLLM_API_KEY; none leaves the server open."""
    return [key for key in (getattr(args, "api_key", None) or [os.environ.get(KEY_VARIABLE)]) if key]


def _wrap(app: FastAPI, journal: Journal, keys: list[str]) -> None:
    """Put the key's guard around all of the app, and the journal around that, which thus also has what was refused."""
    if app.middleware_stack is None:
        if keys:
            app.add_middleware(KeyGuard, keys=keys)
        app.add_middleware(HeadWithFirstChunk)
        app.add_middleware(RequestLog, journal=journal)
    else:  # vLLM has built its middleware by now
        inner = KeyGuard(app.middleware_stack, keys) if keys else app.middleware_stack
        app.middleware_stack = RequestLog(HeadWithFirstChunk(inner), journal)
