"""Replicas of one's own and a cloud behind one HAProxy: until the budget is spent and after."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import forks
import httpx
import pytest
from doors import ROOT, Nbridge, gateway, needs_haproxy, replicas, settings_file
from provider import KEY, WORDS, Provider, provider
from waiting import wait_for

from gateway.cloud.ledger import FILE, spent
from monitoring.scrape.metrics import parse
from serve.processes import port


@pytest.fixture
def hybrid(tmp_path: Path) -> Iterator[tuple[Any, Provider]]:
    """A gateway with one replica (two places) and a cloud for what is hard and what has no place."""
    policy = '[policy]\ndefault = "m"\nhard = "openai"\noverflow = "openai"\n'
    with provider() as behind, replicas(tmp_path, "a") as made:
        file = settings_file(tmp_path, made, f"[gateway]\nport = 0\nmetrics_port = 0\n{policy}")
        table = '[[cloud]]\nname = "c"\nurl = "{}"\napi_key_env = "CLOUD_KEY"\nusd_per_day = {}\n' \
                'models = {{ openai = "openai", cut = "cut" }}\nprices.openai = {{ input = 2.5, output = 10.0 }}\n' \
                'prices.cut = {{ input = 2.5, output = 10.0 }}\nredact = ["email"]\n'  # fmt: skip
        file.write_text(file.read_text() + "places = 2\n" + table.format(behind.url, 0.01))
        with gateway(file, {"CLOUD_KEY": KEY}) as front:
            wait_for(lambda: front.haproxy("a") == "UP" and front.haproxy("c", "model.openai") == "UP", 30)
            yield front, behind


HARD = "Prove step by step:\n```\nx\n```\n$$x^2$$" + "\n" * 12


@pytest.mark.slow
@needs_haproxy
def test_a_hybrid_until_its_budget_is_spent_and_after(
    hybrid: tuple[Any, Provider], nbridge: Nbridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openai  # two seconds, which only those pay who run this

    front, behind = hybrid
    easy = front.ask("/v1/chat/completions", model="auto", messages=[{"role": "user", "content": "Hi"}])
    assert easy.headers["x-nbridge-backend"] == "m/a"
    ask = {"model": "auto", "messages": [{"role": "user", "content": HARD + " me@example.com"}], "max_tokens": 10}
    hard = front.ask("/v1/chat/completions", **ask)
    assert hard.headers["x-nbridge-backend"] == "openai/c"
    assert hard.headers["x-nbridge-reason"].startswith("complexity 0.9")
    assert behind.asked[-1]["model"] == "openai"
    assert behind.asked[-1]["messages"][0]["content"].endswith(" [email]")
    sdk = openai.OpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=5)
    stream = sdk.chat.completions.create(model="openai", messages=[{"role": "user", "content": "Hi"}], stream=True)
    assert "".join(one.choices[0].delta.content or "" for one in stream if one.choices) == "".join(WORDS)
    with pytest.raises(openai.APIError):  # the client is told that its stream broke off
        list(sdk.chat.completions.create(model="cut", messages=[], stream=True))
    told = nbridge("gateway", "status", "--data", front.data)
    assert "of 0.01 USD this day (UTC)" in told.stdout
    monkeypatch.setenv("CLOUD_KEY", KEY)
    second = nbridge("gateway", "cloud", front.file, "--out", front.data)
    assert (second.returncode, "Another door to clouds runs in" in second.stderr) == (2, True)

    def looked() -> dict[tuple[str, ...], float]:
        shown = httpx.get(front.document["metrics_url"].replace("/metrics", "/nbridge/metrics"), trust_env=False)
        return {(one.name, *sorted(one.labels.values())): one.value for one in parse(shown.text)}

    # The agent reads a server's tokens with a canary, every two seconds; what was cut is entered when its end is seen.
    saved = ("nbridge_gateway_saved_usd_total", "a", "m", "openai")
    cut = ("nbridge_gateway_cloud_requests_total", "c", "cut", "cut")
    wait_for(lambda: looked().get(saved, 0) > 0 and looked().get(cut, 0) > 0, 60)
    page = looked()
    assert page["nbridge_gateway_spent_usd", "c", "day"] == page["nbridge_gateway_spent_usd", "c", "month"] > 0.006
    assert page["nbridge_gateway_budget_usd", "c", "day"] == 0.01
    assert ("nbridge_gateway_budget_usd", "c", "month") not in page
    assert page["nbridge_gateway_cloud_requests_total", "answered", "c", "openai"] == 2
    assert page["nbridge_gateway_cloud_requests_total", "c", "cut", "cut"] == 1
    assert page["nbridge_gateway_servers_up", "local", "m"] == 1
    assert page["nbridge_gateway_saved_usd_total", "a", "m", "openai"] > 0  # compared with the policy's cloud
    assert httpx.get(front.document["metrics_url"].replace("/metrics", "/x"), trust_env=False).status_code == 404
    # 3.5 cents of a thousandth each: the third one spends the cent.
    assert front.ask("/v1/chat/completions", **ask).status_code == 200
    wait_for(lambda: front.haproxy("c", "model.openai").startswith("DOWN"), 20)
    before = len(behind.asked)
    local = front.ask("/v1/chat/completions", **ask)  # the budget is spent: what is hard stays here
    assert local.headers["x-nbridge-backend"] == "m/a"
    refused = front.ask(model="openai")
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "insufficient_quota"
    assert "0.01 USD a day (UTC), is spent; it opens again at" in refused.json()["error"]["message"]
    started_s = time.monotonic()
    with pytest.raises(openai.RateLimitError):  # which is not asked five times more
        sdk.completions.create(model="openai", prompt="1")
    assert time.monotonic() - started_s < 10
    assert front.ask(model="m").status_code == 200
    assert len(behind.asked) == before
    assert KEY not in "".join(one.read_text(errors="replace") for one in front.data.rglob("*") if one.is_file())


@pytest.mark.slow
@needs_haproxy
def test_a_door_that_is_killed_comes_back_and_closes_nothing_local(hybrid: tuple[Any, Provider]) -> None:
    front, _ = hybrid
    assert front.ask(model="openai", max_tokens=5).status_code == 200
    os.kill(front.document["cloud_pid"], signal.SIGKILL)
    assert front.ask(model="m").status_code == 200
    wait_for(lambda: front.ask(model="openai", max_tokens=5).status_code == 200, 60)
    assert spent(front.data / FILE, datetime.now(tz=UTC))["c"][0] == 2 * 3_500_000
    # A reload with an absurd price is refused, and the old settings stay.
    front.file.write_text(
        front.file.read_text().replace("prices.openai = { input = 2.5", "prices.openai = { input = 0.0")
    )
    front.process.send_signal(signal.SIGHUP)
    told = front.file.parent / "gateway.log"
    wait_for(lambda: "Not reloaded, the old settings stay" in told.read_text(), 20)
    assert "cloud.0.prices.openai.input = 0.0" in told.read_text()
    assert front.ask(model="m").status_code == 200


@pytest.mark.slow
@needs_haproxy
def test_a_cloud_alone_behind_a_haproxy_of_ones_own(tmp_path: Path, nbridge: Nbridge) -> None:
    environment = {**os.environ, "CLOUD_KEY": KEY}
    out, number = tmp_path / "out", port.pick("127.0.0.1")
    with provider() as behind, (tmp_path / "log").open("w") as log, ExitStack() as stack:
        file = tmp_path / "gateway.toml"
        file.write_text(
            f"[gateway]\nport = {number}\nmetrics_port = {port.pick('127.0.0.1')}\n"
            f'[[cloud]]\nname = "c"\nurl = "{behind.url}"\napi_key_env = "CLOUD_KEY"\nusd_per_month = 0.004\n'
            'models = { openai = "openai" }\nprices.openai = { input = 2.5, output = 10.0 }\n'
        )
        assert nbridge("gateway", "render", file, "--out", out).returncode == 0
        door = [sys.executable, "-m", "nbridge", "gateway", "cloud", str(file), "--out", str(out)]
        haproxy = ["haproxy", "-f", str(out / "haproxy.cfg")]
        for command in (door, haproxy):
            process = forks.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)
            stack.callback(process.wait)
            stack.callback(process.terminate)

        def ask() -> httpx.Response | None:
            try:
                # It names no model: there is only one.
                return httpx.post(
                    f"http://127.0.0.1:{number}/v1/completions", json={"prompt": "1"}, timeout=60, trust_env=False
                )
            except httpx.TransportError:
                return None

        def status() -> int | None:
            answer = ask()
            return answer.status_code if answer is not None else None

        wait_for(lambda: status() == 200, 120)
        wait_for(lambda: status() == 429, 60)  # two of 0.0035 dollars are more than the month has
        refused = ask()
        assert refused is not None
        assert "0.004 USD a month (UTC), is spent" in refused.json()["error"]["message"]
        assert {one["model"] for one in behind.asked} == {"openai"}
