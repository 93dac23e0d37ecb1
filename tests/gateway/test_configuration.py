"""Settings, what they refuse, and what is rendered of them; checked by the real HAProxy and nginx."""

import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from doors import needs_haproxy, replicas, settings_file
from waiting import wait_for

from gateway import fleet, nginx
from gateway.capacity import measured, with_capacities
from gateway.errors import MissingProgram, SettingsError
from gateway.haproxy import program
from gateway.haproxy.render import CONFIG, Places, backend_name, rendered, weights
from gateway.haproxy.runtime import parse as parse_rows
from gateway.keys import user_keys
from gateway.running import with_free_ports
from gateway.settings import load, parse, parse_server
from serve.processes import port

A = {"name": "a", "url": "http://127.0.0.1:8001", "model": "m"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "there is no [[server]] and no [[cloud]]"),
        ({"server": [{**A, "modle": "m"}]}, "unknown setting server.0.modle; did you mean model?"),
        ({"server": [A, A]}, "the name 'a' is given twice"),
        ({"server": [{**A, "url": "http://h:1/deep"}]}, "has a path"),
        ({"server": [{**A, "url": "http://u:p@h:1"}]}, "may not hold a user or password"),
        ({"server": [{**A, "name": "a b"}]}, "server.0.name = 'a b': a name has letters, digits and . _ -"),
        ({"server": [{**A, "name": "a\nserver x"}]}, "a name has letters"),
        ({"server": [{**A, "model": 'm" if'}]}, "a name has letters"),
        ({"server": [{**A, "api_key_env": "sk-secret-1"}]}, "must be the NAME of an environment variable"),
        ({"server": [A, {**A, "name": "b", "api_key_env": "K"}]}, "want different keys"),
        ({"server": [A, {**A, "name": "b", "url": "https://h"}]}, "are of http and of https"),
        ({"server": [{**A, "capacity": 9.0}, {**A, "name": "b"}]}, "and not for b; set it for all or none"),
        ({"server": [A], "policy": {"default": "n"}}, "policy.default = 'n' is no model"),
        ({"server": [A], "policy": {"fast": "m"}}, "default is not set"),
        ({"server": [{**A, "also": ["auto"]}]}, "is a model's own name"),
        ({"server": [A], "gateway": {"host": "0.0.0.0"}}, "reachable from other machines and users need no key"),
        ({"server": [A], "gateway": {"port": "80"}}, "gateway.port = '80'"),
        ({"server": [A], "gateway": {"port": 8405}}, "gateway.port and gateway.metrics_port are both 8405"),
        ({"server": [A], "gateway": {"port": 8001}}, "the server 'a' at http://127.0.0.1:8001 would be this gateway"),
        ({"server": [{**A, "url": "http://localhost:8405"}]}, "would be this gateway itself"),
        ({"server": [A], "gateway": {"host": "0.0.0.0", "port": 8001, "api_keys_env": "K"}}, "this gateway itself"),
        ({"server": [A], "limits": {"log_bytes": 10}}, "limits.log_bytes = 10"),
        ({"server": [A], "limits": {"deadline_s": 10.0}}, "deadline_s = 10 must be above queue_s = 30"),
        ({"server": [A], "limits": {"retry_share": 1.5}}, "limits.retry_share = 1.5"),
        ({"server": [A], "health": {"backoff_s": float("nan")}}, "health.backoff_s = nan"),
    ],
)
def test_bad_settings_are_refused_with_place_and_remedy(values: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(values, "g.toml")
    assert str(refused.value).startswith("g.toml: ")
    assert words in str(refused.value)
    assert "sk-secret" not in str(refused.value)


def test_a_server_beside_the_gateway_may_have_its_port() -> None:
    """On another address of the machine, another program may listen at the same number."""
    own = {"host": "10.0.0.5", "port": 8001, "api_keys_env": "K"}
    assert parse({"server": [A], "gateway": own}, "g").server[0].url == "http://127.0.0.1:8001"
    with pytest.raises(SettingsError, match="would be this gateway itself"):
        parse({"server": [{**A, "url": "http://10.0.0.5:8001"}], "gateway": own}, "g")


def test_ports_that_are_picked_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter([7001, 7001, 7001, 7002])
    monkeypatch.setattr(port, "pick", lambda _host: next(given))
    found = with_free_ports(parse({"server": [A], "gateway": {"port": 0, "metrics_port": 0}}, "g")).gateway
    assert (found.port, found.metrics_port) == (7001, 7002)


def test_files_that_are_no_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load(tmp_path / "none")
    (tmp_path / "broken").write_text("[gateway\n")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load(tmp_path / "broken")
    with pytest.raises(SettingsError, match="it is a device"):
        load(Path("/dev/zero"))


def test_users_keys_come_from_a_private_file_or_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nsk-1\n\nsk-2\n")
    settings = parse({"server": [A], "gateway": {"api_keys_file": str(file), "api_keys_env": "K"}}, "g")
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="can be read by others: chmod 600"):
        user_keys(settings, {"K": "sk-3, sk-4"})
    file.chmod(0o600)
    assert user_keys(settings, {"K": "sk-3, sk-4"}) == ["sk-3", "sk-4", "sk-1", "sk-2"]
    with pytest.raises(SettingsError, match="K, which shall hold the users' keys, is not set"):
        user_keys(settings, {})


def test_weights_by_hand() -> None:
    servers = [
        parse_server({**A, "name": name, "capacity": cap}, "t")
        for name, cap in (("a", 300.0), ("b", 100.0), ("c", 1.0))
    ]
    assert weights(servers) == {"a": 100, "b": 33, "c": 1}
    assert weights([parse_server(A, "t")]) == {"a": 100}


def test_capacities_of_a_run() -> None:
    def cell(
        engine: str, load: str, rate: float | None, *, valid: bool = True, outcome: str = "ok"
    ) -> dict[str, object]:
        return {
            "engine": {"name": engine}, "load": {"name": load}, "outcome": outcome, "validity": {"valid": valid},
            "metrics": {"output_throughput_tok_s": rate},
        }  # fmt: skip

    run = {
        "run_id": "r1",
        "cells": [
            cell("bf16", "c1", 30), cell("bf16", "c4", 100), cell("bf16", "c4", 90),
            cell("bf16", "c16", 500, valid=False),
            cell("bf16", "c64", None),
            cell("int8", "c4", 160), cell("int8", "c16", 400, outcome="failed"), cell("int4", "c1", None),
        ],
    }  # fmt: skip
    assert measured(run) == {"bf16": 90, "int8": 160}
    two = parse({"server": [{**A, "engine": "bf16"}, {**A, "name": "b", "engine": "int8"}]}, "g")
    assert [one.capacity for one in with_capacities(two, run).server] == [90, 160]
    with pytest.raises(SettingsError, match="server a: no engine is named, and r1 has valid cells of bf16, int8"):
        with_capacities(parse({"server": [A]}, "g"), run)


def test_backends_have_names_of_their_own() -> None:
    names = ("a/b", "a:b", "a_b")
    settings = parse({"server": [{**A, "name": f"s{n}", "model": name} for n, name in enumerate(names)]}, "g")
    assert [backend_name(settings, name) for name in names] == ["model.a_b", "model.a_b.1", "model.a_b.2"]


def test_the_overlay(tmp_path: Path) -> None:
    settings = parse({"server": [A, {**A, "name": "b"}]}, "g")
    new = parse_server({**A, "name": "c"}, "t")
    overlay = fleet.Overlay().with_server(new).without_server("a", in_file=True).drain("b").share("c", 0.2)
    fleet.write(tmp_path, overlay)
    assert fleet.read(tmp_path) == overlay
    assert [one.name for one in fleet.effective(settings, overlay).server] == ["b", "c"]
    gone = overlay.without_server("c", in_file=False).drain("b", on=False)
    assert gone == fleet.Overlay(removed=("a",))
    assert (tmp_path / fleet.OVERLAY).stat().st_mode & 0o777 == 0o600
    (tmp_path / fleet.OVERLAY).write_text("{}")
    with pytest.raises(SettingsError, match="take it away to go on"):
        fleet.read(tmp_path)


def test_a_haproxy_that_will_not_do() -> None:
    with pytest.raises(MissingProgram, match="apt-get install haproxy"):
        program.find(lambda _: None)
    good = "HAProxy version 2.6.12-1 2026\nFeature list : +LUA +PROMEX\n"
    program.check(good, "haproxy")
    with pytest.raises(MissingProgram, match=r"is HAProxy 2\.4; 2\.6 or newer"):
        program.check(good.replace("2.6.12", "2.4.1"), "haproxy")
    with pytest.raises(MissingProgram, match="built without Lua"):
        program.check(good.replace("+LUA", "-LUA"), "haproxy")
    with pytest.raises(MissingProgram, match=r"is HAProxy 2\.5; 2\.6 or newer"):
        program.check(good.replace("2.6.12", "2.5.0"), "haproxy")
    for newer in ("2.8.25", "3.0.1", "3.2.1", "3.4.0", "10.0.0"):
        program.check(good.replace("2.6.12", newer), "haproxy")


def test_statistics_that_are_none() -> None:
    assert parse_rows("") == {}
    page = (
        "# pxname,svname,status,weight,scur,lbtot,wretr,bout\nmodel.m,a,UP,100,2,9,1,77\nmetrics,FRONTEND,OPEN,,,,,\n"
    )
    row = parse_rows(page)["model.m", "a"]
    assert (row.status, row.sessions, row.attempts, row.failures, row.bytes_out) == ("UP", 2, 9, 1, 77)


def everything() -> dict[str, object]:
    return {
        "gateway": {"api_keys_env": "FRONT"},
        "policy": {"default": "m", "overflow": "gpt", "affinity": "prefix", "languages": {"zh": "org/q"}},
        "server": [
            {**A, "api_key_env": "BEHIND", "capacity": 3.0},
            {**A, "name": "b", "api_key_env": "BEHIND", "capacity": 1.0},
            {**A, "name": "q", "model": "org/q", "url": "http://[::1]:9", "also": ["q:latest"]},
        ],
        "cloud": [{"name": "cloud", "url": "https://api.example.com/v1", "models": {"gpt": "gpt-4o", "g:2": "x"},
                   "api_key_env": "CLOUD", "usd_per_day": 1.0}],
        "adapter": [{"name": "prose:1", "model": "m", "path": "/models/prose 1"}],
    }  # fmt: skip


@needs_haproxy
def test_haproxy_takes_what_is_rendered(tmp_path: Path) -> None:
    for values in (everything(), {"server": [A]}, {"server": [A], "limits": {"retries": 0}}):
        settings = parse(values, "g")
        files = rendered(settings, Places(tmp_path, tmp_path / "s.sock", 9999), ["sk-user-1"])
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        program.validate(shutil.which("haproxy") or "", tmp_path / CONFIG, {"BEHIND": "sk-behind"})
        assert not [name for name, text in files.items() if "sk-user-1" in text or "sk-behind" in text]
    with pytest.raises(SettingsError, match=r"HAProxy refuses the configuration: .*nonsense"):
        (tmp_path / CONFIG).write_text("global\n  nonsense\n")
        program.validate(shutil.which("haproxy") or "", tmp_path / CONFIG)


@needs_haproxy
def test_the_door_renders(tmp_path: Path, nbridge: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    file = settings_file(tmp_path, [], "[[server]]\nname = 'x'\nurl = ':8001'\nmodel = 'm'\n")
    assert "port = 0" in nbridge("gateway", "render", file).stderr  # where one is listened on, a free one is found
    file.write_text(file.read_text().replace("port = 0\nmetrics_port = 0", ""))
    printed = nbridge("gateway", "render", file)
    assert printed.returncode == 0
    assert "server x 127.0.0.1:8001 weight 100" in printed.stdout or "server x [::1]:8001" in printed.stdout
    assert "agent-check" not in printed.stdout
    written = nbridge("gateway", "render", file, "--out", tmp_path / "out", "--agent-port", 9999)
    assert written.returncode == 0
    program.validate(shutil.which("haproxy") or "", tmp_path / "out" / CONFIG)
    assert nbridge("gateway", "render", file, "--engine", "apache").returncode == 2
    assert nbridge("gateway", "status", "--data", tmp_path / "none").returncode == 4
    file.write_text(
        f"[gateway]\nport = {(taken := port.pick('127.0.0.1'))}\n" + "[[server]]\nname='x'\nurl=':1'\nmodel='m'\n"
    )
    with subprocess.Popen(
        ["python3", "-m", "http.server", "-b", "127.0.0.1", str(taken)], stderr=subprocess.DEVNULL
    ) as other:
        wait_for(lambda: not port.is_free("127.0.0.1", taken), 20)
        refused = nbridge("gateway", file, "--data", tmp_path / "data")
        other.kill()
    assert refused.returncode == 2
    assert f"gateway.port = {taken} is in use by process {other.pid}" in refused.stderr


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_serves_what_is_rendered(tmp_path: Path) -> None:
    with replicas(tmp_path, "a", "b") as (a, b):
        file = settings_file(tmp_path, [a, b], "[limits]\nbody_bytes = 100000\n")
        settings = load(file)
        number = port.pick("127.0.0.1")
        settings = settings.model_copy(update={"gateway": settings.gateway.model_copy(update={"port": number})})
        text = nginx.rendered(settings, ["sk-1"])
        (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/nginx.pid;\nerror_log {tmp_path}/error.log;\n" + text)
        argv = ["nginx", "-p", str(tmp_path), "-c", "nginx.conf", "-g", "daemon off;"]
        with subprocess.Popen(argv, stderr=subprocess.PIPE) as server:
            try:
                wait_for(lambda: server.poll() is not None or not port.is_free("127.0.0.1", number), 20)
                assert server.poll() is None, server.stderr and server.stderr.read()
                with httpx.Client(base_url=f"http://127.0.0.1:{number}", trust_env=False) as client:
                    ask = {"model": "m", "prompt": "1", "max_tokens": 2}
                    refused = client.post("/v1/completions", json=ask)
                    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
                    client.headers["authorization"] = "Bearer sk-1"
                    a.be("error")
                    codes = [client.post("/v1/completions", json=ask).status_code for _ in range(10)]
                    assert codes == [200] * 10  # the broken one is passed over, each time anew
                    with client.stream("POST", "/v1/completions", json={**ask, "stream": True}) as answer:
                        assert len(list(answer.iter_raw())) >= 2
                    assert client.post("/v1/x", content=b"a" * 100_001).status_code == 413
                    assert client.get("/metrics").json()["error"]["code"] == "not_found"
            finally:
                server.send_signal(signal.SIGTERM)
    with pytest.raises(SettingsError, match="nginx reads no key"):
        nginx.rendered(parse(everything(), "g"))
