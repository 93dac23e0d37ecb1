"""When a request to a server is worth sending again, and how long to wait before. Pure."""

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

RETRYABLE_STATUS = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Retries:
    """Exponential backoff with full jitter: before attempt k + 1 wait between 0 and base_s × 2^(k - 1), at most cap_s.

    Full jitter, because clients that were refused together would otherwise come back together. A Retry-After is
    waited for in full before that; one beyond `longest_retry_after_s` is not worth waiting for.
    """

    attempts: int = 5
    base_s: float = 0.5
    cap_s: float = 30.0
    longest_retry_after_s: float = 120.0

    def delay_s(self, attempt: int, draw: float, retry_after_s: float | None = None) -> float | None:
        """Seconds to wait after failed attempt number `attempt` (from 1); None: give up. `draw` is from [0, 1)."""
        if attempt >= self.attempts:
            return None
        backoff_s = draw * min(self.cap_s, self.base_s * 2.0 ** (attempt - 1))
        if retry_after_s is None:
            return backoff_s
        return None if retry_after_s > self.longest_retry_after_s else retry_after_s + backoff_s


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks to wait, given as a number or as a date; None without a usable one."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
