"""What comes in wrong, from users, from servers and from files: refused, and nobody else disturbed."""

import json
import socket
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from doors import Gateway, Nbridge, gateway, needs_haproxy, replicas, settings_file
from waiting import wait_for

pytestmark = [needs_haproxy, pytest.mark.slow]


def said(door: Gateway, data: bytes) -> bytes:
    """What a connection is told that sends these bytes and waits."""
    with socket.create_connection(("127.0.0.1", int(door.url.rpartition(":")[2])), timeout=30) as connection:
        connection.sendall(data)
        found = b""
        while part := connection.recv(4096):
            found += part
            if b"\r\n\r\n" in found and found.endswith(b"}"):
                break
    return found


def test_users_who_send_nonsense_or_nothing(tmp_path: Path, nbridge: Nbridge) -> None:
    with replicas(tmp_path, "a") as made, ExitStack() as stack:
        door = stack.enter_context(gateway(settings_file(tmp_path, made, "[limits]\nupload_s = 1\n")))
        wait_for(lambda: door.state("a") == "in", 20)
        for data, status in (
            (b"what is this\r\n\r\n", b"400"),
            (b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: -4\r\n\r\n", b"400"),
            (b"GET /v1/models HTTP/1.1\r\nX: " + b"x" * (2 << 20) + b"\r\n\r\n", b"400"),
            (b"POST /v1/x HTTP/1.1\r\nHost: x\r\nX: a", b"408"),  # a head that never ends
        ):
            # HAProxy's own words: what is no request has met no rule yet.
            assert status in said(door, data).split(b"\r\n")[0], data[:40]
        # Connections that send a byte and wait take nothing from others.
        for _ in range(60):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", int(door.url.rpartition(":")[2]))))
            slow.sendall(b"P")
        assert door.ask().status_code == 200
        for body in ({"model": 5}, {"model": ""}, {"model": None}):
            assert door.ask(**body).status_code in (200, 404)  # names no model, and there is only one
        # A second one, beside: the folder is free, the port is not.
        text = door.file.read_text().replace("port = 0\nmetrics", f"port = {door.url.rpartition(':')[2]}\nmetrics")
        (tmp_path / "second.toml").write_text(text)
        second = nbridge("gateway", tmp_path / "second.toml", "--data", tmp_path / "other")
        assert second.returncode == 2
        assert "gateway.port = " in second.stderr
        assert "is in use by process" in second.stderr
        assert door.ask().status_code == 200


def test_what_a_stranger_sends(tmp_path: Path) -> None:
    """Odd and broken requests: each gets an answer of its own, none of them three servers, and the log stays whole."""
    more = '[policy]\ndefault = "m"\n[limits]\nupload_s = 1\nbody_bytes = 300000\nconnections = 60\n'
    with replicas(tmp_path, "a") as one, replicas(tmp_path, "b", model="org/näme") as two, ExitStack() as stack:
        file = settings_file(tmp_path, [*one, *two], more + "log_bytes = 65536\n")
        door = stack.enter_context(gateway(file))
        wait_for(lambda: door.state("a") == door.state("b") == "in", 60)
        small = b'{"model": "m", "prompt": "1", "max_tokens": 2}'
        full = b'{"model": "org/n\xc3\xa4me", "prompt": "' + b"p" * 299_900 + b'", "max_tokens": 2}'

        def status(body: bytes, *headers: bytes, version: bytes = b"1.1", path: bytes = b"/v1/completions") -> int:
            lines = [b"POST " + path + b" HTTP/" + version, b"Host: x", b"Content-Type: application/json", *headers]
            if b"Transfer-Encoding: chunked" in headers:
                body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            else:
                lines.append(b"Content-Length: %d" % len(body))
            return int(said(door, b"\r\n".join([*lines, b"", body])).split(b" ")[1])

        assert status(small, version=b"1.0") == 200
        assert status(small, b"Transfer-Encoding: chunked") == 200
        assert status(small.replace(b'"m"', b'"auto"'), b"Transfer-Encoding: chunked") == 200
        # Of two models the last one counts, as for the servers' own parsers; the first may be anything.
        assert status(b'{"model": "x", ' + small[1:]) == 200
        assert status(small[:-1] + b', "model": "x"}') == 404
        assert status(b'{"model": "org/n\xc3\xa4me", ' + small.replace(b'"m"', b'"auto"')[1:]) == 200
        assert status(b'{"mod\\u0065l": "org/n\\u00e4me", "prompt": "1", "max_tokens": 2}') == 200
        assert status(b'{"model": "' + b"x" * 299_000 + b'"}') == 404
        assert status(b'{"model": "a\\"b\'%[env(HOME)]${HOME}"}') == 404

        def asked() -> int:  # without the agent's canaries, which ask for one token
            logs = (server.log() for server in (*one, *two))
            return sum((entry["asked"] or {}).get("max_tokens") == 2 for log in logs for entry in log)

        before = asked()
        # What is no JSON is asked of nobody: a server that falls over it would be followed by the next one.
        for body in (b'{"model": "m", "prompt": "\xff"}', b"[" * 200_000, b"[]", b'{"model": "m"', b"model=m"):
            assert status(body) == 400, body[:40]
        assert b'"The body is no JSON object."' in said(
            door, b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{"
        )
        # A full body and all headers that are allowed beside it are still read for the model; more headers are refused.
        assert status(full, b"X-Big: " + b"h" * (31 << 10)) == 200
        assert status(full, b"X-Big: " + b"h" * (33 << 10)) == 431
        assert status(small, b"X-Big: " + b"h" * (64 << 10)) == 431
        # Nothing climbs out of the routes that pass, for servers that have a proxy of their own before them.
        for path in (b"/v1/../metrics", b"/v1/%2e%2e/metrics", b"/v1/x/..", b"/v1/%6coad_lora_adapter"):
            assert status(small, path=path) == 404, path
        assert status(small, path=b"/v1/" + b"p" * 9000) == 200
        assert httpx.get(door.url + "/v1/models/org%2Fn%C3%A4me", trust_env=False).status_code == 200
        assert asked() == before + 1
        # Connections that are kept for later leave room for who asks now.
        for _ in range(70):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", int(door.url.rpartition(":")[2]))))
            idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert door.ask(max_tokens=1).status_code == 200
        lines = (door.data / "haproxy.log").read_text().splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]  # each of them is whole
        assert max(len(entry["path"] or "") for entry in entries) == 500
        wait_for(lambda: door.ask("/v1/" + "q" * 400, max_tokens=1) and (door.data / "haproxy.log.1").exists(), 120)
        assert door.ask(max_tokens=1).status_code == 200


def test_a_server_that_wants_another_key_is_not_the_users_fault(tmp_path: Path) -> None:
    with replicas(tmp_path, "a", "b") as made:
        a, b = made
        a.be("locked")
        with gateway(settings_file(tmp_path, made)) as door:
            wait_for(lambda: door.state("a") == "out", 30)
            assert "401" in door.status()["servers"]["a"]["reason"]
            assert {door.ask().status_code for _ in range(6)} == {200}
            b.be("locked")
            wait_for(lambda: door.state("b") == "kept", 30)
            answer = door.ask()
            assert answer.status_code == 502
            assert answer.json()["error"]["code"] == "server_key_refused"
            b.be("")
            wait_for(lambda: door.ask().status_code == 200, 30)


CLOUD = '[[cloud]]\nname = "c"\nurl = "https://cloud.example.com/v1"\napi_key_env = "CLOUD_KEY"\n{}\n'


@pytest.mark.parametrize(
    ("more", "environment", "words"),
    [
        ('models = { x = "gpt-4o" }\nusd_per_day = 1.0', {}, "'CLOUD_KEY': the environment variable is not set"),
        ('models = { x = "gpt-4o" }\nusd_per_day = 1.0', {"CLOUD_KEY": "a b"}, "holds blanks"),
        ('models = { x = "gpt-4oo" }\nusd_per_day = 1.0', {"CLOUD_KEY": "k"}, "no price of 'x' is known"),
        ('models = { x = "gpt-4o" }', {"CLOUD_KEY": "k"}, "may spend without end"),
    ],
)
def test_a_cloud_that_cannot_be_kept_in_bounds_does_not_start(
    tmp_path: Path,
    nbridge: Nbridge,
    monkeypatch: pytest.MonkeyPatch,
    more: str,
    environment: dict[str, str],
    words: str,
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("[gateway]\nport = 0\nmetrics_port = 0\n" + CLOUD.format(more))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    refused = nbridge("gateway", file, "--data", tmp_path / "data")
    assert refused.returncode == 2
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
