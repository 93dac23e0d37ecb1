"""The door to clouds as a process, in front of a provider of many dialects."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import forks
import httpx
import pytest
from doors import ROOT
from provider import KEY, WORDS, provider
from waiting import wait_for

from gateway.cloud import process
from gateway.cloud.ledger import FILE, spent, totals
from gateway.cloud.usage import Used

# 2.5, 1.25 and 10 dollars per million: 600, 400 and 100 tokens of them.
COST = 600 * 2_500 + 400 * 1_250 + 100 * 10_000
DIALECTS = ("openai", "azure", "openrouter", "anthropic", "groq", "silent", "cut", "endless", "no-done", "slow", "html",
            "wrong-key", "no-credit", "no-model", "too-many", "bad", "overloaded")  # fmt: skip
PRICE = {"input": 2.5, "output": 10.0, "cached_input": 1.25}


def settings(url: str, **more: Any) -> dict[str, Any]:
    names = {name: name for name in DIALECTS} | {"größe": "openai"}
    one = {"name": "c", "url": url, "models": names, "api_key_env": "CLOUD_KEY", "usd_per_day": 100.0}
    return {"cloud": [{**one, "prices": dict.fromkeys(names, PRICE), **more}]}


@dataclass
class Door:
    """A door's process and its socket."""

    data: Path
    process: subprocess.Popen[bytes] | None = None
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.data / "cloud.sock")), base_url="http://door", timeout=30
        )

    def configure(self, document: dict[str, Any]) -> None:
        (self.data / "closed.map").touch()
        told = {"settings": document, "folder": str(self.data), "socket": str(self.data / "none.sock"), "port": 1}
        (self.data / "cloud.json").write_text(json.dumps(told))

    def start(self) -> None:
        with (self.data / "cloud.log").open("a") as log:
            self.process = forks.Popen(
                [sys.executable, "-m", "gateway.cloud.process", str(self.data)],
                cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "CLOUD_KEY": KEY},
            )  # fmt: skip
        wait_for(self.answers, 60)

    def answers(self) -> bool:
        try:
            return self.client.get("/health/c").status_code in (200, 503)
        except httpx.TransportError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None

    def ask(self, model: str, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
        sent = {"model": "any", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100, **body}
        return self.client.post(path, json=sent, headers={"x-nbridge-model": model, "x-request-id": "r1"})

    def totals(self) -> dict[tuple[str, str], Any]:
        return {(one.model, one.outcome): one for one in totals(self.data / FILE)}

    def log(self) -> str:
        return (self.data / "cloud.log").read_text()


@contextmanager
def door(folder: Path, document: dict[str, Any]) -> Iterator[Door]:
    one = Door(folder)
    one.configure(document)
    one.start()
    try:
        yield one
    finally:
        one.stop(signal.SIGKILL)


def events(answer: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_dialects(tmp_path: Path) -> None:
    with provider() as behind, door(tmp_path, settings(behind.url)) as front:
        plain = front.ask("openai")
        assert plain.json()["choices"][0]["message"]["content"] == "".join(WORDS)
        assert plain.headers["x-nbridge-cost-usd"] == "0.003000000"
        assert behind.asked[-1]["model"] == "openai"
        assert behind.headers[-1]["authorization"] == f"Bearer {KEY}"
        assert "x-nbridge-model" not in behind.headers[-1]
        assert behind.paths[-1] == "/v1/chat/completions"
        odd = {"x-nbridge-model": "größe".encode()}
        assert front.client.post("/v1/chat/completions", json={}, headers=odd).status_code == 200  # as HAProxy sends it
        assert behind.asked[-1] == {"model": "openai", "max_tokens": 4096}
        for model in ("openai", "azure", "openrouter", "anthropic", "groq", "silent", "no-done"):
            answer = front.ask(model, stream=True)
            assert answer.text.endswith("data: [DONE]\n\n") == (model != "no-done"), model
            told = events(answer)
            words = [one["choices"][0]["delta"].get("content", "") for one in told if one.get("choices")]
            assert "".join(words) == "".join(WORDS)
            assert not [one for one in told if one.get("choices") == [] and one.get("usage")], model
            assert behind.asked[-1]["stream_options"] == {"include_usage": True}
        asked = front.ask("openai", stream=True, stream_options={"include_usage": True})
        assert events(asked)[-1]["usage"]["prompt_tokens"] == 1000
        rows = {model: one for (model, outcome), one in front.totals().items() if outcome == "answered"}
        cost = {model: one.nano_usd for model, one in rows.items()}
        assert cost["openai"] == 3 * COST
        assert cost["azure"] == cost["anthropic"] == COST
        assert cost["groq"] == 1000 * 2_500 + 100 * 10_000
        assert cost["openrouter"] == 500_000_000  # as it says itself
        assert [model for model, one in rows.items() if one.estimated] == ["no-done", "silent"]
        assert rows["silent"].output_tokens == 5  # fourteen bytes
        assert front.ask("openai", "/v1/embeddings", input="a").json()["usage"]["prompt_tokens"] == 8
        assert KEY not in front.log()
        assert json.loads(front.log().splitlines()[0])["id"] == "r1"


@pytest.mark.slow
def test_azure_has_its_own_header_and_address(tmp_path: Path) -> None:
    with provider() as behind:
        url = behind.url.removesuffix("/v1") + "/openai/deployments/{model}"
        more = {"key_header": "api-key", "query": {"api-version": "2024-10-21"}, "usage_in_streams": False}
        with door(tmp_path, settings(url, **more)) as front:
            assert front.ask("azure", stream=True).status_code == 200
            assert behind.paths == ["/openai/deployments/azure/chat/completions"]
            assert behind.queries == ["api-version=2024-10-21"]
            assert behind.headers[0]["api-key"] == KEY
            assert "authorization" not in behind.headers[0]
            assert "stream_options" not in behind.asked[0]
            assert front.totals()["azure", "answered"].estimated == 1


@pytest.mark.slow
def test_errors_of_the_provider_and_of_the_client(tmp_path: Path) -> None:
    with provider() as behind, door(tmp_path, settings(behind.url)) as front:
        found = {model: front.ask(model) for model in
                 ("wrong-key", "no-credit", "no-model", "too-many", "bad", "overloaded", "html")}  # fmt: skip
        assert {model: (one.status_code, one.json()["error"]["code"]) for model, one in found.items()} == {
            "wrong-key": (502, "cloud_key_refused"),
            "no-credit": (503, "cloud_without_credit"),
            "no-model": (502, "cloud_without_model"),
            "too-many": (429, "cloud_rate_limited"),
            "bad": (400, "cloud_refused"),
            "overloaded": (503, "cloud_failed"),
            "html": (502, "cloud_failed"),
        }
        assert found["too-many"].headers["retry-after"] == "7"
        assert not [one for one in found.values() if KEY in one.text]
        assert {one.nano_usd for one in front.totals().values()} == {0}
        wrong = [front.ask("openai", "/v1/responses"), front.ask("unknown"), front.client.get("/v1/models")]
        assert [one.status_code for one in wrong] == [404, 404, 404]
        headers = {"x-nbridge-model": "openai"}
        assert front.client.post("/v1/completions", content=b"{", headers=headers).status_code == 400
        large = front.client.post("/v1/completions", content=b"x" * (2 << 20), headers=headers)
        assert large.status_code == 400
        assert "larger than 1048576 bytes" in large.json()["error"]["message"]
        assert len(behind.asked) == 7


@pytest.mark.slow
def test_cut_and_left_streams_are_counted(tmp_path: Path) -> None:
    with provider() as behind, door(tmp_path, settings(behind.url, silence_s=0.5)) as front:
        text = b""
        asked = front.client.stream(
            "POST", "/v1/chat/completions", json={"stream": True}, headers={"x-nbridge-model": "cut"}
        )
        with pytest.raises(httpx.RemoteProtocolError), asked as answer:  # the client sees that it was cut
            for part in answer.iter_raw():
                text += part
        assert b"broke off its answer" in text
        cut = wait_for(lambda: front.totals().get(("cut", "cut")), 20)
        assert (cut.estimated, cut.output_tokens) == (1, 3)  # eight bytes of two words
        assert cut.nano_usd > 0
        with front.client.stream(
            "POST", "/v1/chat/completions", json={"stream": True}, headers={"x-nbridge-model": "endless"}
        ) as answer:
            for number, _ in enumerate(answer.iter_raw()):
                if number == 5:
                    break
        left = wait_for(lambda: front.totals().get(("endless", "left")), 20)
        assert 5 <= left.output_tokens < 3000
        wait_for(lambda: behind.left == 1, 20)
        # No head in time: it may have been worked on, so what was reserved counts.
        late = front.ask("slow", stream=True, max_tokens=100)
        assert late.status_code == 504
        unknown = front.totals()["slow", "unknown"]
        assert unknown.output_tokens == 100
        # An answer in one piece is paid for although its reader has left.
        with pytest.raises(httpx.ReadTimeout):
            front.client.post("/v1/chat/completions", json={}, headers={"x-nbridge-model": "slow"}, timeout=0.2)
        assert wait_for(lambda: front.totals().get(("slow", "answered")), 20).nano_usd == COST


@pytest.mark.slow
def test_nobody_there(tmp_path: Path) -> None:
    with door(tmp_path, settings("http://127.0.0.1:9/v1")) as front:
        answer = front.ask("openai")
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "cloud_unreachable")
        assert front.totals()["openai", "failed"].nano_usd == 0


@pytest.mark.slow
def test_the_limit_holds_under_load_and_over_kill_9(tmp_path: Path) -> None:
    with provider() as behind, door(tmp_path, settings(behind.url, usd_per_day=0.02)) as front:
        # Each costs 0.003 and reserves a little over 0.001 (100 tokens of output).
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: front.ask("openai", stream=bool(n % 2)), range(40)))
        codes = [one.status_code for one in answers]
        assert set(codes) == {200, 429}
        day = spent(tmp_path / FILE, datetime.now(tz=UTC))["c"][0]
        assert day == codes.count(200) * COST  # counted to the last one that was answered
        assert 20_000_000 <= day <= 20_000_000 + 8 * COST  # at most by those in flight
        refused = front.ask("openai")
        assert refused.json()["error"]["code"] == "budget_spent"
        assert refused.headers["x-should-retry"] == "false"
        assert front.client.get("/health/c").status_code == 503
        assert "all of the limit of the cloud c is spent" in wait_for(front.log, 20)
        front.stop(signal.SIGKILL)
        front.start()
        assert front.client.get("/health/c").status_code == 503
        assert front.ask("openai").json()["error"]["code"] == "budget_spent"
        # Another limit, by a reload.
        front.configure(settings(behind.url, usd_per_day=50.0))
        wait_for(lambda: front.client.get("/health/c").status_code == 200, 20)
        # Killed while a request is out: its reservation counts, although nobody knows.
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(lambda: front.ask("slow", max_tokens=1000))
            wait_for(lambda: behind.asked[-1]["model"] == "slow", 20)
            front.stop(signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                asked.result()
        front.start()
        kept = front.totals()["slow", "unknown"]
        assert kept.nano_usd >= 1000 * 10_000
        assert "1 requests were never settled" in front.log()


def test_most_of_a_limit_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("CLOUD_KEY", KEY)
    Door(tmp_path).configure(settings("https://cloud.example.com", usd_per_day=1.0, usd_per_month=10.0))
    now = datetime(2026, 11, 30, 23, 0, tzinfo=UTC)

    async def rounds() -> None:
        nonlocal now
        async with httpx.AsyncClient() as client:
            one = process.Door(tmp_path, client, lambda: now)
            for nano_usd in (700_000_000, 100_000_000, 50_000_000, 200_000_000):
                number = one.ledger.reserve("c", "openai", 1)
                assert number is not None
                one.ledger.settle(number, "answered", Used(1), nano_usd)
                await one.tell()
            now += timedelta(hours=2)
            await one.tell()
            assert one.ledger.standing("c").closed_by is None

    asyncio.run(rounds())
    said = [json.loads(line)["problem"] for line in capsys.readouterr().out.splitlines()]
    assert said == [
        "80% of the limit of the cloud c is spent: 0.8000 of 1 USD this day (UTC)",
        "all of the limit of the cloud c is spent: 1.0500 of 1 USD this day (UTC)",
    ]
