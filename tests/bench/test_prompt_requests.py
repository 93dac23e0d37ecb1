"""From a prompt file to what a load sends: lengths, what fits, what a trace's prompts share, and when each is due."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.errors import PlanError
from bench.plans.loads import Load
from bench.plans.workload import Vocabulary
from bench.prompts.reading import PromptFile
from bench.prompts.requests import check, requests
from bench.prompts.summary import summarise


def two_a_word(text: str) -> list[int]:
    """A tokenizer that makes two tokens of every word."""
    return [token for word in text.split() for token in (len(word), 0)]


VOCABULARY = Vocabulary(tuple(range(100, 200)), None, 2.0, two_a_word)


def file(tmp_path: Path, *items: Any) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return str(path)


def load(path: str, **values: Any) -> Load:
    closed = {"concurrency": 1, "requests": 8} if values.get("kind") != "open" else {}
    return Load.model_validate({"name": "x", "scenario": "file", "prompts_file": path, **closed, **values})


def trace(path: str, **values: Any) -> Load:
    return load(path, kind="open", arrival="trace", **values)


TRACE = [{"timestamp": 250 * n, "input_length": 20 + n, "output_length": 4 + n} for n in range(9)]


def test_own_prompts_come_in_order_and_again(tmp_path: Path) -> None:
    own = load(file(tmp_path, {"prompt": "one", "max_tokens": 3}, {"messages": [{"role": "user", "content": "b"}]}))
    made = requests(
        own.model_copy(update={"output_tokens": load("x", output_tokens=9).output_tokens}), 1, 4, None, repeat=1
    )
    sent = [*made.warm, *made.measured]
    assert [body["endpoint"] for body in sent] == ["completions", "chat", "completions", "chat", "completions"]
    assert [body["max_tokens"] for body in sent] == [3, 9, 3, 9, 3]
    assert (made.due_s, made.said) == (None, None)


def test_answers_become_as_long_as_the_recorded_ones_unless_the_load_says_otherwise(tmp_path: Path) -> None:
    path = file(tmp_path, {"instruction": "a", "response": "one two three"})
    lengths = [
        next(iter(requests(load(path, **more), 0, 1, VOCABULARY, repeat=1).measured))["max_tokens"]
        for more in ({}, {"output_tokens": 5})
    ]
    assert lengths == [6, 5]


def test_a_files_own_parameters_go_along(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    path = file(tmp_path, {"messages": [{"role": "user", "content": "a"}], "tools": tools, "source": "web"})
    (body,) = requests(load(path), 0, 1, None, repeat=1).measured
    assert body["parameters"] == {"tools": tools}


def test_what_does_not_fit_is_left_out_and_others_take_its_place(tmp_path: Path) -> None:
    path = file(tmp_path, *({"prompt": "w " * words, "max_tokens": 10} for words in (5, 60, 7, 50, 8)))
    made = requests(load(path), 0, 3, VOCABULARY, repeat=1, max_model_len=64)
    assert [len(body["prompt"].split()) for body in made.measured] == [5, 7, 8]
    assert made.said == "skipped 2 that with their answers do not fit a context of 64 tokens"
    with pytest.raises(PlanError, match="no entry fits a context of 12 tokens: skipped 5 that"):
        requests(load(path), 0, 3, VOCABULARY, repeat=1, max_model_len=12)


def test_what_does_not_fit_is_cut_when_asked(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "s"}, *({"role": "user", "content": "w " * n} for n in (30, 9))]
    path = file(
        tmp_path,
        {"prompt": "w " * 60, "max_tokens": 10},
        {"prompt": list(range(80)), "max_tokens": 100},
        {"messages": talk, "max_tokens": 10},
    )
    made = requests(load(path, too_long="cut"), 0, 3, VOCABULARY, repeat=1, max_model_len=100)
    text, ids, chat = made.measured
    assert len(two_a_word(text["prompt"])) + text["max_tokens"] + 1 <= 100
    assert len(text["prompt"].split()) >= 40
    assert (ids["prompt"], ids["max_tokens"]) == (list(range(49)), 50)
    assert [message["content"] for message in chat["messages"]] == ["s", "w " * 9]
    assert made.said == "cut 3 that with their answers do not fit a context of 100 tokens"


def test_a_trace_is_due_at_its_times_with_its_lengths(tmp_path: Path) -> None:
    path = file(tmp_path, *TRACE)
    made = requests(trace(path, speed=2.0), 2, 0, VOCABULARY, repeat=1)
    sent = list(made.measured)
    assert made.due_s == [0.125 * n for n in range(9)]
    assert [(len(body["prompt"]), body["max_tokens"]) for body in sent] == [(20 + n, 4 + n) for n in range(9)]
    assert {token for body in sent for token in body["prompt"]} <= set(VOCABULARY.ordinary_ids)
    assert len(made.warm) == 2
    assert all(body["prompt"] not in [other["prompt"] for other in sent] for body in made.warm)
    again = requests(trace(path, speed=2.0), 2, 0, VOCABULARY, repeat=1)
    assert list(again.measured) == sent
    assert list(requests(trace(path), 2, 0, VOCABULARY, repeat=2).measured) != sent


def test_what_does_not_fit_leaves_a_traces_other_times_alone(tmp_path: Path) -> None:
    long = [{**item, "input_length": 500} if n == 1 else item for n, item in enumerate(TRACE)]
    made = requests(trace(file(tmp_path, *long)), 0, 0, VOCABULARY, repeat=1, max_model_len=100)
    assert made.due_s == [0.25 * n for n in range(9) if n != 1]
    assert len(list(made.measured)) == 8


@pytest.mark.parametrize("vocabulary", [VOCABULARY, None])
def test_blocks_of_one_name_have_one_content(tmp_path: Path, vocabulary: Vocabulary | None) -> None:
    blocks = [[1, 2, 3], [1, 2, 4], [5, 6], [1, 2, 3]]
    lengths = [40, 44, 20, 40]
    path = file(
        tmp_path,
        *({"timestamp": 0, "input_length": n, "hash_ids": b} for n, b in zip(lengths, blocks, strict=True)),
    )
    made = requests(trace(path, requests=4), 0, 0, vocabulary, repeat=1)
    sent = [body["prompt"] if vocabulary else body["prompt"].split() for body in made.measured]
    assert [len(prompt) for prompt in sent] == lengths
    assert sent[0][:32] == sent[1][:32]  # two blocks of 16
    assert sent[0] == sent[3]
    assert sent[0][32:40] != sent[1][32:40]
    assert sent[2][:16] != sent[0][:16]


def test_the_check_fills_in_what_the_trace_says(tmp_path: Path) -> None:
    path = file(tmp_path, *TRACE)
    checked, said = check(trace(path), 0)
    assert (checked.requests, checked.rate_rps) == (9, 4.5)  # nine in the two seconds from the first to the last
    assert said == "prompts.jsonl: a trace (JSON lines), 9 requests read"
    assert check(checked, 9)[0] == checked  # a resumed run
    assert check(trace(path, speed=2.0, seconds=0.5), 0)[0].rate_rps == 8.0
    with pytest.raises(PlanError, match=r"rate_rps = 7, but this trace's arrivals come at 4.5 requests/s at speed = 1"):
        check(trace(path, rate_rps=7), 0)


def test_a_trace_too_long_for_the_memory_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path, *({"timestamp": n, "input_length": 2**30} for n in range(64)))
    with pytest.raises(PlanError, match="Take a part of it with requests = "):
        check(trace(path), 0)


@pytest.mark.parametrize(
    ("item", "endpoint", "words"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, "completions", "line 1: has messages"),
        ({"prompt": [1, 2]}, "chat", "line 1: has token ids"),
    ],
)
def test_what_an_endpoint_does_not_take_is_said_before_the_run(
    tmp_path: Path, item: Any, endpoint: Any, words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        check(load(file(tmp_path, item), endpoint=endpoint), 8)


def test_a_trace_for_a_chat_is_text(tmp_path: Path) -> None:
    made = requests(trace(file(tmp_path, *TRACE), endpoint="chat"), 0, 0, VOCABULARY, repeat=1)
    for number, body in enumerate(made.measured):
        assert body["endpoint"] == "chat"
        assert abs(len(two_a_word(body["prompt"])) - (20 + number)) <= 1


def test_the_summary_of_a_file(tmp_path: Path) -> None:
    path = Path(file(tmp_path, *({"prompt": "w " * n, "max_tokens": n} for n in range(1, 101)), {"prompt": ""}))
    found = summarise(PromptFile(path), VOCABULARY, context=264)
    assert (found["entries"], found["requests"]) == (101, 100)
    spread = {"n": 100, "sum": 10100, "min": 2, "p5": 10, "p50": 100, "p90": 180, "p95": 190, "p99": 198, "max": 200}
    assert found["prompt_tokens"] == spread
    assert (found["output_tokens"]["p50"], found["output_tokens_from"]) == (50, "the file")
    assert found["skipped"] == [{"reason": "an empty prompt", "count": 1, "first": "line 101"}]
    # 2n tokens, n to answer with, 64 for a template: 3n + 64 > 264 from n = 67 on
    assert (found["too_long"], found["too_long_of"]) == (34, 100)
    # In steps of 64 bytes (32 words), of n words an earlier prompt had n // 32 · 32, but for n = 32, 64, 96: 32 fewer
    shared = sum((n // 32) * 64 for n in range(1, 101)) - 3 * 64
    assert found["shared_prefix_share"] == pytest.approx(shared / (2 * 5050))
    assert summarise(PromptFile(path))["prompt_tokens"] is None


def test_the_summary_of_a_trace(tmp_path: Path) -> None:
    blocks = [{**item, "input_length": 1024, "hash_ids": [0, n]} for n, item in enumerate(TRACE)]
    found = summarise(PromptFile(Path(file(tmp_path, *blocks))))
    assert found["shared_prefix_share"] == pytest.approx(8 * 512 / (9 * 1024))
    assert found["arrivals"] == {"problem": None, "duration_s": 2.0, "mean_rps": 4.5, "busiest_minute_rps": None}
    backward = file(tmp_path, TRACE[3], TRACE[1])
    assert "sort the file by its times" in summarise(PromptFile(Path(backward)))["arrivals"]["problem"]
