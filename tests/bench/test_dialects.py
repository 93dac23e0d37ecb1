"""Servers of every dialect: what is learnt of them, and right counts in each or one sentence instead."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.client import dialect as dialects
from bench.client.dialect import VLLM, Dialect, Route
from bench.client.identity import identify
from bench.client.pages import Page
from bench.client.probe import ProbeError, learn
from bench.client.target import target_of
from bench.golden.dialects import DIALECTS
from bench.studies.dialects import TOKENS, ask, measure, speaking, truth


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    with speaking(tmp_path_factory.mktemp("dialects"), pace=0.0) as running:
        yield running


REFUSED = {
    "breaks": "No endpoint answered a completion. completions: Unexpected token 200002",
    "rate-limit": "limits the rate of requests now (HTTP 429: not now); it asks to wait 7 s",
    "unavailable": "limits the rate of requests now (HTTP 503: not now); it asks to wait 7 s",
    "no-key": "it wants an API key",
}
UNCOUNTED = {"no-usage", "no-stream-options", "usage-text", "usage-huge"}


@pytest.mark.parametrize("mode", DIALECTS)
def test_every_dialect_is_counted_right_or_refused_in_a_sentence(server: tuple[str, Path], mode: str) -> None:
    row = measure(*server, mode, requests=4)
    if mode in REFUSED:
        assert REFUSED[mode] in row["refused"]
        return
    assert row["outcomes"] == ["ok"]
    if mode in UNCOUNTED:
        assert (row["output_tokens"], row["tpot_s"]) == ([None] * 4, None)
    elif mode == "usage-some":
        assert sorted(row["output_tokens"], key=str) == [TOKENS, TOKENS, None, None]
    else:
        assert row["output_tokens"] == row["output_tokens_truth"]
        assert row["chunks_counted"] == (mode != "four-usage-end")


# What is left of a request's fields, by the dialect that refuses the others.
LEARNT: list[tuple[str, dict[str, Any]]] = [
    ("plain", {"usage": "end"}),
    ("vllm", {"usage": "chunk"}),
    ("usage-zeros", {"usage": "end"}),
    ("usage-final", {"usage": "end"}),
    ("usage-difference", {"usage": "difference"}),
    ("no-usage", {"usage": "never"}),
    ("strict", {"ignore_eos": False, "min_tokens": False, "continuous_usage_stats": False, "stream_options": True}),
    ("nameless", {"ignore_eos": False, "min_tokens": False, "continuous_usage_stats": False, "stream_options": True,
                  "temperature": True, "limit": "max_tokens"}),
    ("max-completion", {"limit": "max_completion_tokens", "ignore_eos": True}),
    ("reasoning-model", {"limit": "max_completion_tokens", "temperature": False, "ignore_eos": False}),
    ("no-stream-options", {"stream_options": False, "usage": "never"}),
    ("harmony", {"ignore_eos": False, "min_tokens": False, "continuous_usage_stats": True}),
    ("no-length", {"ignore_eos": False, "min_tokens": False}),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "fields"), LEARNT, ids=[mode for mode, _ in LEARNT])
def test_what_is_learnt(server: tuple[str, Path], mode: str, fields: dict[str, Any]) -> None:
    found = learn(target_of(f"{server[0]}/{mode}"))
    for route in (found.dialect.chat, found.dialect.completions):
        assert route is not None
        assert {name: getattr(route, name) for name in fields} == fields
    assert Dialect.of(found.dialect.as_dict()) == found.dialect


def test_token_ids_and_endpoints_are_learnt(server: tuple[str, Path]) -> None:
    for mode, token_ids in (("plain", True), ("text-only", False)):
        route = learn(target_of(f"{server[0]}/{mode}")).dialect.completions
        assert route is not None and route.token_ids is token_ids
    assert learn(target_of(f"{server[0]}/chat-only")).dialect.endpoints == ("chat",)
    assert learn(target_of(f"{server[0]}/completions-only")).dialect.endpoints == ("completions",)


def test_what_is_pinned_is_not_asked(server: tuple[str, Path]) -> None:
    url, log = server
    before = len(truth(log, "plain"))
    pins = {"ignore_eos": False, "min_tokens": False, "usage": "never", "limit": "max_completion_tokens"}
    found = learn(target_of(f"{url}/plain"), model="mine", endpoint="chat", pins=pins, extra_body={"seed": 4})
    assert found.model == "mine"
    assert found.dialect.endpoints == ("chat",)
    assert found.dialect.chat is not None
    assert {name: getattr(found.dialect.chat, name) for name in pins} == pins
    for entry in truth(log, "plain")[before:]:
        assert not {"ignore_eos", "min_tokens", "max_tokens"} & set(entry["body"])
        assert (entry["body"]["model"], entry["body"]["seed"]) == ("mine", 4)


def test_a_dialect_that_changes_after_the_probe_is_recorded_not_learnt_again(server: tuple[str, Path]) -> None:
    """The load goes on in the dialect that was learnt; what the server says to that stands in the records."""
    url, _ = server
    found = learn(target_of(f"{url}/plain"))
    records = ask(found, f"{url}/strict", "chat", 3)
    assert [(r["outcome"], r["http_status"]) for r in records] == [("http_error", 400)] * 3
    assert "ignore_eos" in records[0]["error"]


def test_a_rate_limit_is_an_outcome_of_its_own_with_what_was_asked(server: tuple[str, Path]) -> None:
    url, _ = server
    found = learn(target_of(f"{url}/plain"))
    for mode, status in (("rate-limit", 429), ("unavailable", 503)):
        (record,) = ask(found, f"{url}/{mode}", "chat", 1)
        said = (record["outcome"], record["http_status"], record["retry_after_s"], record["error"])
        assert said == ("rate_limited", status, 7.0, "not now")


def test_nobody_there_and_no_model_are_said() -> None:
    with pytest.raises(ProbeError, match="Is the server up"):
        learn(target_of("http://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("dialect", "endpoint", "words"),
    [
        (Dialect(chat=Route("/c")), "completions", 'answers chat only: use scenario = "chat"'),
        (Dialect(completions=Route("/c")), "chat", "text completions only"),
        (Dialect(chat=Route("/c")), "hidden_states", "nbridge serve"),
        (Dialect(), "chat", "neither"),
        (VLLM, "chat", None),
        (VLLM, "hidden_states", None),
    ],
)
def test_what_a_dialect_cannot_carry_is_refused_with_what_would_work(
    dialect: Dialect, endpoint: str, words: str | None
) -> None:
    why = dialects.refused(dialect, endpoint, "completion")
    assert why is None if words is None else words in (why or "")


def page(text: str = "{}", **headers: str) -> Page:
    return Page(200, {name.replace("_", "-"): value for name, value in headers.items()}, text)


@pytest.mark.parametrize(
    ("pages", "headers", "owner", "metrics", "host", "name"),
    [
        ({"/version": '{"version": "0.32.0"}'}, {}, "vllm", "vllm:num_requests_running 0", "h", "vLLM 0.32.0"),
        ({"/version": '{"version": "0.32.0"}'}, {}, "vllm", None, "h", "vLLM 0.32.0"),
        ({"/server_info": '{"version": "0.5.2"}'}, {}, "sglang", None, "h", "SGLang 0.5.2"),
        ({"/props": '{"build_info": "b6000"}'}, {"server": "llama.cpp"}, "llamacpp", None, "h", "llama.cpp b6000"),
        ({"/api/version": '{"version": "0.12.0"}'}, {}, "library", None, "h", "Ollama 0.12.0"),
        ({"/info": '{"version": "3.3.4"}'}, {}, "meta-llama/Llama-3.1-8B", "tgi_queue_size 0", "h", "TGI 3.3.4"),
        ({}, {"x_litellm_version": "1.80.0"}, "openai", None, "h", "LiteLLM 1.80.0"),
        ({}, {}, "me", None, "h", "llama-cpp-python"),
        ({}, {"openai_version": "2020-10-01"}, "system", None, "api.openai.com", "OpenAI"),
        ({}, {}, "?", None, "mine.openai.azure.com", "Azure OpenAI"),
        ({"/openapi.json": '{"paths": {"/load_model": {}}}'}, {}, "Qwen", None, "h", "transformers serve"),
        ({}, {}, "openai", None, "h", None),  # every owner, by LiteLLM
        ({"/version": '{"version": 7}', "/props": "[]", "/info": "{"}, {}, "", None, "h", None),
    ],
)  # fmt: skip
def test_what_a_server_says_it_is(
    pages: dict[str, str], headers: dict[str, str], owner: str, metrics: str | None, host: str, name: str | None
) -> None:
    def read(path: str) -> Page | None:
        return page(pages[path]) if path in pages else None

    about = {"owned_by": owner}
    assert identify(read, page(**headers).headers, about, page(metrics) if metrics else None, host) == name
