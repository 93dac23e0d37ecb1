"""A day of demand: requests per second over time, from a file or of a known shape."""

import csv
import io
import math
from pathlib import Path

from deploy.errors import SettingsError
from inputs import files

DAY_S = 86400.0
# Share of the peak at the full hour. Offices: quiet nights, a steep morning, a dip at noon, a slower end.
OFFICE = (5, 4, 4, 4, 5, 8, 15, 35, 70, 92, 100, 95, 75, 85, 96, 98, 90, 72, 48, 32, 24, 17, 11, 7, 5)
SHAPES = ("office", "step")
POINTS_MOST = 100_000

Day = tuple[tuple[float, float], ...]


def shape(name: str, peak_rps: float) -> Day:
    """A known day: "office" as above, or "step": a tenth of the peak, from six to eighteen o'clock all of it."""
    if name == "office":
        return tuple((hour * 3600.0, share / 100 * peak_rps) for hour, share in enumerate(OFFICE))
    if name == "step":
        low, up, down = 0.1 * peak_rps, 6 * 3600.0, 18 * 3600.0
        return ((0.0, low), (up, low), (up + 1, peak_rps), (down, peak_rps), (down + 1, low), (DAY_S, low))
    raise SettingsError(f"--demand {name!r}: neither a file nor one of {', '.join(SHAPES)}.")


def read(path: Path) -> Day:
    """A CSV file with the columns `seconds` and `rps`. Raises SettingsError with the line that is wrong."""
    try:
        text = files.read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The demand file {path} cannot be read: {error}.") from None
    reader = csv.DictReader(io.StringIO(text))
    if not {"seconds", "rps"} <= set(reader.fieldnames or ()):
        raise SettingsError(f"The demand file {path}: expected the columns seconds,rps in its first line.")
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
    if day[-1][0] - day[0][0] > 31 * DAY_S:
        raise SettingsError(f"The demand file {path} spans more than 31 days; give a day or a week of it.")
    return tuple((at_s - day[0][0], rate) for at_s, rate in day)


def _number(path: Path, line: int, key: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise SettingsError(f"{path}, line {line}: {key} = {text!r}; expected a number of at least 0.")
    return value
