"""The money of the door to clouds over days: what is reserved, spent, forgotten by nobody, and when it opens again."""

import random
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.cloud.answers import closed
from gateway.cloud.ledger import FILE, NANO, Ledger, Limits, next_opening, spent, totals
from gateway.cloud.usage import Used


class Clock:
    def __init__(self, text: str) -> None:
        self.now = datetime.fromisoformat(text)

    def __call__(self) -> datetime:
        return self.now


def test_midnight_is_utcs(tmp_path: Path) -> None:
    clock = Clock("2026-11-30T23:59:59+00:00")
    ledger = Ledger(tmp_path / FILE, clock)
    ledger.limits = {"c": Limits(day=100, month=250)}
    first = ledger.reserve("c", "big", 60)
    assert first is not None
    second = ledger.reserve("c", "big", 60)  # 60 of 100 are reserved, so there is room
    assert second is not None
    assert ledger.reserve("c", "big", 1) is None
    clock.now = datetime.fromisoformat("2026-12-01T01:00:00+02:00")  # 23:00 of the same day in UTC
    assert ledger.standing("c").closed_by == "day"
    clock.now = datetime.fromisoformat("2026-12-01T00:00:01+00:00")
    ledger.settle(first, "answered", Used(6), 70)
    ledger.settle(second, "answered", Used(6), 70)
    assert (ledger.standing("c").day, ledger.standing("c").month) == (0, 0)  # both belong to November
    third = ledger.reserve("c", "big", 5)
    assert third is not None
    ledger.settle(third, "answered", Used(1), 90)
    clock.now = datetime.fromisoformat("2026-12-02T12:00:00+00:00")
    assert (ledger.standing("c").day, ledger.standing("c").month) == (0, 90)
    number = ledger.reserve("c", "big", 200)
    assert number is not None
    assert ledger.standing("c").closed_by == "month"
    ledger.settle(number, "answered", Used(1), 10)
    assert ledger.standing("c").closed_by is None
    clock.now = datetime.fromisoformat("2026-11-30T12:00:00+00:00")  # a clock that goes back finds what it had spent
    assert ledger.standing("c").day == 140
    assert next_opening(clock.now, "day") == datetime(2026, 12, 1, tzinfo=UTC)
    assert next_opening(datetime(2026, 12, 31, 12, tzinfo=UTC), "month") == datetime(2027, 1, 1, tzinfo=UTC)


def test_nothing_is_forgotten(tmp_path: Path) -> None:
    clock = Clock("2026-11-30T12:00:00+00:00")
    path = tmp_path / FILE
    ledger = Ledger(path, clock)
    ledger.limits = {"c": Limits(day=100)}
    number = ledger.reserve("c", "big", 30)
    assert number is not None
    ledger.settle(number, "answered", Used(7, 3, 2), 25)
    assert ledger.reserve("c", "big", 40) is not None
    assert spent(path, clock.now) == {"c": (25, 25, 40)}
    # Killed here: nobody knows what the second cost, so its reservation counts.
    again = Ledger(path, clock)
    again.limits = ledger.limits
    assert again.left_open == 1
    assert (again.standing("c").day, again.standing("c").reserved) == (65, 0)
    rows = {one.outcome: one for one in totals(path)}
    assert (rows["answered"].input_tokens, rows["answered"].output_tokens, rows["answered"].cached_tokens) == (7, 3, 2)
    assert (rows["unknown"].requests, rows["unknown"].nano_usd) == (1, 40)
    assert Ledger(path, clock).left_open == 0
    assert path.stat().st_mode & 0o077 == 0


def test_a_limit_is_exceeded_by_less_than_one_requests_reservation(tmp_path: Path) -> None:
    """Whatever comes and goes at once, as long as no request costs more than it reserved."""
    chance = random.Random(14)
    ledger = Ledger(tmp_path / FILE, Clock("2026-11-30T12:00:00+00:00"))
    ledger.limits = {"c": Limits(day=1000)}
    in_work: list[tuple[int, int]] = []
    refused = 0
    while refused < 20 or in_work:
        most = chance.randint(1, 90)
        number = ledger.reserve("c", "big", most) if refused < 20 else None
        refused += number is None
        if number is not None:
            in_work.append((number, most))
        if in_work and (number is None or chance.random() < 0.5):
            done, had = in_work.pop(chance.randrange(len(in_work)))
            ledger.settle(done, "answered", Used(), chance.choice([had, had // 2]))
    assert 1000 - 90 < ledger.standing("c").day < 1000 + 90
    # By hand: 99 of 100 are spent, one that may cost 50 is let in, and the next one is not.
    ledger.limits = {"d": Limits(day=100)}
    first = ledger.reserve("d", "big", 99)
    assert first is not None
    ledger.settle(first, "answered", Used(), 99)
    second = ledger.reserve("d", "big", 50)
    assert second is not None
    assert ledger.reserve("d", "big", 1) is None
    ledger.settle(second, "answered", Used(), 50)
    assert ledger.standing("d").day == 149
    # More than SQLite can count is as much as anything that is above every limit.
    ledger.limits = {"e": Limits(day=100)}
    assert ledger.reserve("e", "big", 10**30) is not None
    assert ledger.reserve("e", "big", 1) is None


def test_what_cannot_be_written_stays_reserved_until_it_can(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / FILE, Clock("2026-11-30T12:00:00+00:00"))
    ledger.limits = {"c": Limits(day=100)}
    number = ledger.reserve("c", "big", 30)
    assert number is not None
    ledger._file.execute("PRAGMA query_only = ON")
    with pytest.raises(sqlite3.Error):
        ledger.settle(number, "answered", Used(1), 95)
    assert ledger.standing("c").reserved == 30
    with pytest.raises(sqlite3.Error):
        ledger.settle_late()
    ledger._file.execute("PRAGMA query_only = OFF")
    ledger.settle_late()
    assert (ledger.standing("c").day, ledger.standing("c").reserved) == (95, 0)


def test_a_closed_cloud_says_when_it_opens(tmp_path: Path) -> None:
    clock = Clock("2026-11-30T12:00:00+00:00")
    ledger = Ledger(tmp_path / FILE, clock)
    ledger.limits = {"c": Limits(day=NANO)}
    number = ledger.reserve("c", "big", 2 * NANO)
    assert number is not None
    said = closed("c", ledger.standing("c"), clock.now)["error"]
    assert said["code"] == "budget_reserved"
    ledger.settle(number, "answered", Used(1), 2 * NANO)
    said = closed("c", ledger.standing("c"), clock.now)["error"]
    assert said == {
        "message": "The limit of the cloud c, 1 USD a day (UTC), is spent; it opens again at 2026-12-01T00:00:00Z.",
        "type": "insufficient_quota", "param": None, "code": "budget_spent",
    }  # fmt: skip
    assert ledger.standing("c").used_share == 2.0
