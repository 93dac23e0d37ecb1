"""A day of demand: requests per second over time, from a file or of a known shape; or when each request came."""

import csv
import io
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import SettingsError
from inputs import files

DAY_S = 86400.0
# Share of the peak at the full hour. Offices: quiet nights, a steep morning, a dip at noon, a slower end.
OFFICE = (5, 4, 4, 4, 5, 8, 15, 35, 70, 92, 100, 95, 75, 85, 96, 98, 90, 72, 48, 32, 24, 17, 11, 7, 5)
SHAPES = ("office", "step")
POINTS_MOST = 100_000
ARRIVALS_MOST = 2_000_000
MANY = 5_000_000  # requests, from which on playing them takes minutes
_BYTES_MOST = 64 << 20
_RATE_OVER_S = 60.0  # requests that came are counted over so long where a rate is asked for

Day = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Demand:
    """`day`: (seconds, requests per second), rising in time. `instants`: when each request came, where it is known."""

    day: Day
    instants: tuple[float, ...] | None = None


def shape(name: str, peak_rps: float) -> Day:
    """A known day: "office" as above, or "step": a tenth of the peak, from six to eighteen o'clock all of it."""
    if name == "office":
        return tuple((hour * 3600.0, share / 100 * peak_rps) for hour, share in enumerate(OFFICE))
    if name == "step":
        low, up, down = 0.1 * peak_rps, 6 * 3600.0, 18 * 3600.0
        return ((0.0, low), (up, low), (up + 1, peak_rps), (down, peak_rps), (down + 1, low), (DAY_S, low))
    raise SettingsError(f"--demand {name!r}: neither a file nor one of {', '.join(SHAPES)}.")


def requests(day: Day) -> float:
    """How many requests are to be expected over a day."""
    return sum((rate + after) / 2 * (end_s - at_s) for (at_s, rate), (end_s, after) in itertools.pairwise(day))


def read(path: Path) -> Demand:
    """A CSV file with the columns `seconds` and `rps`, or with `seconds` alone: a line a request. Both begin at any
    second. Raises SettingsError with the line that is wrong."""
    try:
        text = files.read_text(path, limit_bytes=_BYTES_MOST)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The demand file {path} cannot be read: {error}.") from None
    reader = csv.DictReader(io.StringIO(text))
    columns = set(reader.fieldnames or ())
    if "seconds" not in columns:
        raise SettingsError(f"The demand file {path}: expected the columns seconds,rps (or seconds) in its first line.")
    return _rates(path, reader) if "rps" in columns else _arrivals(path, reader)


def _rates(path: Path, reader: "csv.DictReader[str]") -> Demand:
    day: list[tuple[float, float]] = []
    for row in reader:
        at_s, rate_rps = (_number(path, reader.line_num, key, row.get(key)) for key in ("seconds", "rps"))
        if day and at_s <= day[-1][0]:
            raise SettingsError(f"{path}, line {reader.line_num}: seconds {at_s:g} does not come after {day[-1][0]:g}.")
        day.append((at_s, rate_rps))
        if len(day) > POINTS_MOST:
            raise SettingsError(f"The demand file {path} has more than {POINTS_MOST:,} lines; thin it out.")
    if len(day) < 2 or not any(rate for _, rate in day):
        raise SettingsError(f"The demand file {path} needs two lines at least, and a rate above 0.")
    _bounded(path, day[-1][0] - day[0][0])
    return Demand(tuple((at_s - day[0][0], rate) for at_s, rate in day))


def _arrivals(path: Path, reader: "csv.DictReader[str]") -> Demand:
    came: list[float] = []
    for row in reader:
        at_s = _number(path, reader.line_num, "seconds", row.get("seconds"))
        if came and at_s < came[-1]:
            raise SettingsError(f"{path}, line {reader.line_num}: seconds {at_s:g} is before {came[-1]:g}.")
        came.append(at_s)
        if len(came) > ARRIVALS_MOST:
            raise SettingsError(f"The demand file {path} has more than {ARRIVALS_MOST:,} requests; give fewer hours.")
    if len(came) < 2 or came[-1] - came[0] < 1:
        raise SettingsError(f"The demand file {path} needs two requests at least, a second or more apart.")
    _bounded(path, came[-1] - came[0])
    instants = tuple(at_s - came[0] for at_s in came)
    end_s = math.floor(instants[-1]) + 1.0
    parts = max(1, round(end_s / _RATE_OVER_S))
    counts = [0] * parts
    for at_s in instants:
        counts[min(parts - 1, int(at_s / end_s * parts))] += 1
    length_s = end_s / parts
    rates = [((number + 0.5) * length_s, count / length_s) for number, count in enumerate(counts)]
    return Demand(((0.0, rates[0][1]), *rates, (end_s, rates[-1][1])), instants)


def _bounded(path: Path, span_s: float) -> None:
    if span_s > 31 * DAY_S:
        raise SettingsError(f"The demand file {path} spans more than 31 days; give a day or a week of it.")


def _number(path: Path, line: int, key: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise SettingsError(f"{path}, line {line}: {key} = {text!r}; expected a number of at least 0.")
    return value
