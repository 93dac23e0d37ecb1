"""Workloads are the same for the same seed, as long as asked, and different where they must be."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plans.loads import Lengths, Load
from bench.plans.workload import Vocabulary, draw, prompts
from checkpoints.prepare import prepare


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.load(Path(prepare("demo-100m").path))


def load(**values: Any) -> Load:
    return Load.model_validate({"name": "x", "concurrency": 1, "requests": 8, **values})


def test_the_same_seed_gives_the_same_requests(vocabulary: Vocabulary) -> None:
    mixed = load(scenario="mixed")
    once = list(prompts(mixed, 20, vocabulary, repeat=1))
    assert once == list(prompts(mixed, 20, vocabulary, repeat=1))
    assert once != list(prompts(mixed, 20, vocabulary, repeat=2))
    assert once != list(prompts(load(scenario="mixed", seed=1), 20, vocabulary, repeat=1))
    assert {body["scenario"] for body in once} == {"chat", "completion", "retrieval"}


def test_completions_have_exactly_the_tokens_asked_for_and_no_special_ones(vocabulary: Vocabulary) -> None:
    assert vocabulary.tokenizer is not None
    special = {vocabulary.tokenizer.token_to_id(token) for token in ("<s>", "</s>")}
    assert not special & set(vocabulary.ordinary_ids)
    for body in prompts(load(prompt_tokens=50, output_tokens=7), 8, vocabulary, repeat=1):
        assert len(body["prompt"]) == 50
        assert set(body["prompt"]) <= set(vocabulary.ordinary_ids)
        assert (body["max_tokens"], body["endpoint"]) == (7, "completions")


def test_the_shared_prefix_is_shared_and_the_rest_is_not(vocabulary: Vocabulary) -> None:
    bodies = list(prompts(load(prompt_tokens=40, shared_prefix_share=0.5), 4, vocabulary, repeat=1))
    assert len({tuple(body["prompt"][:20]) for body in bodies}) == 1
    assert len({tuple(body["prompt"][20:]) for body in bodies}) == 4


def test_a_chats_text_has_about_the_tokens_asked_for(vocabulary: Vocabulary) -> None:
    chat = load(scenario="chat", prompt_tokens=100, shared_prefix_share=0.0)
    assert vocabulary.tokenizer is not None
    for body in prompts(chat, 8, vocabulary, repeat=1):
        (message,) = body["messages"]
        count = len(vocabulary.tokenizer.encode(message["content"], add_special_tokens=False).ids)
        assert 95 <= count <= 100


def test_a_servers_own_tokenizer_gives_exact_ids_and_fitting_texts() -> None:
    known: dict[str, int] = {}

    def tokenize(text: str) -> list[int]:  # two tokens a word
        return [known.setdefault(f"{word}{part}", len(known)) for word in text.split() for part in "ab"]

    remote = Vocabulary.sampled(tokenize)
    assert remote.tokens_per_word == 2.0
    (body,) = prompts(load(prompt_tokens=12), 1, remote, repeat=1)
    assert len(body["prompt"]) == 12
    assert set(body["prompt"]) <= set(known.values())
    (chat,) = prompts(load(scenario="chat", prompt_tokens=12, shared_prefix_share=0.0), 1, remote, repeat=1)
    assert len(chat["messages"][0]["content"].split()) == 6


def test_without_a_tokenizer_words_stand_for_tokens() -> None:
    (body,) = prompts(load(prompt_tokens=12), 1, None, repeat=1)
    assert len(body["prompt"].split()) == 12


def test_lengths_are_cut_to_the_context(vocabulary: Vocabulary) -> None:
    for body in prompts(load(scenario="retrieval"), 20, vocabulary, repeat=1, max_model_len=256):
        assert len(body["prompt"]) + body["max_tokens"] <= 256


@given(st.integers(1, 500), st.integers(0, 500), st.floats(0.1, 2.0), st.randoms())
def test_drawn_lengths_stay_in_their_bounds(low: int, spread: int, sigma: float, rng: Any) -> None:
    for lengths in (
        Lengths(kind="uniform", low=low, high=low + spread),
        Lengths(kind="lognormal", mean=low + 1, sigma=sigma, low=low, high=low + spread),
    ):
        assert low <= draw(lengths, rng) <= low + spread


def test_a_lognormals_mean_is_the_mean_asked_for() -> None:
    import random

    rng = random.Random(0)
    lengths = Lengths(kind="lognormal", mean=200, sigma=0.5)
    drawn = [draw(lengths, rng) for _ in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(200, rel=0.02)
