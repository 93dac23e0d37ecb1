"""What `nbridge ray` decides without Ray: settings, how many replicas, what passes, how a failed start is told."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from typer.testing import CliRunner

from deploy.errors import NotStarted, SettingsError
from deploy.ray.passing import InWork, client, is_for_users, passed_on
from deploy.ray.scaling import WAITING, Policy, wanted
from deploy.ray.settings import Settings, load, parse
from nbridge import app as front_door
from serve import errors as serve_errors

SMALL: dict[str, Any] = {"engine": {"model": "demo-1m"}}


def refused(values: dict[str, Any]) -> str:
    with pytest.raises((SettingsError, serve_errors.SettingsError)) as error:
        parse(values, "x.toml")
    assert error.value.exit_code == 2
    return str(error.value)


def test_a_model_is_all_that_has_to_be_said() -> None:
    settings = parse(SMALL, "x.toml")
    assert (settings.door.host, settings.door.port) == ("127.0.0.1", 8000)
    assert (settings.engine.host, settings.engine.port) == ("127.0.0.1", 0)
    assert (settings.scaling.min_replicas, settings.scaling.max_replicas) == (1, 1)


def test_settings_say_what_is_wrong_with_them() -> None:
    assert refused({}) == 'x.toml: [engine] is missing; it names at least the model, as in model = "demo-1m".'
    assert refused({**SMALL, "scale": {}}) == "x.toml: unknown table [scale]; did you mean scaling?"
    assert refused({"engine": 3}) == "x.toml: engine = 3: expected a table, [engine]."
    said = refused({"engine": {"model": "demo-1m", "max_len": 3}})
    assert "x.toml: [engine]: unknown setting max_len = 3; did you mean max_model_len?" in said
    assert "unknown setting replicas = 2; did you mean" in refused({**SMALL, "scaling": {"replicas": 2}})
    assert "[ray] port = 0: expected" in refused({**SMALL, "ray": {"port": 0}}).replace(" Input", "")
    assert "max_replicas = 1 is below min_replicas = 2" in refused({**SMALL, "scaling": {"min_replicas": 2}})
    assert "Where users come in is port in [ray]." in refused({"engine": {"model": "demo-1m", "port": 8001}})
    assert "adapters are not served on Ray" in refused({"engine": {"model": "demo-1m", "lora_modules": {"a": "/a"}}})


def test_a_door_to_other_machines_asks_for_a_key() -> None:
    open_door = {**SMALL, "ray": {"host": "0.0.0.0"}}
    assert "host = '0.0.0.0' is reachable from other machines" in refused(open_door)
    for more in ({"api_key_env": "SERVERS_KEY"}, {"allow_no_api_key": True}):
        parse({**open_door, "engine": {"model": "demo-1m", **more}}, "x.toml")


def test_a_document_is_what_was_said_and_gives_the_same_settings(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('[engine]\nmodel = "demo-1m"\nmax_num_seqs = 4\n[scaling]\nmax_replicas = 3\n')
    settings = load(path)
    assert settings.document() == {
        "engine": {"model": "demo-1m", "max_num_seqs": 4}, "ray": {}, "scaling": {"max_replicas": 3},
    }  # fmt: skip
    assert parse(settings.document(), "again") == settings


def test_rays_own_configuration_holds_the_same_settings(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    path, out = tmp_path / "x.toml", tmp_path / "serve.yaml"
    path.write_text('[engine]\nmodel = "demo-1m"\napi_key_env = "K"\n[ray]\nhost = "0.0.0.0"\nproxies = "every-node"\n')
    answer = CliRunner().invoke(front_door, ["ray", str(path), "--write", str(out)])
    assert answer.exit_code == 0, answer.output
    found = yaml.safe_load(out.read_text())
    assert found["proxy_location"] == "EveryNode" and found["http_options"] == {"host": "0.0.0.0", "port": 8000}
    (one,) = found["applications"]
    assert one["import_path"] == "deploy.ray.application:application"
    assert parse(one["args"], "args") == load(path)


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)  # as where it is not installed
    path = tmp_path / "x.toml"
    path.write_text('[engine]\nmodel = "demo-1m"\n')
    answer = CliRunner().invoke(front_door, ["ray", str(path)])
    assert getattr(answer.exception, "exit_code", None) == 3 and "neural-bridge[ray]" in str(answer.exception)


@pytest.mark.parametrize(
    ("waiting", "in_work", "replicas"),
    [(0, 0, 1), (5, 21, 2), (11, 27, 3), (0, 33, 3), (0, 32, 2), (0.2, 0.2, 1)],
)
def test_the_larger_signal_decides(waiting: float, in_work: float, replicas: int) -> None:
    assert wanted(waiting, in_work, waiting_per_replica=5, in_work_per_replica=16) == replicas


def test_what_waits_at_rays_door_waits_as_well() -> None:
    seen = {WAITING: {"r1": 2.0, "r2": 1.0}}
    policy = Policy(waiting_per_replica=5, in_work_per_replica=16)

    def asked(metrics: Any, queued: float | None, in_work: float) -> int:
        context = {"aggregated_metrics": metrics, "total_queued_requests": queued, "total_num_requests": in_work}
        return policy(SimpleNamespace(**context))[0]

    assert asked(seen, 0, 19) == 2
    assert asked(seen, 20, 39) == 5
    assert asked({}, None, 0) == 1
    assert asked({}, None, 33) == 3  # engines that say nothing are not without work


def test_a_failed_start_is_found_in_what_ray_says() -> None:
    cause = serve_errors.BadArgument("No.", engine_words='max "len"', next_step="Less.")
    sent = NotStarted.of(cause)
    text = (
        f"A replica failed. Error:\nray::ServeReplica()\n  File x\ndeploy.errors.{type(sent).__name__}: {sent}\n, more"
    )
    found = NotStarted.found_in(text)
    assert found is not None and (found.text, found.exit_code) == (str(cause), 2)
    assert NotStarted.found_in("nothing") is None and NotStarted.found_in("NotStarted: {") is None


def test_only_inference_is_for_users() -> None:
    for path in ("/v1/chat/completions", "/v1/hidden_states", "/tokenize", "/health"):
        assert is_for_users(path)
    for path in ("/metrics", "/sleep", "/v1/load_lora_adapter", "/v1/../metrics", "/", "/docs", "/health/detail"):
        assert not is_for_users(path)


class Behind:
    """A server that answers slowly, and sees who leaves."""

    def __init__(self) -> None:
        self.seen: list[Request] = []
        self.left = False

    async def answer(self, request: Request) -> Any:
        self.seen.append(request)
        if request.query_params.get("plain"):
            body = await request.body()
            return JSONResponse({"got": body.decode()}, status_code=418, headers={"x-more": "1"})
        return StreamingResponse(self._pieces(request.query_params.get("ends") == "1"), media_type="text/event-stream")

    async def _pieces(self, ends: bool) -> AsyncIterator[bytes]:
        try:
            for number in range(3 if ends else 10_000):
                yield f"data: {number}\n\n".encode()
                await asyncio.sleep(0.02)
        finally:
            self.left = True


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


@asynccontextmanager
async def replica_of(url: str) -> AsyncIterator[tuple[httpx.AsyncClient, InWork]]:
    """A client of something that does with requests what a replica does, and the count of what is in work there."""
    in_work = InWork()
    async with client(url) as server:

        async def replica(request: Request) -> Any:
            return await passed_on(request, server, in_work)

        app = Starlette(routes=[Route("/{path:path}", replica, methods=["GET", "POST"])])
        async with listening(app) as door, httpx.AsyncClient(base_url=door, trust_env=False) as user:
            yield user, in_work


def test_an_answer_passes_as_it_comes() -> None:
    async def run() -> None:
        behind = Behind()
        app = Starlette(routes=[Route("/{path:path}", behind.answer, methods=["GET", "POST"])])
        async with listening(app) as url, replica_of(url) as (user, in_work):
            key = {"authorization": "Bearer k", "x-request-id": "7"}
            answer = await user.post("/v1/completions?plain=1", content=b"{}", headers=key)
            assert (answer.status_code, answer.json(), answer.headers["x-more"]) == (418, {"got": "{}"}, "1")
            asked = behind.seen[0]
            assert asked.headers["authorization"] == "Bearer k" and asked.headers["x-request-id"] == "7"
            assert asked.headers["x-nbridge-hold-head"] == "1" and asked.url.query == "plain=1"
            async with user.stream("POST", "/v1/completions?ends=1") as stream:
                assert stream.headers["content-type"].startswith("text/event-stream")
                assert await anext(stream.aiter_raw()) == b"data: 0\n\n"  # before the rest is made
                assert in_work.count == 1 and not behind.left
            whole = (await user.get("/v1/models?ends=1")).content
            assert whole == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
            assert (await user.get("/metrics")).json()["error"]["code"] == "not_found"
            assert len(behind.seen) == 3

    asyncio.run(run())


def test_who_leaves_is_left_at_the_server() -> None:
    async def run() -> None:
        behind = Behind()
        app = Starlette(routes=[Route("/{path:path}", behind.answer, methods=["POST"])])
        async with listening(app) as url, replica_of(url) as (user, in_work):
            async with user.stream("POST", "/v1/completions") as stream:
                await anext(stream.aiter_raw())
            async with asyncio.timeout(60):
                while not behind.left or in_work.count:
                    await asyncio.sleep(0.01)

    asyncio.run(run())


def test_a_server_that_has_ended_is_told_with_503() -> None:
    async def run() -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            async with replica_of(f"http://127.0.0.1:{nobody.getsockname()[1]}") as (user, in_work):
                answer = await user.post("/v1/completions", content=b"{}")
                assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
                assert json.loads(answer.content)["error"]["code"] == "engine_gone" and in_work.count == 0

    asyncio.run(run())


def test_settings_are_frozen() -> None:
    settings: Settings = parse(SMALL, "x.toml")
    with pytest.raises(AttributeError):
        settings.door = settings.door  # type: ignore[misc]
