"""The whole gateway: real HAProxy, the agent, replicas as processes."""

import os
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from doors import Gateway, Replica, gateway, needs_haproxy, replicas, settings_file, under_load
from waiting import wait_for

pytestmark = [needs_haproxy, pytest.mark.slow]
FAST = "[health]\nslow_start_s = 0\n"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Gateway, Replica, Replica]]:
    with replicas(tmp_path, "a", "b") as made, gateway(settings_file(tmp_path, made, FAST)) as door:
        wait_for(lambda: door.state("a") == door.state("b") == "in", 20)
        yield door, made[0], made[1]


def test_what_passes(pair: tuple[Gateway, Replica, Replica]) -> None:
    door = pair[0]
    for path in ("/v1/embeddings", "/v1/hidden_states", "/tokenize"):
        assert door.ask(path).json()["path"] == path
    answer = door.ask(headers={"x-request-id": "mine-1"})
    assert answer.json()["usage"]["completion_tokens"] == 20
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-nbridge-backend"] in ("m/a", "m/b")
    assert answer.headers["x-nbridge-reason"] == "the only model" or answer.headers["x-nbridge-reason"] == "model"
    listed = httpx.get(door.url + "/v1/models", trust_env=False).json()
    assert [one["id"] for one in listed["data"]] == ["m"]
    assert httpx.get(door.url + "/v1/models/m", trust_env=False).json()["path"] == "/v1/models/m"
    # What the servers themselves say of the model is joined in.
    wait_for(
        lambda: httpx.get(door.url + "/v1/models", trust_env=False).json()["data"][0].get("max_model_len") == 4096, 20
    )
    page = httpx.get(door.document["metrics_url"], trust_env=False).text
    assert 'haproxy_server_status{proxy="model.m",server="a",state="UP"} 1' in page


def test_what_does_not_pass(pair: tuple[Gateway, Replica, Replica]) -> None:
    door = pair[0]
    for path in ("/metrics", "/sleep", "/v1/load_lora_adapter", "/reset_prefix_cache"):
        answer = door.ask(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"
    unknown = door.ask(model='no"such\nmodel')
    assert unknown.status_code == 404
    assert unknown.json()["error"] == {
        "message": 'The model no"such\nmodel is not served here.',
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_streams_come_piece_by_piece(pair: tuple[Gateway, Replica, Replica]) -> None:
    door = pair[0]
    with httpx.stream(
        "POST", door.url + "/v1/completions", json={"model": "m", "stream": True, "max_tokens": 5}, trust_env=False
    ) as answer:
        pieces = list(answer.iter_raw())
    assert len(pieces) >= 5
    assert b"[DONE]" in pieces[-1]


def test_bodies_have_a_limit(tmp_path: Path) -> None:
    with replicas(tmp_path, "a") as made:
        file = settings_file(tmp_path, made, "[limits]\nbody_bytes = 100000\nupload_s = 1\n")
        with gateway(file) as door:
            wait_for(lambda: door.state("a") == "in", 20)
            fits = {"model": "m", "prompt": "a" * 99_900}
            assert httpx.post(door.url + "/v1/x", json=fits, trust_env=False).status_code == 200
            for body in (b"a" * 100_001, (b"a" * 50_000 for _ in range(9))):
                answer = httpx.post(door.url + "/v1/x", content=body, trust_env=False)
                assert answer.status_code == 413
                assert answer.json()["error"]["message"] == "The body is larger than 100000 bytes."
            # A slow upload ends by itself.
            with socket.create_connection(("127.0.0.1", int(door.url.rpartition(":")[2]))) as slow:
                slow.sendall(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
                head = b""
                while part := slow.recv(4096):
                    head += part
            assert b"408" in head.split(b"\r\n")[0]
            assert b'"slow_upload"' in head


def test_keys_on_both_sides(tmp_path: Path) -> None:
    user, other, behind = "sk-user-5f3a", "sk-other-77aa", "sk-behind-91b2"
    with replicas(tmp_path, "a") as made:
        file = settings_file(tmp_path, made, '[gateway]\nport = 0\nmetrics_port = 0\napi_keys_env = "FRONT"\n')
        file.write_text(file.read_text() + 'api_key_env = "BEHIND"\n')
        with gateway(file, {"FRONT": f"{user} {other}", "BEHIND": behind}) as door:
            for wrong in (None, "sk-wrong", behind, user.upper()):
                refused = door.ask(key=wrong)
                assert refused.status_code == 401
                assert refused.json()["error"]["code"] == "invalid_api_key"
            assert door.ask(key=user).status_code == 200
            assert door.ask(key=other).status_code == 200
            assert httpx.get(door.url + "/health", trust_env=False).status_code == 200
            assert {entry["key"] for entry in made[0].log()} == {f"Bearer {behind}"}
            files = [path for path in door.data.rglob("*") if path.is_file()]
            commands = "".join(
                Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
                for pid in (door.document["pid"], door.document["haproxy_pid"], door.document["agent_pid"])
            )
            written = "".join(path.read_text(errors="replace") for path in files) + commands
            assert not [key for key in (user, other, behind) if key in written]
            assert '"user":"user1"' in (door.data / "haproxy.log").read_text()
            assert stat.S_IMODE(door.data.stat().st_mode) == 0o700


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    with replicas(tmp_path, "a") as made:
        file = settings_file(tmp_path, made, "[limits]\nqueue = 1\n")
        file.write_text(file.read_text() + "places = 1\n")
        with gateway(file) as door, ThreadPoolExecutor(8) as pool:
            wait_for(lambda: door.state("a") == "in", 20)
            answers = list(pool.map(lambda _: door.ask(max_tokens=40), range(8)))
        codes = [one.status_code for one in answers]
        assert set(codes) == {200, 429}
        refused = next(one for one in answers if one.status_code == 429)
        assert refused.headers["retry-after"] == "2"
        assert refused.json()["error"]["code"] == "queue_full"


def test_a_killed_server_costs_no_answer_and_comes_back(pair: tuple[Gateway, Replica, Replica]) -> None:
    door, a, b = pair
    with under_load(door) as seen:
        wait_for(lambda: len(seen) > 20)
        a.kill()
        wait_for(lambda: door.haproxy("a").startswith("DOWN"), 20)
        before = len(seen)
        wait_for(lambda: len(seen) > before + 20)
        a.start()
        wait_for(lambda: door.haproxy("a").startswith("UP") and door.state("a") == "in", 30)
    assert set(seen) == {200}
    assert b.log()


def test_a_hung_server_costs_no_answer(pair: tuple[Gateway, Replica, Replica]) -> None:
    door, a, _ = pair
    with under_load(door) as seen:
        wait_for(lambda: len(seen) > 20)
        a.be("hang")
        assert httpx.get(a.url + "/health", trust_env=False).status_code == 200
        wait_for(lambda: door.haproxy("a").startswith("DOWN"), 20)
        assert "hangs" in str(door.status()["servers"]["a"]["reason"])
        before = len(seen)
        wait_for(lambda: len(seen) > before + 20)
        a.be("")
        wait_for(lambda: door.haproxy("a").startswith("UP"), 30)
    assert set(seen) == {200}


def test_a_stopped_process_costs_no_answer(pair: tuple[Gateway, Replica, Replica]) -> None:
    door, a, _ = pair
    with under_load(door) as seen:
        wait_for(lambda: len(seen) > 20)
        a.kill(signal.SIGSTOP)
        wait_for(lambda: door.haproxy("a").startswith("DOWN"), 20)
        a.kill(signal.SIGCONT)
        wait_for(lambda: door.haproxy("a").startswith("UP"), 30)
    assert set(seen) == {200}


@pytest.mark.parametrize("fault", ["error", "garbage", "other"])
def test_a_broken_server_goes_out(pair: tuple[Gateway, Replica, Replica], fault: str) -> None:
    door, a, _ = pair
    a.be(fault)
    wait_for(lambda: door.haproxy("a").startswith("DOWN"), 20)
    reason = door.status()["servers"]["a"]["reason"]
    assert {"error": "HTTP 500", "garbage": "OpenAI-compatible", "other": "it serves another and not m"}[
        fault
    ] in reason
    assert all(door.ask().headers["x-nbridge-backend"] == "m/b" for _ in range(5))
    a.be("")
    wait_for(lambda: door.haproxy("a").startswith("UP"), 30)


def test_errors_of_one_server_reach_nobody(pair: tuple[Gateway, Replica, Replica]) -> None:
    door, a, _ = pair
    with under_load(door) as seen:
        wait_for(lambda: len(seen) > 10)
        a.be("error")
        wait_for(lambda: door.haproxy("a").startswith("DOWN"), 20)
    assert set(seen) == {200}


def test_garbage_under_load_is_found_too(pair: tuple[Gateway, Replica, Replica]) -> None:
    door, a, _ = pair
    with under_load(door) as seen:
        wait_for(lambda: len(seen) > 10)
        a.be("garbage")
        wait_for(lambda: door.haproxy("a").startswith("DOWN"), 20)


def test_busy_stays_in(pair: tuple[Gateway, Replica, Replica]) -> None:
    door, a, _ = pair
    a.be("busy")
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(door.ask) for _ in range(2)]  # one of them is at a
        wait_for(lambda: door.state("a") == "busy", 20)
        late = wait_for(lambda: door.status()["servers"]["a"]["canary"], 20)
        assert "no token" in late
        assert door.haproxy("a").startswith("UP")
        a.be("")
        assert [one.result().status_code for one in asked] == [200, 200]
    wait_for(lambda: door.state("a") == "in", 20)


def test_the_last_one_stays_and_nobody_left_has_a_reason(pair: tuple[Gateway, Replica, Replica]) -> None:
    door, a, b = pair
    a.be("hang")
    wait_for(lambda: door.state("a") == "out", 20)
    b.be("error")
    wait_for(lambda: door.state("b") == "kept", 20)
    assert door.haproxy("b").startswith("UP")
    a.kill()
    b.kill()
    wait_for(lambda: door.haproxy("a").startswith("DOWN") and door.haproxy("b").startswith("DOWN"), 20)
    # The last one is let in whatever it does, so HAProxy may try it until its own check has failed, too.
    wait_for(lambda: door.ask().json()["error"]["message"] == "No server of the model m is up.", 20)
    answer = door.ask()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert httpx.get(door.url + "/health", trust_env=False).status_code == 503


def test_a_client_that_leaves_is_left(pair: tuple[Gateway, Replica, Replica]) -> None:
    door, a, b = pair
    with httpx.stream(
        "POST", door.url + "/v1/completions", json={"model": "m", "stream": True, "max_tokens": 1000}, trust_env=False
    ) as answer:
        pieces = answer.iter_raw()  # kept: when it goes, the connection does
        next(pieces)
        wait_for(lambda: _running(a) + _running(b) == 1, 20)
    wait_for(lambda: _running(a) + _running(b) == 0, 8)  # its thousand tokens take ten seconds


def _running(one: Replica) -> int:
    page = httpx.get(one.url + "/metrics", trust_env=False).text
    return int(page.split("num_requests_running ")[1].split()[0])


def test_parts_that_die_come_back(pair: tuple[Gateway, Replica, Replica]) -> None:
    door, a, _ = pair
    a.be("hang")
    wait_for(lambda: door.haproxy("a").startswith("DOWN"), 20)
    agent = door.status()["pid"]
    with under_load(door) as seen:
        os.kill(agent, signal.SIGKILL)
        wait_for(lambda: door.status()["pid"] != agent, 20)
        wait_for(lambda: door.state("a") == "out", 20)  # the new one goes on where the old one was
        a.be("")
        wait_for(lambda: door.haproxy("a").startswith("UP"), 30)
    assert set(seen) == {200}
    os.kill(door.document["haproxy_pid"], signal.SIGKILL)
    wait_for(lambda: _answers(door), 20)


def _answers(door: Gateway) -> bool:
    try:
        return door.ask().status_code == 200
    except httpx.TransportError:
        return False


def test_reload_keeps_every_request_and_refuses_errors(pair: tuple[Gateway, Replica, Replica]) -> None:
    door = pair[0]
    told = door.file.parent / "gateway.log"
    good = door.file.read_text()
    with under_load(door) as seen:
        wait_for(lambda: len(seen) > 10)
        door.file.write_text(good + "weigth = 3\n")
        door.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "Not reloaded, the old settings stay" in told.read_text(), 20)
        assert "unknown setting server.1.weigth" in told.read_text()
        door.file.write_text(good + 'also = ["alias"]\n')
        door.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "Reloaded." in told.read_text(), 20)
        wait_for(lambda: door.ask("/v1/x", model="alias").status_code in (200, 404) and b"alias" in _models(door), 20)
        before = len(seen)
        wait_for(lambda: len(seen) > before + 20)
    assert set(seen) == {200}


def _models(door: Gateway) -> bytes:
    return httpx.get(door.url + "/v1/models", trust_env=False).content


def test_two_gateways_do_not_share_a_folder(pair: tuple[Gateway, Replica, Replica], nbridge: object) -> None:
    door = pair[0]
    second = nbridge("gateway", door.file, "--data", door.data)  # type: ignore[operator]
    assert second.returncode == 2
    assert "Another gateway runs in" in second.stderr


def test_a_gateway_that_is_ended_lets_its_requests_end(tmp_path: Path) -> None:
    with replicas(tmp_path, "a") as made, gateway(settings_file(tmp_path, made)) as door:
        wait_for(lambda: door.state("a") == "in", 20)
        ask = {"model": "m", "stream": True, "max_tokens": 150}  # one and a half seconds
        with httpx.stream("POST", door.url + "/v1/completions", json=ask, trust_env=False) as answer:
            pieces = answer.iter_raw()
            next(pieces)
            door.process.send_signal(signal.SIGTERM)
            wait_for(lambda: "Stopping" in (tmp_path / "gateway.log").read_text(), 20)
            assert b"[DONE]" in b"".join(pieces)
        assert door.process.wait(20) == 0
    assert not [line for line in (tmp_path / "gateway.log").read_text().splitlines() if "Traceback" in line]


def test_refusals_are_no_sign_of_an_engine_that_lives(pair: tuple[Gateway, Replica, Replica]) -> None:
    door, a, _ = pair
    over = threading.Event()

    def bad() -> None:
        while not over.is_set():
            door.ask("/tokenize")  # answered in front of the engine, as a bad request is

    thread = threading.Thread(target=bad)
    thread.start()
    try:
        a.be("hang")
        wait_for(lambda: door.haproxy("a").startswith("DOWN"), 20)
    finally:
        over.set()
        thread.join()
