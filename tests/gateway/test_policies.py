"""Policies by worked cases, and the Lua that HAProxy runs held against the Python over the same prompts."""

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.haproxy.render import LUA, Places, rendered
from gateway.policies.prompts import Ask, affinity, complexity, language, read
from gateway.policies.routing import Load, Policy, decide, least_outstanding
from gateway.settings import parse

POLICY = Policy(default="small", fast="tiny", hard="big", overflow="cloud", languages={"zh": "qwen"})
FREE = Load(up=1, free=9, in_flight=1)
LOADS = dict.fromkeys(("small", "tiny", "big", "cloud", "qwen"), FREE)
HARD = "Prove that it ends, step by step:\n```python\nf = 1\n```\nwith $x^2 = \\frac{1}{2}$"


def test_complexity_by_hand() -> None:
    assert complexity("") == 0
    assert complexity("Hello") == pytest.approx(0.4 * 5 / 8000)
    # 8,000 characters and more take 0.4 and leave it at that: length alone is not hard.
    assert complexity("a" * 8000) == pytest.approx(0.4) == complexity("a" * 100_000)
    # One marker takes 0.45 of what is left to 1, two take 1 - 0.55², three 1 - 0.55³.
    assert complexity("```") == pytest.approx(0.45, abs=1e-3)
    assert complexity("```\n$x^2$") == pytest.approx(1 - 0.55**2, abs=1e-3)
    assert complexity("```\n$x^2$ prove it") == pytest.approx(1 - 0.55**3, abs=2e-3)
    assert complexity("```\n" * 11) == pytest.approx(1 - 0.55**2, abs=3e-3)  # many lines are a marker
    assert complexity("\n" * 9) < 0.01  # ten lines are not many


def test_prices_are_no_formula() -> None:
    assert complexity("It costs $5 here and $10 there.") < 0.01
    assert complexity("Solve $x_1 = 3$.") > 0.4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("请介绍一下北京的历史。", "zh"),
        ("Please translate 请介绍一下北京的历史和文化。", "zh"),
        ("これは日本語の文章です。", "ja"),
        ("안녕하세요 세계", "ko"),
        ("Привет, мир", "ru"),
        ("مرحبا بالعالم", "ar"),
        ("नमस्ते दुनिया", "hi"),
        ("Bonjour, ça va ?", None),
        ("I like the word 你好 very much, as anybody does.", None),
        ("12345 !?", None),
        ("", None),
    ],
)
def test_language(text: str, expected: str | None) -> None:
    assert language(text) == expected


def test_what_a_body_asks() -> None:
    chat = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "old"},
            {"role": "assistant", "content": "answer"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "new"}, {"type": "image_url"}, {"type": "text", "text": "er"}],
            },
        ],
        "user": "u1",
    }
    assert read(json.dumps(chat).encode()) == Ask("m", "new\ner", "Be brief.", "u1")
    assert read(b'{"prompt": ["a", "b"], "model": ""}') == Ask(None, "a", "a")
    assert read(b'{"prompts": "p", "model": 7, "prompt_cache_key": "k", "user": "u"}') == Ask(None, "p", "p", "k")
    assert read(b'{"input": "i", "messages": []}') == Ask(None, "i", "i")
    for broken in (b"", b"[]", b"{", b'"x"', b'{"model": "m"} x', b'{"a": "\xff"}', b"null"):
        assert read(broken) is None


def test_affinity() -> None:
    ask = Ask("m", "t", "é" * 300, "from the body")
    assert affinity(ask, "none") is None
    assert affinity(ask, "session") == b"from the body"
    assert affinity(ask, "session", "from the header") == b"from the header"
    assert affinity(ask, "prefix") == ("é" * 256).encode()  # 512 bytes
    assert affinity(Ask(), "prefix") is None


def test_a_named_model_gets_what_it_names() -> None:
    assert decide(Ask("qwen"), POLICY, LOADS).model == "qwen"
    assert decide(Ask("q"), POLICY, LOADS, aliases={"q": "qwen"}).model == "qwen"
    assert decide(Ask("gone"), POLICY, LOADS).status == 404
    assert decide(Ask(), POLICY, LOADS).model == "small"
    assert decide(None, Policy(), {"one": FREE}).model == "one"
    assert decide(Ask(), Policy(), LOADS).status == 400
    # Never silently another model than the one that was named.
    assert decide(Ask("qwen"), POLICY, {**LOADS, "qwen": Load(0, 0, 0)}).status == 503
    assert decide(Ask("qwen"), POLICY, {**LOADS, "qwen": Load(1, 0, 10, 64)}).status == 429


def test_auto_by_worked_cases() -> None:
    def went(text: str, small: Load = FREE, max_ttft_ms: float | None = None, **other: Load) -> tuple[str | None, str]:
        said = decide(Ask("auto", text), POLICY, {**LOADS, "small": small, **other}, max_ttft_ms=max_ttft_ms)
        return said.model, said.reason

    assert went("Hello") == ("small", "default")
    assert went(HARD) == ("big", "complexity 0.83")
    assert went("Hello", max_ttft_ms=200) == ("tiny", "latency")
    assert went("Hello", max_ttft_ms=900) == ("small", "default")
    assert went("你好，请介绍一下自己") == ("qwen", "language zh")
    # 0.2 of the places are free: the easy one stays, the one with code and a formula leaves.
    tight = Load(up=1, free=2, in_flight=8)
    assert went("Hello", tight) == ("small", "default")
    assert went("```\n$x^2$", tight) == ("cloud", "capacity 0.20")
    assert went("Hello", Load(1, 1, 9)) == ("cloud", "capacity 0.10")
    # What cannot be had is not waited for.
    nobody = Load(up=0, free=0, in_flight=0)
    assert went(HARD, big=nobody) == ("small", "default")
    assert went("Hello", nobody, cloud=nobody) == ("cloud", "No server of the model cloud is up.")


def test_the_middle_ground_needs_no_overflow() -> None:
    alone = Policy(default="small")
    said = decide(Ask("auto", HARD), alone, {"small": Load(1, 0, 10, 3)})
    assert (said.model, said.reason, said.status) == ("small", "default", 200)


def test_least_outstanding_is_by_capacity() -> None:
    assert least_outstanding([("a", 100, 0), ("b", 100, 0)]) == "a"
    # a would have 4/100, b 3/50: a, although it has more.
    assert least_outstanding([("a", 100, 3), ("b", 50, 2)]) == "a"
    assert least_outstanding([("a", 100, 5), ("b", 50, 1)]) == "b"
    assert least_outstanding([("a", 0, 0)]) is None


def test_select_takes_the_same_look_at_a_prompt(nbridge: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    said = nbridge("select", "--prompt", "请介绍一下北京的历史。", "--json")
    assert "complexity 0.00, its script tells zh; ordered by cost" in said.stderr
    accepted = json.loads(said.stdout)["accepted"]
    assert accepted
    assert all("zh" in one["languages"] for one in accepted)
    assert (
        "complexity 0.83, its script tells no language; ordered by quality"
        in nbridge("select", "--prompt", HARD).stderr
    )


def prompts() -> list[str]:
    """200 prompts: every marker with and without the others, many lengths and scripts, drawn from a fixed seed."""
    draw = random.Random(14)
    parts = ["Hello", "```py\nx\n```", "$x^2$", "$5 and $6", "\n" * 11, "Prove that", "step BY step", "refactor"]
    parts += ["你好世界", "日本のかな", "证明", "Привет", "مرحبا", "한국어", "ça va", "é" * 40, "a" * 1500, "İK"]
    parts += ["\\frac", "$$", "\t\x7f", '"quoted" \\ back', "😀"]
    return ["".join(draw.sample(parts, draw.randint(1, 7))) * draw.choice((1, 1, 1, 9)) for _ in range(200)]


def settings() -> dict[str, object]:
    urls = {name: f"http://127.0.0.1:{9000 + n}" for n, name in enumerate(LOADS)}
    return {
        "policy": {"affinity": "prefix", "default": "small", "fast": "tiny", "hard": "big", "overflow": "cloud",
                   "languages": {"zh": "qwen"}},
        "server": [{"name": name, "url": url, "model": name} for name, url in urls.items()],
    }  # fmt: skip


_RUN = """
local M = dofile(arg[1])
for line in io.lines(arg[2]) do
  local kind, limit, body = line:match("^(%S+) (%S+) (.*)$")
  local loads = { free = { up = 1, free = 9, in_flight = 1, waiting = 0 },
    tight = { up = 1, free = 2, in_flight = 8, waiting = 0 },
    gone = { up = 0, free = 0, in_flight = 0, waiting = 0 }, full = { up = 1, free = 0, in_flight = 9, waiting = 64 } }
  local ask = M.read(body)
  local said = M.decide(ask, function(model) return model == "small" and loads[kind] or loads.free end, tonumber(limit))
  local score = ask and M.complexity(ask.text) or -1
  local tie = ask and M.affinity(ask, "prefix") or ""
  print(string.format("%s|%s|%d|%.17g|%s|%s", said.model or "-", said.reason, said.status, score,
    ask and M.language(ask.text) or "-", (tie:gsub(".", function(c) return string.format("%02x", c:byte()) end))))
end
"""


@pytest.mark.skipif(shutil.which("lua5.3") is None, reason="lua5.3 is not installed")
def test_lua_decides_as_python_does(tmp_path: Path) -> None:
    (tmp_path / LUA).write_text(rendered(parse(settings(), "test"), Places(tmp_path, tmp_path / "s", None))[LUA])
    (tmp_path / "run.lua").write_text(_RUN)
    loads = {"free": FREE, "tight": Load(1, 2, 8), "gone": Load(0, 0, 0), "full": Load(1, 0, 9, 64)}
    draw = random.Random(15)
    cases = []
    for number, prompt in enumerate(prompts()):
        messages = [{"role": "system", "content": prompt[::-1][:40]}, {"role": "user", "content": prompt}]
        body: dict[str, object] = {
            "model": draw.choice(["auto", "auto", "qwen", "gone", None]),
            "n": -1.5e3,
            "x": [True, None, {}],
        }
        body |= {"messages": messages} if number % 3 else {"prompt": prompt}
        text = json.dumps(body, ensure_ascii=bool(number % 2))
        cases.append((draw.choice(list(loads)), draw.choice(["-", "100", "900"]), text))
    odd = ["", "[]", "{", '{"model": "m"} x', '{"model": "\\ud83d"}', "{}", '{"a": 01x}']
    odd.append('{"model": "' + "né" * 500 + '"}')
    cases += [("free", "-", body) for body in odd]
    (tmp_path / "cases").write_text("".join(" ".join(case) + "\n" for case in cases))
    argv = ["lua5.3", "run.lua", LUA, "cases"]
    said = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == len(cases)
    seen = set()
    for (kind, limit, body), line in zip(cases, said, strict=True):
        ask = read(body.encode())
        now = {**LOADS, "small": loads[kind]}
        ttft = None if limit == "-" else float(limit)
        expected = decide(ask, POLICY, now, max_ttft_ms=ttft)
        model, reason, status, score, spoken, tie = line.rsplit("|", 5)
        assert (model, reason, int(status)) == (expected.model or "-", expected.reason, expected.status), body
        assert float(score) == (complexity(ask.text) if ask else -1), body
        assert spoken == ((language(ask.text) if ask else None) or "-"), body
        assert tie == ((affinity(ask, "prefix") or b"").hex() if ask else ""), body
        seen.add(reason.split(" ")[0])
    assert {"latency", "complexity", "language", "capacity", "default", "model", "The"} <= seen  # every rule was met
