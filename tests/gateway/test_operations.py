"""Servers added, drained, removed and exchanged under load."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from doors import gateway, needs_haproxy, replicas, settings_file, under_load
from waiting import wait_for

from gateway.errors import DoesNotFit
from gateway.settings import Server, parse_server
from gateway.swap import exchange
from gateway.swap.exchange import Served, check_fits, ended, objection, with_gap
from serve.processes.log_file import roll

Command = Callable[..., subprocess.CompletedProcess[str]]
FAST = "[health]\nslow_start_s = 0\n"


def test_what_speaks_against_more() -> None:
    calm = Served(100, 0, [0.1] * 100)
    assert calm.p95_s == 0.1
    assert Served(19, 0, [0.1] * 19).p95_s is None
    assert Served(20, 0, [0.1] * 18 + [0.2, 0.3]).p95_s == 0.2  # the 19th of 20
    assert objection(calm, calm, 1.5) is None
    assert objection(calm, Served(0, 0), 1.5) is None
    assert objection(calm, Served(100, 2, [0.1] * 98), 1.5) == "2 of 100 requests failed"
    assert objection(Served(100, 2), Served(100, 2), 1.5) is None  # no worse than the old one
    # 0.19 s is above 1.5 times 0.1 s, and within the tenth of a second that is never too much.
    assert objection(calm, Served(50, 0, [0.19] * 50), 1.5) is None
    assert objection(calm, Served(50, 0, [0.25] * 50), 1.5) == "95 % began within 0.25 s, at the old one within 0.10 s"
    assert objection(Served(50, 0, [1.0] * 50), Served(50, 0, [1.4] * 50), 1.5) is None


def test_what_does_not_fit_is_said_with_both_figures() -> None:
    check_fits(1 << 30, 2 << 30, "memory")
    with pytest.raises(DoesNotFit, match=r"needs about 3\.0 GiB of memory and 2\.0 GiB are free.*--gap"):
        check_fits(3 << 30, 2 << 30, "memory")


@pytest.mark.slow
@needs_haproxy
def test_servers_come_and_go_under_load(tmp_path: Path, nbridge: Command) -> None:
    with replicas(tmp_path, "a", "b") as (a, b), gateway(settings_file(tmp_path, [a], FAST)) as door:
        where = ("--data", door.data)
        wait_for(lambda: door.state("a") == "in", 20)
        with under_load(door) as seen:
            wait_for(lambda: len(seen) > 10)
            last = nbridge("gateway", "remove", "a", *where)
            assert last.returncode == 2
            assert "the last server of the model 'm'" in last.stderr
            unknown = nbridge("gateway", "add", "b", b.url, "--model", "n", *where)
            assert unknown.returncode == 2
            assert "knows no model 'n' (m)" in unknown.stderr
            assert nbridge("gateway", "add", "b", b.url, "--model", "m", *where).returncode == 0
            wait_for(lambda: door.haproxy("b").startswith("UP"), 20)
            wait_for(b.log, 20)
            assert nbridge("gateway", "drain", "a", *where).returncode == 0
            assert door.haproxy("a").startswith("DRAIN")
            assert nbridge("gateway", "drain", "a", "--off", *where).returncode == 0
            wait_for(lambda: door.haproxy("a").startswith("UP"), 20)
            assert nbridge("gateway", "remove", "a", *where).returncode == 0
            wait_for(lambda: door.status()["servers"].keys() == {"b"}, 20)
            assert json.loads(nbridge("gateway", "status", "--json", *where).stdout)["servers"].keys() == {"b"}
            before = len(seen)
            wait_for(lambda: len(seen) > before + 10)
        assert set(seen) == {200}
    # What was changed outlives the gateway.
    with replicas(tmp_path / "again", "b") as _, gateway(door.file) as second:
        wait_for(lambda: second.status()["servers"].keys() == {"b"}, 20)


@pytest.mark.slow
@needs_haproxy
def test_a_swap_costs_no_answer_and_goes_back_when_the_new_one_fails(tmp_path: Path, nbridge: Command) -> None:
    with replicas(tmp_path, "a", "b", "c") as (a, b, c), gateway(settings_file(tmp_path, [a], FAST)) as door:
        wait_for(lambda: door.state("a") == "in", 20)
        with under_load(door) as seen:
            c.be("error")
            refused = nbridge("swap", "a", c.url, "--data", door.data)
            assert refused.returncode == 4
            assert "gave no token: HTTP 500" in refused.stderr
            c.be("lame")
            back = nbridge("swap", "a", c.url, "--step", 3, "--data", door.data)
            assert back.returncode == 4, back.stderr
            assert "a-2 does not hold at" in back.stderr or "was not let in" in back.stderr
            wait_for(lambda: door.haproxy("a").startswith("UP"), 20)
            wait_for(lambda: door.status()["servers"]["a"]["percent"] == 100, 20)  # once the agent has read the change
            done = nbridge("swap", "a", b.url, "--step", 2, "--name", "new", "--data", door.data, "--json")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == {"old": "a", "new": "new", "cut": 0, "gap_s": None}
            wait_for(lambda: door.status()["servers"].keys() == {"new"}, 20)
            before = len(seen)
            wait_for(lambda: len(seen) > before + 10)
        assert set(seen) == {200}
        assert door.ask().headers["x-nbridge-backend"] == "m/new"


@pytest.mark.slow
@needs_haproxy
def test_the_same_200_prompts_through_haproxy(tmp_path: Path) -> None:
    """`auto` decides in HAProxy as in Python, and the server gets the chosen model's name."""
    from test_policies import prompts

    from gateway.policies.prompts import Ask
    from gateway.policies.routing import Load, Policy, decide

    names = ("small", "big", "qwen")
    with replicas(tmp_path, "small", model="small") as one, replicas(tmp_path, "big", model="big") as two:
        with replicas(tmp_path, "qwen", model="qwen") as three:
            policy = '[policy]\ndefault = "small"\nhard = "big"\nlanguages = { zh = "qwen" }\n'
            with gateway(settings_file(tmp_path, [*one, *two, *three], policy)) as door:
                wait_for(lambda: [door.state(name) for name in names] == ["in"] * 3, 20)
                expected, got = [], []
                free = dict.fromkeys(names, Load(1, 9, 0))
                for prompt in prompts():
                    said = decide(Ask("auto", prompt), Policy("small", hard="big", languages={"zh": "qwen"}), free)
                    expected.append((f"{said.model}/{said.model}", said.reason))
                    answer = door.ask(model="auto", prompt=prompt, max_tokens=1)
                    assert answer.json()["model"] == said.model
                    got.append((answer.headers["x-nbridge-backend"], answer.headers["x-nbridge-reason"]))
        assert got == expected
        assert len({backend for backend, _ in got}) == 3


@pytest.mark.slow
@needs_haproxy
def test_the_same_beginning_goes_to_the_same_server(tmp_path: Path) -> None:
    policy = '[policy]\naffinity = "prefix"\n' + FAST
    with replicas(tmp_path, "a", "b", "c") as made, gateway(settings_file(tmp_path, made, policy)) as door:
        wait_for(lambda: [door.state(name) for name in "abc"] == ["in"] * 3, 20)

        def where() -> dict[int, str]:
            found = {}
            for number in range(12):
                system = {"role": "system", "content": f"You are number {number}. " * 20}
                bodies = [[system, {"role": "user", "content": str(n)}] for n in range(2)]
                asked = []
                for body in bodies:
                    wait_for(door.idle)  # a server with more than its share is spared
                    asked.append(door.ask("/v1/chat/completions", messages=body, max_tokens=1))
                (found[number],) = {one.headers["x-nbridge-backend"] for one in asked}
            return found

        before = where()
        assert set(before.values()) == {"m/a", "m/b", "m/c"}
        made[0].kill()
        wait_for(lambda: door.haproxy("a").startswith("DOWN"), 20)
        after = where()
        assert all(after[n] == before[n] for n in before if before[n] != "m/a")  # the others keep their own
        assert "m/a" not in after.values()


@pytest.mark.slow
@needs_haproxy
def test_a_gap_is_measured(tmp_path: Path) -> None:
    with replicas(tmp_path, "a", "b") as (a, b):
        b.kill()
        a.kill()
        a.start("serve")  # a word that stands in the command of what a swap starts
        assert a.process is not None
        file = settings_file(tmp_path, [a], FAST)
        file.write_text(file.read_text() + f"process = {a.process.pid}\n")
        with gateway(file) as door:
            wait_for(lambda: door.state("a") == "in", 20)

            def start() -> Server:
                assert door.ask().status_code == 503  # nobody answers meanwhile, and says so
                b.start("serve")
                return parse_server({"name": "b", "url": b.url, "model": "m"}, "test")

            cut, gap_s = with_gap(door.data, "a", start, deadline_s=5)
            assert cut == 0
            assert gap_s > 0
            assert a.process.wait(20) is not None
            assert door.ask().headers["x-nbridge-backend"] == "m/b"
            wait_for(lambda: door.status()["servers"].keys() == {"b"}, 20)


def test_a_swap_reads_on_where_the_log_was_rolled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (parse_server({"name": name, "url": ":1", "model": "m"}, "test") for name in ("old", "new"))
    monkeypatch.setattr(exchange, "_rows", lambda *_: {"old": None, "new": None})
    log = tmp_path / "haproxy.log"
    log.write_text("a line of before\n")
    before = exchange._served(tmp_path, old, new, None)

    def answered(server: str, head_ms: int) -> None:
        with log.open("a") as file:
            file.write(json.dumps({"server": server, "status": 200, "head_ms": head_ms}) + "\n")

    def heads_s() -> tuple[list[float], list[float]]:
        told = exchange._served(tmp_path, old, new, before)
        return list(told["old"].heads_s), list(told["new"].heads_s)

    answered("old", 10)
    answered("new", 20)
    assert heads_s() == ([0.01], [0.02])
    assert roll(log, 1)
    answered("new", 30)
    assert heads_s() == ([0.01], [0.02, 0.03])


def test_only_what_a_swap_started_is_ended() -> None:
    def server(pid: int | None) -> Server:
        return parse_server({"name": "a", "url": ":1", "model": "m", "process": pid}, "test")

    code = "import time; time.sleep(600)"
    with (
        subprocess.Popen([sys.executable, "-c", code, "serve"]) as ours,
        subprocess.Popen([sys.executable, "-c", code, "other"]) as others,
    ):
        try:
            assert not ended(server(None))
            assert ended(server(ours.pid))
            assert ours.wait(20) is not None
            assert not ended(server(others.pid))  # the number has gone to another since
            assert others.poll() is None
        finally:
            others.kill()
            ours.kill()
