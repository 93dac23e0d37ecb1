"""LoRA adapters loaded while servers and gateway run: at every server or at none, then routed; back after restarts."""

import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from doors import gateway, needs_haproxy, replicas, settings_file
from waiting import wait_for

from gateway import adapters, fleet
from gateway.errors import AdapterRefused, SettingsError
from gateway.haproxy.render import ADAPTERS, USERS_FRONT, Places, rendered
from gateway.haproxy.runtime import Runtime
from gateway.settings import Adapter, parse, parse_adapter, parse_server

PROSE = Adapter(name="prose", model="m", path="/models/prose")
SERVER = {"name": "a", "url": "http://127.0.0.1:9001", "model": "m"}


def test_the_overlay_keeps_adapters(tmp_path: Path) -> None:
    settings = parse({"server": [SERVER]}, "g")
    fleet.change(tmp_path, lambda overlay: overlay.with_adapter(PROSE))
    assert fleet.read(tmp_path).adapters == (PROSE,)
    now = fleet.effective(settings, fleet.read(tmp_path))
    assert now.adapters_of("m") == (PROSE,)
    assert rendered(now, Places(tmp_path, tmp_path / "s", None))[ADAPTERS] == "prose m\n"
    fleet.change(tmp_path, lambda overlay: overlay.without_adapter("prose"))
    assert fleet.read(tmp_path) == fleet.Overlay()
    # An overlay of before there were adapters is still read.
    (tmp_path / fleet.OVERLAY).write_text('{"added": [], "removed": [], "drained": [], "shares": {}}')
    assert fleet.read(tmp_path) == fleet.Overlay()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"name": "m"}, "the adapter's name 'm' is taken"),
        ({"name": "other"}, "the adapter's name 'other' is taken"),
        ({"name": "auto"}, "the adapter's name 'auto' is taken"),
        ({"model": "n"}, "the adapter 'prose' is of 'n', which is no model of a [[server]]"),
        ({"path": "a\nb"}, "adapter.0.path"),
        ({"name": "a b"}, "a name has letters"),
    ],
)
def test_adapters_that_fit_nowhere(more: dict[str, Any], words: str) -> None:
    values = {"server": [{**SERVER, "also": ["other"]}], "adapter": [{**PROSE.model_dump(), **more}]}
    with pytest.raises(SettingsError) as refused:
        parse(values, "g")
    assert words in str(refused.value)


def test_one_adapter_by_words_that_are_wrong() -> None:
    with pytest.raises(SettingsError, match="nbridge gateway load: name"):
        parse_adapter({"name": "a b", "path": "x", "model": "m"}, "nbridge gateway load")


@pytest.mark.slow
@needs_haproxy
def test_an_adapter_comes_and_goes(tmp_path: Path, nbridge: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    with replicas(tmp_path, "a", "b") as made, gateway(settings_file(tmp_path, made)) as door:
        a, b = made
        wait_for(lambda: door.state("a") == door.state("b") == "in", 60)

        def said(*words: object) -> tuple[int, str]:
            done = nbridge("gateway", *words, "--data", door.data)
            return done.returncode, done.stderr

        def have() -> list[bool]:
            pages = [httpx.get(one.url + "/v1/models", trust_env=False).json()["data"] for one in made]
            return ["prose" in [entry["id"] for entry in page] for page in pages]

        load = ("load", "prose", "/models/prose", "--model", "m")
        assert door.ask(model="prose").status_code == 404
        # One that loads none: at no server then, and nobody is sent there.
        b.be("fixed")
        code, words = said(*load)
        assert code == 4
        assert "b did not load the adapter prose: it loads no adapters while it runs" in words
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in words
        assert have() == [False, False]
        assert door.ask(model="prose").status_code == 404
        b.be("")
        assert said(*load) == (0, "prose is served by a, b.\n")
        assert have() == [True, True]
        seen = {
            (answer.status_code, answer.json()["model"], answer.headers["x-nbridge-backend"])
            for answer in (door.ask(model="prose", max_tokens=1) for _ in range(8))
        }
        assert seen == {(200, "prose", "m/a"), (200, "prose", "m/b")}
        assert door.ask(max_tokens=1).json()["model"] == "m"
        wait_for(lambda: "prose" in httpx.get(door.url + "/v1/models", trust_env=False).text, 30)
        for wrong, why in (
            (load, "has an adapter 'prose' already"),
            (("load", "m", "/x", "--model", "m"), "the adapter's name 'm' is taken"),
            (("load", "x", "/x", "--model", "nope"), "'nope', which is no model of a [[server]]"),
            (("unload", "x"), "The gateway has no adapter 'x'; it has prose."),
        ):
            code, words = said(*wrong)
            assert (code, "Traceback" in words) == (2, False)
            assert why in words
        # A server that is started anew has lost it, and gets it before it is let in again.
        a.kill()
        wait_for(lambda: door.haproxy("a").startswith("DOWN"), 60)
        a.start()
        wait_for(lambda: door.haproxy("a").startswith("UP"), 60)
        wait_for(lambda: have() == [True, True], 30)
        # So has one that was so quick about it that no canary was missed, or whose adapter somebody took away.
        for one in made:
            httpx.post(one.url + "/v1/unload_lora_adapter", json={"lora_name": "prose"}, trust_env=False)
        wait_for(lambda: have() == [True, True], 60)
        # A reload keeps it; a request in work ends before it is unloaded.
        door.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "Reloaded." in (tmp_path / "gateway.log").read_text(), 60)
        assert door.ask(model="prose", max_tokens=1).status_code == 200
        with ThreadPoolExecutor(1) as pool:
            last = pool.submit(lambda: door.ask(model="prose", max_tokens=400))  # four seconds
            asked = Runtime(door.data / "haproxy.sock")
            wait_for(lambda: asked.tracked(USERS_FRONT, "prose") == 1, 20)
            assert said("unload", "prose", "--deadline", 60) == (0, "prose is out.\n")
            assert (last.result().status_code, asked.tracked(USERS_FRONT, "prose")) == (200, 0)
        assert have() == [False, False]
        assert door.ask(model="prose").status_code == 404
        assert door.ask().status_code == 200


@pytest.mark.slow
def test_what_a_server_says_of_an_adapter(tmp_path: Path) -> None:
    with replicas(tmp_path, "a") as (a,):
        server = parse_server({"name": "a", "url": a.url, "model": "m"}, "test")
        adapters.load(server, PROSE)
        adapters.unload(server, "prose")
        with pytest.raises(AdapterRefused, match=r"HTTP 404: .*'prose' cannot be found"):
            adapters.unload(server, "prose")
        a.kill()
        with pytest.raises(AdapterRefused, match="a did not load the adapter prose: "):
            adapters.load(server, PROSE)
