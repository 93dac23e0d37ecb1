"""What held-out tokens say about an engine, by hand: ΔNLL and its error, KL with a tail, agreement, not applied."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.run import quality
from bench.run.outcome import exit_code

LN2 = math.log(2)


def logs(**probabilities: float) -> dict[str, float]:
    return {token: math.log(value) for token, value in probabilities.items()}


def rows(*tokens: tuple[int, int, int, float, dict[str, float]]) -> pa.Table:
    """(text, piece, token, probability of it, what else was told) for each row."""
    places: dict[int, int] = {}
    table = []
    for text, piece, token, probability, top in tokens:
        places[piece] = places.get(piece, 0) + 1
        table.append((text, piece, places[piece], token, math.log(probability), list(top), list(top.values())))
    columns = [list(column) for column in zip(*table, strict=True)]
    return pa.table(dict(zip(quality.SCHEMA.names, columns, strict=True)), schema=quality.SCHEMA)


def test_a_divergence_by_hand_with_all_tokens_told() -> None:
    # 1/2·ln(1/2 ÷ 1/4) + 1/4·ln(1/4 ÷ 1/4) + 1/4·ln(1/4 ÷ 1/2) = (1/2 − 1/4)·ln 2
    p, q = logs(a=0.5, b=0.25, c=0.25), logs(a=0.25, b=0.25, c=0.5)
    assert quality.divergence(p, q) == pytest.approx(LN2 / 4, abs=1e-12)


def test_a_tail_is_one_class() -> None:
    # Both told a; p told b, q told c. Everything but a is one class: 1/2·ln(1/2 ÷ 1/4) + 1/2·ln(1/2 ÷ 3/4).
    p, q = logs(a=0.5, b=0.25), logs(a=0.25, c=0.5)
    expected = 0.5 * LN2 + 0.5 * math.log(2 / 3)
    assert quality.divergence(p, q) == pytest.approx(expected, abs=1e-12)


def test_nothing_told_by_both_bounds_the_divergence_by_nothing() -> None:
    assert quality.divergence(logs(a=0.9), logs(b=0.9)) == 0.0
    assert quality.divergence({}, {}) == 0.0


def test_a_tail_that_the_engine_leaves_nothing_to_stays_finite() -> None:
    # p keeps 1/10 for the rest, q nothing: x·ln(x/y) is at least x − y = 0.1.
    p, q = logs(a=0.9), logs(a=1.0)
    assert quality.divergence(p, q) == pytest.approx(0.9 * math.log(0.9) + 0.1, abs=1e-12)


def test_the_same_distribution_has_no_divergence_to_the_last_digit() -> None:
    p = logs(a=0.3, b=0.2, c=1e-5)
    assert quality.divergence(p, dict(p)) == 0.0


@settings(max_examples=200, deadline=None)
@given(
    weights=st.lists(st.tuples(st.floats(1e-4, 1), st.floats(1e-4, 1)), min_size=3, max_size=40),
    told=st.integers(1, 40),
)
def test_what_is_told_of_the_likeliest_never_says_more_than_all(weights: list[tuple[float, float]], told: int) -> None:
    p, q = (np.array(side) / sum(side) for side in zip(*weights, strict=True))
    exact = float((p * np.log(p / q)).sum())

    def likeliest(of: Any, count: int) -> dict[str, float]:
        return {str(i): float(np.log(of[i])) for i in np.argsort(-of)[:count]}

    bound = quality.divergence(likeliest(p, told), likeliest(q, told))
    assert -1e-9 <= bound <= exact + 1e-9
    assert quality.divergence(likeliest(p, len(p)), likeliest(q, len(q))) == pytest.approx(exact, abs=1e-5)


def test_the_error_is_over_blocks_by_hand() -> None:
    # Mean 2. The blocks' sums of differences from it: (−1 − 1) = −2 and (1 + 1) = 2.
    # √(2/1 · (4 + 4)) / 4 = 1. Four values that have nothing to do with each other would say 0.577.
    mean, error = quality.clustered(np.array([1.0, 1.0, 3.0, 3.0]), np.array([7, 7, 9, 9], dtype=np.int32))
    assert (mean, error) == (2.0, 1.0)
    assert quality.clustered(np.array([1.0, 2.0]), np.array([1, 1], dtype=np.int32)) == (1.5, None)


def test_blocks_of_unequal_length_by_hand() -> None:
    # Mean (3·1 + 5)/4 = 2; sums of differences −3 and 3: √(2·18)/4 = 1.5.
    mean, error = quality.clustered(np.array([1.0, 1.0, 1.0, 5.0]), np.array([0, 0, 0, 1], dtype=np.int32))
    assert (mean, error) == (2.0, 1.5)


def test_the_error_of_tokens_that_hang_together_covers_the_truth() -> None:
    """Whole texts are luckier or unluckier together; an error over tokens would be far too small."""
    rng = np.random.default_rng(5)
    blocks = np.repeat(np.arange(40, dtype=np.int32), 50)
    covered = narrow = 0
    for _ in range(200):
        values = 0.1 + np.repeat(rng.normal(0, 0.2, 40), 50) + rng.normal(0, 0.5, 2000)
        mean, error = quality.clustered(values, blocks)
        assert error is not None
        covered += abs(mean - 0.1) < 2.02 * error
        narrow += abs(mean - 0.1) < 2.02 * values.std() / math.sqrt(len(values))
    assert covered >= 180  # 95 % of 200 are expected, 180 is 3 standard deviations below
    assert narrow < 150


BASE = rows(
    (0, 0, 5, 0.5, logs(**{"5": 0.5, "6": 0.25})),
    (0, 0, 6, 0.25, logs(**{"6": 0.25, "7": 0.5})),
    (0, 1, 7, 0.5, logs(**{"7": 0.5, "8": 0.5})),
    (0, 1, 8, 0.125, logs(**{"8": 0.125, "9": 0.5})),
)
WORSE = rows(
    (0, 0, 5, 0.25, logs(**{"5": 0.25, "6": 0.5})),
    (0, 0, 6, 0.25, logs(**{"6": 0.25, "7": 0.5})),
    (0, 1, 7, 0.25, logs(**{"7": 0.25, "8": 0.75})),
    (0, 1, 8, 0.125, logs(**{"8": 0.125, "9": 0.5})),
)


def test_one_engine_alone_by_hand() -> None:
    found = quality.alone(BASE)
    # −ln: 1, 2, 1 and 3 halvings
    assert found["nll"] == pytest.approx(7 / 4 * LN2, abs=1e-6)
    assert found["perplexity"] == pytest.approx(2**1.75, abs=1e-5)
    assert (found["tokens"], found["blocks"]) == (4, 2)
    # the pieces' sums of differences from the mean: −1/2 and 1/2 halvings
    assert found["nll_se"] == pytest.approx(math.sqrt(2 * 0.5) / 4 * LN2, abs=1e-6)


def test_two_engines_by_hand() -> None:
    found = quality.against(WORSE, BASE)
    assert found["delta_nll"] == pytest.approx(2 / 4 * LN2, abs=1e-6)
    assert found["delta_nll_se"] == pytest.approx(0.0, abs=1e-7)  # both pieces lose the same
    # Row 1: 1/2·ln 2 + 1/4·ln(1/2) + 1/4·ln(1) = ln2/4. Row 3: 1/2·ln 2 + 1/2·ln(2/3). Rows 2 and 4: 0.
    assert found["kl"] == pytest.approx((LN2 / 4 + LN2 / 2 + 0.5 * math.log(2 / 3)) / 4, abs=1e-6)
    # First tokens: 5 against 6; 7 and 7; of 7 and 8, equally likely, 7 against 8; 9 and 9.
    assert found["agreement"] == 0.5
    assert found["kl_told_share"] == pytest.approx((0.75 + 0.75 + 1.0 + 0.625) / 4, abs=1e-6)
    assert not found["identical"]


def test_of_equally_likely_tokens_the_lowest_id_is_first() -> None:
    assert quality.first(logs(**{"10": 0.4, "9": 0.4, "2": 0.2})) == "9"
    assert quality.first({}) is None


def test_ten_texts_are_the_blocks_and_fewer_are_not() -> None:
    def table(texts: int) -> pa.Table:
        return rows(*[(number % texts, number, 1, 0.5, logs(**{"1": 0.5})) for number in range(20)])

    assert quality.alone(table(10))["blocks"] == 10
    assert quality.alone(table(9))["blocks"] == 20


def document(**second: Any) -> dict[str, Any]:
    entry = {"outcome": "ok", "reason": None, "known_beforehand": False, "form": "prompt_logprobs", "repeat_kl": 0.0}
    entry |= {"tokens_sha256": quality.tokens_sha256(BASE), "scheme": "none", "kv_cache_dtype": "auto"}
    return {
        "cells": [{"id": "c", "outcome": "ok"}],
        "quality": {
            "baseline": "bf16",
            "baseline_run": None,
            "engines": [{"engine": "bf16", **entry}, {"engine": "int8", **entry, "scheme": "w8a8-int8", **second}],
        },
    }


def results(run: dict[str, Any], second: pa.Table | None) -> list[dict[str, Any]]:
    return quality.results(run, {"bf16": BASE, "int8": second}.get)


def test_a_quantization_that_changes_nothing_was_not_applied() -> None:
    run = document()
    base, same = results(run, BASE)
    assert (base["against"], base["applied"]) == (None, None)
    assert (same["against"]["kl"], same["against"]["delta_nll"], same["against"]["agreement"]) == (0.0, 0.0, 1.0)
    assert same["against"]["identical"]
    assert same["applied"] is False
    run["quality"]["engines"] = [base, same]
    assert exit_code(run) == (1, ["quantization not applied: int8"])


def test_what_asking_twice_changes_as_well_was_not_shown_to_be_applied() -> None:
    kl = quality.against(WORSE, BASE)["kl"]
    assert results(document(), WORSE)[1]["applied"] is True
    assert results(document(repeat_kl=kl * 0.99), WORSE)[1]["applied"] is True
    assert results(document(repeat_kl=kl * 1.01), WORSE)[1]["applied"] is False


def test_the_same_settings_are_not_asked_to_make_a_difference() -> None:
    assert results(document(scheme="none"), BASE)[1]["applied"] is None
    assert results(document(scheme="none", kv_cache_dtype="fp8"), BASE)[1]["applied"] is False


@pytest.mark.parametrize(
    ("second", "words"),
    [({"tokens_sha256": "0"}, "another tokenizer"), ({"form": "echo"}, "asked by echo, the baseline by prompt_logp")],
)
def test_engines_that_cannot_be_paired_get_no_difference(second: dict[str, Any], words: str) -> None:
    entry = results(document(**second), WORSE)[1]
    assert words in entry["unpaired"]
    assert entry["against"] is None
    assert entry["figures"]["tokens"] == 4


def test_without_a_baseline_an_engine_stands_alone() -> None:
    run = document()
    run["quality"]["engines"][0]["outcome"] = "oom"
    base, other = results(run, WORSE)
    assert base["figures"] is None
    assert (other["against"], other["unpaired"]) == (None, "the baseline has no quality")
    run["quality"]["engines"] = [base, other]
    assert exit_code(run) == (1, ["quality oom: bf16"])


def test_a_baseline_of_another_run_is_paired_with_every_engine() -> None:
    run = document()
    external = run["quality"]["engines"][0]
    run["quality"] |= {"baseline": None, "baseline_run": external, "engines": run["quality"]["engines"][1:]}
    (found,) = quality.results(run, {quality.BASELINE_RUN: BASE, "int8": WORSE}.get)
    assert found["against"]["agreement"] == 0.5
    assert found["applied"] is True


def test_no_quality_that_was_known_beforehand_is_no_failure() -> None:
    run = document()
    run["quality"]["engines"] = [{"engine": "a", "outcome": "unsupported", "known_beforehand": True, "applied": None}]
    assert exit_code(run) == (0, [])
    assert exit_code({"cells": [{"id": "c", "outcome": "ok"}]}) == (0, [])


def test_which_tokens_were_scored_is_one_fingerprint() -> None:
    other = rows(*[(0, 0, token, 0.5, logs(**{"1": 0.5})) for token in (5, 6, 7, 9)])
    prints = {quality.tokens_sha256(table) for table in (BASE, WORSE, other, BASE.slice(1))}
    assert len(prints) == 3
    assert quality.tokens_sha256(BASE) == quality.tokens_sha256(WORSE)
