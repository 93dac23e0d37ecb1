"""What has been spent, kept in SQLite: reserved before a provider is asked, settled before the answer's last byte.

A reservation that no process has settled (it was killed) counts as spent: nobody knows what it cost. Days and months
are UTC's, and a request belongs to the day on which it was let in.
"""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.cloud.usage import Used

FILE = "spent.sqlite"
MOST_NANO = 10**17  # reserved for one request: above every limit, and far from the end of SQLite's numbers
NANO = 10**9  # dollars are counted as whole thousand-millionths: sums of them have no rounding
_TABLES = """
CREATE TABLE IF NOT EXISTS open (
  id INTEGER PRIMARY KEY, day TEXT NOT NULL, cloud TEXT NOT NULL, model TEXT NOT NULL, nano_usd INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS spent (
  day TEXT NOT NULL, cloud TEXT NOT NULL, model TEXT NOT NULL, outcome TEXT NOT NULL,
  requests INTEGER NOT NULL, estimated INTEGER NOT NULL, input_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL, nano_usd INTEGER NOT NULL, PRIMARY KEY (day, cloud, model, outcome));
"""
_ADD = """
INSERT INTO spent VALUES (?, ?, ?, ?, 1, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET requests = requests + 1,
  estimated = estimated + excluded.estimated, input_tokens = input_tokens + excluded.input_tokens,
  cached_tokens = cached_tokens + excluded.cached_tokens, output_tokens = output_tokens + excluded.output_tokens,
  nano_usd = nano_usd + excluded.nano_usd
"""


@dataclass(frozen=True)
class Limits:
    """Nano-dollars a day and a month; None: no limit of that kind."""

    day: int | None = None
    month: int | None = None


@dataclass(frozen=True)
class Standing:
    """A cloud's money now, in nano-dollars. `reserved` is in none of the others."""

    day: int
    month: int
    reserved: int
    limits: Limits

    @property
    def closed_by(self) -> str | None:
        """`day` or `month` when that limit leaves no room, with what is reserved; else None."""
        if self.limits.month is not None and self.month + self.reserved >= self.limits.month:
            return "month"
        if self.limits.day is not None and self.day + self.reserved >= self.limits.day:
            return "day"
        return None

    @property
    def is_spent(self) -> bool:
        """Whether a limit is reached by what is spent, without reservations."""
        pairs = ((self.day, self.limits.day), (self.month, self.limits.month))
        return any(limit is not None and spent >= limit for spent, limit in pairs)

    @property
    def used_share(self) -> float:
        """The largest share of a limit that is spent."""
        pairs = ((self.day, self.limits.day), (self.month, self.limits.month))
        return max(spent / limit for spent, limit in pairs if limit)


def utc_now() -> datetime:
    return datetime.now(tz=UTC)


class Ledger:
    """One process' ledger; used by one thread. `limits`: cloud → its limits."""

    def __init__(self, path: Path, clock: Callable[[], datetime] = utc_now) -> None:
        """Opens or makes the file; what a former process left open is spent. Raises sqlite3.Error."""
        self.clock = clock
        self.limits: Mapping[str, Limits] = {}
        path.touch(mode=0o600)
        self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = FULL")  # a limit outlives a machine that loses its power, too
        self._file.executescript(_TABLES)
        self.left_open = self._close_open()
        self._days: dict[str, dict[str, int]] = {}
        for cloud, day, nano_usd in self._file.execute("SELECT cloud, day, SUM(nano_usd) FROM spent GROUP BY 1, 2"):
            self._days.setdefault(cloud, {})[day] = nano_usd
        self._reserved: dict[int, tuple[str, str, str, int]] = {}
        self._late: list[tuple[int, str, Used, int]] = []

    def _close_open(self) -> int:
        rows = self._file.execute("SELECT day, cloud, model, nano_usd FROM open").fetchall()
        self._file.execute("BEGIN IMMEDIATE")
        for day, cloud, model, nano_usd in rows:
            self._file.execute(_ADD, (day, cloud, model, "unknown", 1, 0, 0, 0, nano_usd))
        self._file.execute("DELETE FROM open")
        self._file.execute("COMMIT")
        return len(rows)

    def standing(self, cloud: str) -> Standing:
        """How a cloud's money stands at this moment."""
        today = self.clock().astimezone(UTC).strftime("%Y-%m-%d")
        days = self._days.get(cloud, {})
        month = sum(nano_usd for day, nano_usd in days.items() if day[:7] == today[:7])
        reserved = sum(one[3] for one in self._reserved.values() if one[1] == cloud)
        return Standing(days.get(today, 0), month, reserved, self.limits.get(cloud, Limits()))

    def reserve(self, cloud: str, model: str, nano_usd: int) -> int | None:
        """Let a request in that costs `nano_usd` at most, and its number; None when the limits leave no room.

        There is room until what is spent and reserved reaches a limit, so the last request that is let in, and nothing
        else, can exceed it, by less than its own `nano_usd`. Raises sqlite3.Error.
        """
        if self.standing(cloud).closed_by is not None:
            return None
        nano_usd = min(nano_usd, MOST_NANO)
        day = self.clock().astimezone(UTC).strftime("%Y-%m-%d")
        done = self._file.execute(
            "INSERT INTO open (day, cloud, model, nano_usd) VALUES (?, ?, ?, ?)", (day, cloud, model, nano_usd)
        )
        number = int(done.lastrowid or 0)
        self._reserved[number] = (day, cloud, model, nano_usd)
        return number

    def settle(self, number: int, outcome: str, used: Used, nano_usd: int) -> None:
        """Write down what a request has cost in the end, in place of its reservation.

        Raises sqlite3.Error; the reservation then stays, and `settle_late` writes it as soon as that is possible.
        """
        try:
            self._settle(number, outcome, used, nano_usd)
        except sqlite3.Error:
            self._late.append((number, outcome, used, nano_usd))
            raise

    def settle_late(self) -> None:
        """Write down what could not be written before. Raises sqlite3.Error while it still cannot."""
        while self._late:
            self._settle(*self._late[0])
            del self._late[0]

    def _settle(self, number: int, outcome: str, used: Used, nano_usd: int) -> None:
        day, cloud, model, _ = self._reserved[number]
        row = (day, cloud, model, outcome, int(used.estimated), used.input, used.cached, used.output, nano_usd)
        self._file.execute("BEGIN IMMEDIATE")
        try:
            self._file.execute(_ADD, row)
            self._file.execute("DELETE FROM open WHERE id = ?", (number,))
            self._file.execute("COMMIT")
        except sqlite3.Error:
            if self._file.in_transaction:
                self._file.execute("ROLLBACK")
            raise
        del self._reserved[number]
        days = self._days.setdefault(cloud, {})
        days[day] = days.get(day, 0) + nano_usd

    def close(self) -> None:
        self._file.close()


def next_opening(now: datetime, period: str) -> datetime:
    """When a limit begins anew: the next midnight of UTC, or the first of the next month."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return midnight + timedelta(days=1)
    return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)


@dataclass(frozen=True)
class Total:
    """All that a cloud's model was asked with one outcome, since the file was made."""

    cloud: str
    model: str
    outcome: str
    requests: int
    estimated: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    nano_usd: int


def totals(path: Path) -> list[Total]:
    """Everything in a ledger, read beside the process that writes it. Raises sqlite3.Error."""
    with closing(_reader(path)) as file:
        rows = file.execute(
            "SELECT cloud, model, outcome, SUM(requests), SUM(estimated), SUM(input_tokens), SUM(cached_tokens), "
            "SUM(output_tokens), SUM(nano_usd) FROM spent GROUP BY cloud, model, outcome"
        )
        return [Total(*row) for row in rows]


def spent(path: Path, now: datetime) -> dict[str, tuple[int, int, int]]:
    """Cloud → nano-dollars of this day, of this month, and reserved. Raises sqlite3.Error."""
    day = now.astimezone(UTC).strftime("%Y-%m-%d")
    with closing(_reader(path)) as file:
        rows = file.execute(
            "SELECT cloud, SUM(nano_usd * (day = ?1)), SUM(nano_usd * (substr(day, 1, 7) = substr(?1, 1, 7))), 0 "
            "FROM spent GROUP BY cloud UNION ALL SELECT cloud, 0, 0, SUM(nano_usd) FROM open GROUP BY cloud",
            (day,),
        ).fetchall()
    found: dict[str, tuple[int, int, int]] = {}
    for cloud, *sums in rows:
        before = found.get(cloud, (0, 0, 0))
        found[cloud] = (before[0] + sums[0], before[1] + sums[1], before[2] + sums[2])
    return found


def _reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=2)
