"""What a server says of a prompt's tokens is believed only when it can be true."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from logprob_server import START, echoed, prompt_logprobs, serving, vllm

from bench.client.dialect import Route
from bench.plans.tables import Quality, RunningServer
from bench.quality.asking import Unanswered, ask
from bench.quality.scoring import CannotScore, score
from bench.quality.texts import Texts
from bench.run import quality
from bench.target import Death

pytestmark = pytest.mark.slow

HALF, QUARTER = math.log(0.5), math.log(0.25)
ASKED = Quality(tokens=80, window_tokens=8, top=3)
TEXTS = Texts("made up", ("abcdefgh " * 80,))


def test_prompt_logprobs_are_read_token_by_token() -> None:
    with serving() as (target, asked):
        told = ask(target, target.address(), "prompt_logprobs", [97, 98, 99], 3)
    assert [one.logprob for one in told] == [HALF, HALF]
    assert [one.top for one in told] == [{"98": HALF, "0": QUARTER}, {"99": HALF, "0": QUARTER}]
    assert asked == [{"model": "m", "prompt": [97, 98, 99], "max_tokens": 1, "temperature": 0, "prompt_logprobs": 3}]


def test_echo_is_read_token_by_token_and_half_characters_are_left_out() -> None:
    with serving(lambda _, body: (200, echoed(body["prompt"]))) as (target, asked):
        told = ask(target, target.address(), "echo", [97, 98, 99], 3)
        half = ask(target, target.address(), "echo", [97, 0xFFFD], 3)
    assert [(one.logprob, one.top) for one in told] == [(HALF, {"b": HALF}), (HALF, {"c": HALF})]
    assert [(one.logprob, one.top) for one in half] == [(HALF, {})]
    assert (asked[0]["echo"], asked[0]["logprobs"]) == (True, 3)


def test_an_impossible_other_token_is_one_without_probability() -> None:
    told = {"7": -math.inf, "8": -9999.0}
    with serving(lambda _, body: (200, prompt_logprobs(body["prompt"], told))) as (target, _):
        (one,) = ask(target, target.address(), "prompt_logprobs", [97, 98], 3)
    assert one.top == {"98": HALF, "0": QUARTER}


def changed(**table: Any) -> dict[str, Any]:
    document = prompt_logprobs([97, 98, 99])
    document["choices"][0] |= table
    return document


def of(value: Any) -> dict[str, Any]:
    return changed(prompt_logprobs=[None, {"98": {"logprob": HALF}}, {"99": {"logprob": value}}])


@pytest.mark.parametrize(
    ("status", "document", "words"),
    [
        (400, {"error": {"message": "max allowed: 20"}}, "HTTP 400: .*max allowed: 20"),
        (200, b"<html>no</html>", "no choices"),
        (200, [], "no choices"),
        (200, {"choices": []}, "no choices"),
        (200, {"choices": ["x"]}, "no choices"),
        (200, b"[" * 100_000, "no choices"),
        (200, {"choices": [{"text": "x"}]}, "no `prompt_logprobs`"),
        (200, changed(prompt_logprobs=None), "no `prompt_logprobs`"),
        (200, changed(prompt_logprobs={}), "no `prompt_logprobs`"),
        (200, changed(prompt_logprobs=[None]), "of 1 tokens came for a prompt of 3: the server changes the prompt"),
        (200, changed(prompt_logprobs=[None, *[{"1": {"logprob": 0}}] * 3]), "of 4 tokens came for a prompt of 3"),
        (200, changed(prompt_logprobs=[None, None, None]), "of token 1 is no table"),
        (200, changed(prompt_logprobs=[None, {"98": -1.0}, {}]), "of token 1 is no table"),
        (200, changed(prompt_logprobs=[None, {"98": {"logprob": HALF}}, {}]), "token 2 does not have the token itself"),
        (200, of(math.nan), "token 2 is nan, which is none"),
        (200, of(math.inf), "token 2 is inf"),
        (200, of(0.3), "token 2 is 0.3"),
        (200, of(None), "token 2 is None"),
        (200, of("-1"), "token 2 is -1"),
        (200, of(True), "token 2 is True"),
        (200, of(-math.inf), "token 2 is impossible"),
        (200, of(-(10**400)), "token 2 is impossible"),
        (200, of(-9999.0), "token 2 is impossible"),
        (200, prompt_logprobs([97, 98, 99], {"7": HALF}), "add up to 1.25"),
    ],
)  # fmt: skip
def test_what_cannot_be_true_is_refused_by_name(status: int, document: Any, words: str) -> None:
    with (
        serving(lambda *_: (status, document)) as (target, _),
        pytest.raises(Unanswered, match=words),
    ):
        ask(target, target.address(), "prompt_logprobs", [97, 98, 99], 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokens": None}, "no `logprobs` of the prompt"),
        ({"top_logprobs": None}, "no `logprobs` of the prompt"),
        ({"token_logprobs": [HALF] * 4}, "does not begin with the prompt's first token"),
        ({"tokens": ["a", "b"]}, "of 2 tokens came for a prompt of 3"),
        ({"top_logprobs": [None] * 4}, "`top_logprobs` of token 1 is no table"),
        ({"token_logprobs": [None, None, HALF, HALF]}, "token 1 is None"),
    ],
)
def test_what_an_echo_cannot_say_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    document = echoed([97, 98, 99])
    document["choices"][0]["logprobs"] |= change
    with serving(lambda *_: (200, document)) as (target, _), pytest.raises(Unanswered, match=words):
        ask(target, target.address(), "echo", [97, 98, 99], 3)


def test_a_refusal_does_not_repeat_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "very-secret")
    with serving(lambda *_: (401, {"error": "bad key very-secret"})) as (target, _):
        with_key = replace(target, api_key_env="KEY")
        with pytest.raises(Unanswered, match=r"bad key \*\*\*"):
            ask(with_key, with_key.address(), "prompt_logprobs", [97, 98], 3)


def test_a_pass_writes_a_row_for_each_scored_token(tmp_path: Path) -> None:
    with serving() as (target, asked):
        said = score(target, ASKED, TEXTS, tmp_path / "quality" / "a.parquet", timeout_s=60)
    rows = pq.read_table(tmp_path / "quality" / "a.parquet")
    assert rows.schema.names == quality.SCHEMA.names
    assert (said["form"], said["pieces"], said["repeat_kl"]) == ("prompt_logprobs", 10, 0.0)
    assert rows.num_rows == 80
    assert quality.alone(rows)["nll"] == pytest.approx(-HALF)
    assert said["tokens_sha256"] == quality.tokens_sha256(rows)
    assert len(asked) == 12  # one to learn how to ask, the pieces, and the first piece again
    assert {body["prompt"][0] for body in asked} == {START}  # each piece begins as a text does
    assert {len(body["prompt"]) for body in asked} == {9}
    assert asked[1] == asked[-1]


def test_without_a_start_token_the_first_token_is_context(tmp_path: Path) -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return vllm(path, body | {"add_special_tokens": False})

    with serving(answer) as (target, asked):
        score(target, ASKED, TEXTS, tmp_path / "a.parquet", timeout_s=60)
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 80
    assert {len(body["prompt"]) for body in asked} == {9}
    assert asked[1]["prompt"][0] == ord("a")


def test_a_server_that_varies_says_by_how_much(tmp_path: Path) -> None:
    answers = iter(range(100))

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/tokenize":
            return vllm(path, body)
        return 200, prompt_logprobs(body["prompt"], {"0": math.log(0.25 if next(answers) < 11 else 0.125)})

    with serving(answer) as (target, _):
        said = score(target, ASKED, TEXTS, tmp_path / "a.parquet", timeout_s=60)
    # 1/2·ln(1/2 ÷ 1/2) + 1/4·ln(1/4 ÷ 1/8) + 1/4·ln(1/4 ÷ 3/8)
    assert said["repeat_kl"] == pytest.approx(0.25 * math.log(2) + 0.25 * math.log(2 / 3))


def test_a_server_that_only_echoes_is_asked_for_that(tmp_path: Path) -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/tokenize":
            return vllm(path, body)
        return 200, echoed(body["prompt"]) if body.get("echo") else {"choices": [{"text": "x"}]}

    with serving(answer) as (target, _):
        said = score(target, ASKED, TEXTS, tmp_path / "a.parquet", timeout_s=60)
    assert said["form"] == "echo"
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 80


def test_a_server_that_does_neither_has_no_quality_in_its_own_words(tmp_path: Path) -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return vllm(path, body) if path == "/tokenize" else (400, {"message": "logprobs: at most 0"})

    with serving(answer) as (target, _), pytest.raises(CannotScore, match=r"at most 0.*--max-logprobs 3") as caught:
        score(target, ASKED, TEXTS, tmp_path / "a.parquet", timeout_s=60)
    assert caught.value.outcome == "unsupported"
    assert not (tmp_path / "a.parquet").exists()


def test_an_answer_that_breaks_off_in_the_middle_is_named_by_its_piece(tmp_path: Path) -> None:
    answers = iter(range(100))

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/completions" and next(answers) == 4:
            return 500, {"error": "out of luck"}
        return vllm(path, body)

    with serving(answer) as (target, _), pytest.raises(CannotScore, match=r"piece 4: HTTP 500.*out of luck") as caught:
        score(target, ASKED, TEXTS, tmp_path / "a.parquet", timeout_s=60)
    assert caught.value.outcome == "failed"


def test_a_server_that_died_is_said_to_have_died(tmp_path: Path) -> None:
    with serving() as (target, _):
        pass  # its port is closed now
    dead = replace(target, failure=lambda: Death("unsupported", "The server died while it served."))
    with pytest.raises(CannotScore, match=r"^The server died while it served") as caught:
        score(dead, ASKED, TEXTS, tmp_path / "a.parquet", timeout_s=60)
    assert caught.value.outcome == "unsupported"


@pytest.mark.parametrize(
    ("route", "tokenize"), [(None, "/tokenize"), (Route("/x", token_ids=False), "/tokenize"), (Route("/x"), None)]
)
def test_without_token_ids_there_is_no_quality(route: Route | None, tokenize: str | None, tmp_path: Path) -> None:
    with serving() as (target, asked):
        other = replace(target, dialect=replace(target.dialect, completions=route, tokenize=tokenize))
        with pytest.raises(CannotScore, match="token ids"):
            score(other, ASKED, TEXTS, tmp_path / "a.parquet", timeout_s=60)
    assert asked == []


def test_pieces_that_do_not_fit_and_time_that_runs_out_are_said(tmp_path: Path) -> None:
    with serving() as (target, asked):
        with pytest.raises(CannotScore, match="pieces of 10 tokens do not fit this engine's max_model_len = 9"):
            score(replace(target, max_model_len=9), ASKED, TEXTS, tmp_path / "a.parquet", timeout_s=60)
        with pytest.raises(CannotScore, match="cell_timeout_s = 0 s") as caught:
            score(target, ASKED, TEXTS, tmp_path / "a.parquet", timeout_s=0)
    assert caught.value.outcome == "timeout"
    assert len(asked) == 1


def test_what_a_target_needs_goes_with_every_request(tmp_path: Path) -> None:
    with serving() as (target, asked):
        other = replace(target, settings=RunningServer(extra_body={"add_special_tokens": False}))
        score(other, ASKED, TEXTS, tmp_path / "a.parquet", timeout_s=60)
    assert all(body["add_special_tokens"] is False for body in asked)
