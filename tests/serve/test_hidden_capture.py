"""Which rows of which step belong to which request, with hand-made steps: row r of tap t holds 100 · t + r."""

import torch
from torch import Tensor

from serve.hidden_states.capture import HOLE, NO_TAP, Ledger, collect, taps_of
from serve.hidden_states.protocol import FINAL_NORM, KEY


def wish(taps: list[int], pooling: str = "last") -> dict[str, object]:
    return {KEY: {"taps": taps, "pooling": pooling}}


def ledger_of(**requests: tuple[list[int], str, int]) -> Ledger:
    ledger = Ledger()
    for name, (taps, pooling, tokens) in requests.items():
        ledger.add(name, wish(taps, pooling), tokens)
    return ledger


def sources(taps: list[int], rows: int, first: int = 0) -> dict[int, Tensor]:
    """Each tap's rows of one step; row r stands for the value `first + r`."""
    return {tap: (100.0 * tap + first + torch.arange(rows, dtype=torch.float32))[:, None] for tap in taps}


def step(ledger: Ledger, starts: dict[str, int], counts: dict[str, int], values: dict[int, Tensor]) -> dict[str, list]:
    """One step in which the requests' tokens lie one after the other in the order of `counts`."""
    first_rows, row = {}, 0
    for name, count in counts.items():
        first_rows[name] = row
        row += count
    done = collect(ledger.plan(starts, counts), first_rows, values)
    return {name: tensor.tolist() for name, tensor in done.items()}


def test_only_requests_that_ask_in_the_known_form_are_noted():
    ledger = Ledger()
    ledger.add("plain", None, 3)
    ledger.add("other", {"something": 1}, 3)
    for number, bad in enumerate([1, {}, {"taps": [], "pooling": "last"}, {"taps": ["a"], "pooling": "last"}]):
        ledger.add(f"bad{number}", {KEY: bad}, 3)
    ledger.add("max", wish([1], "max"), 3)
    ledger.add("unhashable", {KEY: {"taps": [1], "pooling": []}}, 3)
    ledger.add("good", wish([1]), 3)
    assert list(ledger.requests) == ["good"]
    ledger.forget(["good", "unknown"])
    assert not ledger.requests


def test_the_last_token_is_taken_by_request_not_by_place_in_the_batch():
    ledger = ledger_of(a=([1, 2], "last", 3), b=([2], "last", 2))
    # A decoding neighbour lies between them.
    done = step(ledger, {"a": 0, "x": 50, "b": 0}, {"b": 2, "x": 1, "a": 3}, sources([1, 2], 6))
    assert done == {"a": [[105.0], [205.0]], "b": [[201.0]]}


def test_a_prompt_in_chunks_answers_once_and_last_needs_its_last_chunk_only():
    ledger = ledger_of(a=([1], "last", 5))
    assert ledger.plan({"a": 0}, {"a": 3}) == {}
    spans = ledger.plan({"a": 3}, {"a": 2})
    assert taps_of(spans) == (1,)
    assert {name: tensor.tolist() for name, tensor in collect(spans, {"a": 4}, sources([1], 6)).items()} == {
        "a": [[105.0]]
    }
    # The token generated after the prompt is not the prompt's.
    assert ledger.plan({"a": 5}, {"a": 1}) == {}


def test_a_prefix_from_the_cache_changes_nothing_for_the_last_token():
    ledger = ledger_of(a=([1], "last", 5))
    assert step(ledger, {"a": 4}, {"a": 1}, sources([1], 1)) == {"a": [[100.0]]}


def test_mean_and_all_gather_over_chunks():
    ledger = ledger_of(m=([1], "mean", 4), a=([1, 2], "all", 4))
    assert step(ledger, {"m": 0, "a": 0}, {"m": 3, "a": 1}, sources([1, 2], 4)) == {}
    # m's last row is row 0; a's positions 1 to 3 are rows 1 to 3.
    done = step(ledger, {"m": 3, "a": 1}, {"m": 1, "a": 3}, sources([1, 2], 4))
    assert done["m"] == [[(100 + 101 + 102 + 100) / 4]]
    assert done["a"] == [[[103.0], [101.0], [102.0], [103.0]], [[203.0], [201.0], [202.0], [203.0]]]


def test_rows_computed_again_after_a_preemption_count_once():
    ledger = ledger_of(m=([1], "mean", 4), a=([1], "all", 4))
    step(ledger, {"m": 0, "a": 0}, {"m": 2, "a": 2}, sources([1], 4))
    # Both start again, and one chunk falls short of what had been seen.
    assert step(ledger, {"m": 0, "a": 0}, {"m": 1, "a": 1}, sources([1], 2, first=50)) == {}
    done = step(ledger, {"m": 1, "a": 1}, {"m": 3, "a": 3}, sources([1], 6, first=10))
    # m had 100 and 101; its positions 2 and 3 are rows 1 and 2 of the last step. a's are rows 4 and 5.
    assert done["m"] == [[(100 + 101 + 111 + 112) / 4]]
    assert done["a"] == [[[102.0], [103.0], [114.0], [115.0]]]


def test_a_hole_is_a_failure_and_stays_one():
    ledger = ledger_of(a=([1], "mean", 6))
    step(ledger, {"a": 0}, {"a": 1}, sources([1], 1))
    assert step(ledger, {"a": 3}, {"a": 1}, sources([1], 1)) == {}
    assert step(ledger, {"a": 4}, {"a": 2}, sources([1], 2)) == {"a": [HOLE]}


def test_a_tap_that_the_model_does_not_deliver_is_a_failure():
    ledger = ledger_of(a=([1, 7], "last", 2), b=([1], "last", 1))
    assert step(ledger, {"a": 0, "b": 0}, {"a": 2, "b": 1}, sources([1], 3)) == {"a": [NO_TAP], "b": [[102.0]]}


def test_the_final_norm_is_no_tap_to_select():
    ledger = ledger_of(a=([3, FINAL_NORM, 1], "last", 1))
    spans = ledger.plan({"a": 0}, {"a": 1})
    assert taps_of(spans) == (1, 3)
    done = collect(spans, {"a": 0}, sources([1, 3, FINAL_NORM], 1))
    assert done["a"].tolist() == [[300.0], [-100.0], [100.0]]


def test_the_mean_of_sixteen_bit_rows_is_summed_in_thirty_two():
    ledger = ledger_of(a=([1], "mean", 300))
    rows = torch.full((300, 1), 1.0, dtype=torch.bfloat16)
    assert step(ledger, {"a": 0}, {"a": 300}, {1: rows}) == {"a": [[1.0]]}
