import numpy as np
import pytest
from made_states import normal

from alignment import quality

TRUTH = np.array([[2.0, 1.0], [0.0, 1.0], [1.0, 2.0], [1.0, 0.0]])
MEAN = np.array([1.0, 1.0])


def test_four_prompts_by_hand():
    # Centred truths point right, left, up, down; the guesses right (length 2), up, up, and nowhere.
    guesses = MEAN + np.array([[2.0, 0], [0, 1], [0, 1], [0, 0]])
    found = quality.scores(guesses, TRUTH, MEAN)
    assert found.cosine.tolist() == [1, 0, 1, 0]
    assert found.top1.tolist() == [1, 0, 1, 0.25]  # nowhere is equally far from all four
    assert found.error.tolist() == [1, 2, 0, 1]
    assert found.spread.tolist() == [1, 1, 1, 1]
    summary = quality.summarise(found)
    assert summary["prompts"] == 4
    assert summary["cosine"]["value"] == 0.5 and summary["top1"]["value"] == 0.5625
    assert summary["explained_variance"]["value"] == 0.0  # 1 - 4 / 4


def test_the_mean_vector_scores_nothing_once_centred():
    found = quality.summarise(quality.scores(np.tile(MEAN, (4, 1)), TRUTH, MEAN))
    assert found["cosine"] == {"value": 0, "low": 0, "high": 0}
    assert found["top1"]["value"] == 0.25 and found["explained_variance"]["value"] == 0
    assert found["cosine_uncentred"]["value"] > 0.7


def test_perfect_prediction_and_two_prompts_with_one_state():
    truth = np.array([[1.0, 0], [1.0, 0], [0, 1]])
    found = quality.scores(truth, truth, np.zeros(2))
    assert found.top1.tolist() == [0.5, 0.5, 1]
    assert quality.summarise(found)["explained_variance"]["value"] == 1


def test_intervals_are_seeded_and_cover_the_mean():
    truth = normal(400, 8)
    of = quality.scores(truth + normal(400, 8, seed=2), truth, np.zeros(8))
    first, second = quality.summarise(of, seed=3), quality.summarise(of, seed=3)
    assert first == second != quality.summarise(of, seed=4)
    cosine = first["cosine"]
    assert cosine["low"] < cosine["value"] < cosine["high"]
    # Half a 95 % interval is 1.96 standard errors.
    error = of.cosine.std() / 20
    assert cosine["high"] - cosine["low"] == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_retrieval_in_blocks_is_retrieval(monkeypatch):
    truth = normal(50, 4)
    whole = quality.scores(truth + normal(50, 4, seed=2), truth, np.zeros(4)).top1
    monkeypatch.setattr(quality, "_BLOCK_ROWS", 7)
    assert np.array_equal(quality.scores(truth + normal(50, 4, seed=2), truth, np.zeros(4)).top1, whole)
