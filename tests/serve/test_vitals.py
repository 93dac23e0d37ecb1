"""Signs of life of a fake engine on a fake clock: steps, answers, silence, and what health makes of them."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace

import pytest
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import Response

from monitoring.alerting.thresholds import load
from monitoring.health import progress
from monitoring.scrape.metrics import Sample
from serve.errors import SettingsError
from serve.hidden_states.extraction import Model
from serve.plugin import routes
from serve.plugin.engine_health import DEFAULT_STALL_S, Vitals, samples_of, stall_limit_s
from serve.plugin.journal import Exchange, Journal

MODEL = Model("tiny", num_layers=4, hidden_size=2, dtype="float32", max_model_len=16, vocabulary=9, mode="dynamic")


class FakeEngine:
    """Counts its steps, and answers questions as long as it is awake."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.steps = {"0": 0}
        self.running = 0
        self.asked = 0
        self.awake = asyncio.Event()

    async def answer(self) -> None:
        self.asked += 1
        await self.awake.wait()

    def samples(self) -> list[Sample]:
        steps = [Sample(progress.ITERATIONS, {"engine": name}, count) for name, count in self.steps.items()]
        return [*steps, Sample(progress.RUNNING, {"engine": "0"}, self.running)]


def vitals_of(engine: FakeEngine, readings: Callable[[], Iterator[object]] | None = None) -> Vitals:
    return Vitals(
        engine.answer,
        engine.samples,
        Journal(clock=lambda: engine.now_s),
        load(),
        clock=lambda: engine.now_s,
        unix_time=lambda: 1e9,
        read_nvml=readings or (lambda: iter(())),  # type: ignore[arg-type]
    )


def run(story: Callable[[FakeEngine, Vitals], Awaitable[None]]) -> None:
    async def told() -> None:
        engine = FakeEngine()
        engine.awake.set()
        await story(engine, vitals_of(engine))

    asyncio.run(told())


def test_an_engine_that_steps_is_not_asked() -> None:
    async def story(engine: FakeEngine, vitals: Vitals) -> None:
        await vitals.look()
        assert engine.asked == 1  # one look alone sees no step
        for _ in range(3):
            engine.now_s += 2
            engine.steps["0"] += 5
            await vitals.look()
        assert (engine.asked, vitals.silence_s) == (1, 0)

    run(story)


def test_an_idle_engine_lives_by_its_answers() -> None:
    async def story(engine: FakeEngine, vitals: Vitals) -> None:
        for _ in range(4):
            engine.now_s += 10
            await vitals.look()
        assert (engine.asked, vitals.silence_s, bool(vitals.hang)) == (4, 0, False)

    run(story)


def test_one_silent_engine_of_two_is_asked_though_the_other_steps() -> None:
    async def story(engine: FakeEngine, vitals: Vitals) -> None:
        engine.steps["1"] = 0
        await vitals.look()
        engine.awake.clear()
        for _ in range(4):
            engine.now_s += 4
            engine.steps["0"] += 1
            await vitals.look()
        assert vitals.hang

    run(story)


def test_a_silent_engine_hangs_and_lives_again_when_it_answers() -> None:
    async def story(engine: FakeEngine, vitals: Vitals) -> None:
        await vitals.look()
        engine.awake.clear()
        engine.running = 1
        vitals.journal.in_work = 2
        for _ in range(6):
            assert not vitals.hang
            engine.now_s += 2
            await vitals.look()
        assert (bool(vitals.hang), vitals.silence_s, engine.asked) == (True, 12, 2)  # one question waits; no second
        assert REGISTRY.get_sample_value("nbridge_engine_silence_seconds") == 12
        health = await vitals.examine(200)
        assert health.status == "unhealthy"
        assert health.reasons[0].text == "The engine hangs: no sign of life for 12 s, with 2 requests in work."
        engine.awake.set()
        await asyncio.sleep(0)
        engine.now_s += 2
        engine.steps["0"] += 1
        await vitals.look()
        assert (bool(vitals.hang), (await vitals.examine(200)).status) == (False, "healthy")

    run(story)


def test_an_engine_that_answers_but_does_not_work_hangs_too() -> None:
    async def story(engine: FakeEngine, vitals: Vitals) -> None:
        engine.running = 3
        for _ in range(8):
            await vitals.look()
            engine.now_s += 2
        assert vitals.silence_s == 2
        assert vitals.hang == "Engine 0 hangs: 3 requests running and 0 waiting, and no step in the last 14 s."

    run(story)


def test_an_engine_that_errs_gives_no_sign_of_life() -> None:
    async def story(engine: FakeEngine, vitals: Vitals) -> None:
        async def dead() -> None:
            raise RuntimeError("dead")

        vitals.ask = dead
        for _ in range(8):
            engine.now_s += 2
            await vitals.look()
        assert vitals.hang

    run(story)


def test_detail_has_percentiles_of_single_requests() -> None:
    async def story(engine: FakeEngine, vitals: Vitals) -> None:
        await vitals.look()
        for number in range(20):  # 0.1 s to 2.0 s
            exchange = Exchange(f"r{number}", "/v1/completions", engine.now_s - (number + 1) / 10, status=200)
            exchange.output_tokens, exchange.answered, exchange.ttft_s = 4, True, 0.05
            vitals.journal.ended(exchange)
        latency = (await vitals.examine(200)).document()["latency"]
        assert latency["from"] == "the durations of single requests"
        assert (latency["e2e"]["count"], latency["e2e"]["p50_s"], latency["e2e"]["p95_s"]) == (20, 1.0, 1.9)
        assert "p99_s" not in latency["e2e"]
        engine.now_s += 61
        assert "latency" not in (await vitals.examine(200)).document()

    run(story)


def test_a_hanging_nvml_is_asked_once() -> None:
    async def told() -> None:
        calls = []
        engine = FakeEngine()
        engine.awake.set()

        def hang() -> Iterator[object]:
            calls.append(1)
            raise TimeoutError("NVML did not answer within 2 s; the driver may hang")

        vitals = vitals_of(engine, hang)
        first, second = await vitals.examine(200), await vitals.examine(200)
        assert "did not answer" in first.notes[-1]
        assert "not asked again" in second.notes[-1]
        assert len(calls) == 1

    asyncio.run(told())


def test_health_keeps_vllms_status_and_says_that_the_engine_hangs() -> None:
    async def told() -> None:
        engine = FakeEngine()
        vitals = vitals_of(engine)
        state = SimpleNamespace(**{routes.STATE: SimpleNamespace(model=MODEL), routes.VITALS: vitals})
        request = Request({"type": "http", "headers": [], "app": SimpleNamespace(state=state)})

        async def vllm(_: Request) -> Response:
            return Response(status_code=200)

        await vitals.look()
        engine.now_s += DEFAULT_STALL_S
        short = await routes.health(request, vllm)
        detail = await routes.health_detail(request, vllm)
        document = json.loads(short.body)
        assert (short.status_code, document["status"], document["model"]) == (200, "unhealthy", "tiny")
        assert document["reasons"] == ["The engine hangs: no sign of life for 12 s."]
        assert (detail.status_code, json.loads(detail.body)["status"]) == (503, "unhealthy")

    asyncio.run(told())


def test_only_what_health_needs_is_read_from_the_registry() -> None:
    names = {sample.name for sample in samples_of(REGISTRY)}
    assert "process_start_time_seconds" in names
    assert not any(name.startswith(("python_", "nbridge_")) for name in names)


@pytest.mark.parametrize("text", ["0", "-3", "soon", "nan", "1"])
def test_a_stall_limit_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="NBRIDGE_HEALTH_STALL_S"):
        stall_limit_s({"NBRIDGE_HEALTH_STALL_S": text})
    assert (stall_limit_s({}), stall_limit_s({"NBRIDGE_HEALTH_STALL_S": "60"})) == (DEFAULT_STALL_S, 60)
