from datetime import UTC, datetime

import pytest

from serve.client import retry
from serve.client.messages import chunks
from serve.client.retry import Retries


def test_full_jitter_between_nothing_and_a_doubling_bound():
    retries = Retries(attempts=5, base_s=0.5, cap_s=1.5)
    assert [retries.delay_s(attempt, 0.0) for attempt in (1, 2, 3, 4)] == [0, 0, 0, 0]
    assert [retries.delay_s(attempt, 0.5) for attempt in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 0.75]
    assert retries.delay_s(5, 0.5) is None


def test_retry_after_is_waited_for_in_full_unless_too_long():
    retries = Retries(base_s=1.0, longest_retry_after_s=60)
    assert retries.delay_s(1, 0.5, 7.0) == 7.5
    assert retries.delay_s(1, 0.5, 61.0) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("Sun, 22 Nov 2026 10:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 09:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("", None),
    ],
)
def test_retry_after_as_number_and_as_date(header, seconds):
    now = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
    assert retry.retry_after_s({"retry-after": header}, now) == seconds


def test_chunks_keep_every_bound():
    bounds = {"max_prompts": 3, "max_tokens": 100, "max_body_bytes": 1000}
    assert list(chunks([[1] * 10] * 7, **bounds)) == [(0, 3), (3, 6), (6, 7)]
    assert list(chunks([[1] * 60, [1] * 30, [1] * 20], **bounds)) == [(0, 2), (2, 3)]
    assert list(chunks([[1] * 500, [1]], **bounds)) == [(0, 1), (1, 2)]  # one that is too large alone goes alone
    assert list(chunks(["x" * 200] * 3, **bounds)) == [(0, 1), (1, 2), (2, 3)]  # 68 estimated tokens each
    assert list(chunks(["x" * 60] * 3, **{**bounds, "max_body_bytes": 130})) == [(0, 2), (2, 3)]
