"""A name that stands for several servers: read as its addresses, and followed as they change."""

import threading
from pathlib import Path

import httpx
import pytest
from doors import needs_haproxy
from waiting import wait_for

from gateway import following
from gateway.errors import SettingsError
from gateway.running import Running, locked
from gateway.settings import parse

TEXT = """[gateway]
port = 0
metrics_port = 0
[[server]]
name = "s"
url = "http://replicas:8000"
model = "m"
each = true
"""
ONE = {"name": "s", "url": "http://replicas:8000", "model": "m", "each": True, "places": 7}


def settings(*servers: dict[str, object]):
    return parse({"server": list(servers)}, "the test")


def test_every_address_is_a_server():
    plain = {"name": "t", "url": "http://10.0.0.9:1", "model": "m"}
    asked: list[tuple[str, int]] = []

    def resolve(host: str, port: int) -> tuple[str, ...]:
        asked.append((host, port))
        return ("10.0.0.1", "fd00::2")

    found = following.expanded(settings(ONE, plain), resolve)
    assert asked == [("replicas", 8000)]
    assert [(one.name, one.url, one.places) for one in found.server] == [
        ("s-10.0.0.1", "http://10.0.0.1:8000", 7),
        ("s-fd00--2", "http://[fd00::2]:8000", 7),
        ("t", "http://10.0.0.9:1", 256),
    ]
    assert not following.follows(found) and following.expanded(settings(plain), resolve) == settings(plain)
    kept = following.expanded(settings(ONE, plain), lambda *_: (), found)
    assert kept == found


def test_a_name_without_an_address_stands_for_nobody_and_a_certificate_is_for_a_name():
    nobody = following.expanded(settings(ONE), lambda *_: ())
    assert [(one.name, one.url) for one in nobody.server] == [("s-none", following.NOWHERE)]
    with pytest.raises(SettingsError, match="a certificate is for the name"):
        settings({**ONE, "url": "https://replicas"})
    assert following.addresses("localhost", 80)
    assert following.addresses("no-such-host.invalid", 80) == ()


@needs_haproxy
def test_a_gateway_follows_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now: dict[str, tuple[str, ...]] = {"addresses": ()}
    monkeypatch.setattr(following, "addresses", lambda host, port: now["addresses"])
    monkeypatch.setattr(following, "LOOK_S", 0.1)
    file, data, over, said = tmp_path / "g.toml", tmp_path / "data", threading.Event(), []
    file.write_text(TEXT, encoding="utf-8")
    with locked(data):
        running = Running(file, data, said.append)
        running.start()
        watch = threading.Thread(target=running.watch, args=(over.is_set, lambda: False))
        watch.start()

        def names() -> set[str]:
            return {name for _, name in running.runtime.rows() if name != "BACKEND"}

        try:
            assert names() == {"s-none"}
            answer = httpx.post(f"{running.url}/v1/completions", json={"model": "m"}, trust_env=False, timeout=60)
            assert answer.status_code == 503 and "error" in answer.json()
            now["addresses"] = ("127.0.0.1", "127.0.0.2")
            wait_for(lambda: names() == {"s-127.0.0.1", "s-127.0.0.2"}, 60)
            now["addresses"] = ()  # a name server that fails is no reason to have no server
            wait_for(lambda: running._look_at_s > 0)
            assert len(names()) == 2
            now["addresses"] = ("127.0.0.2",)
            wait_for(lambda: names() == {"s-127.0.0.2"}, 60)
        finally:
            over.set()
            watch.join()
            running.stop()
    assert said == ["Reloaded.", "Reloaded."]
