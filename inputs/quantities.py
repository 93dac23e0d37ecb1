"""Quantities as a person reads them. Inside everything is seconds and bytes; None is shown as a dash, never as 0."""

import math
from collections.abc import Callable

MISSING = "–"
GIB = 2**30
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Scales = tuple[tuple[float, str], ...]
TIME: Scales = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"))
BINARY: Scales = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
THOUSANDS: Scales = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))


def number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits and thousands separators, without an exponent."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1])  # of the rounded value: 0.9999 counts as 1.00
    decimals = max(0, digits - 1 - exponent)
    if decimals > 9:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{decimals}f}"


def trimmed(value: float | None, digits: int = 3) -> str:
    """As `number`, without zeros at the end of a fraction: 2.50 → “2.5”, 80.0 → “80”."""
    text = number(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def scaled(value: float | None, scales: Scales, write: Callable[[float], str] = number) -> str:
    """`value` in the largest of `scales` (descending) in which it reads as 1 or more, else in the smallest."""
    if value is None or not math.isfinite(value):
        return MISSING
    read = abs(value) or 1  # nothing has the plain unit
    size, unit = next((scale for scale in scales if float(f"{read / scale[0]:.3g}") >= 1), scales[-1])
    return f"{write(value / size)} {unit}"


def seconds(value: float | None) -> str:
    """A duration in seconds as µs, ms or s, whichever reads best: 0.0123 → “12.3 ms”."""
    return scaled(value, TIME[3:])


def byte_size(value: float | None) -> str:
    """A size in bytes as KiB, MiB or GiB (powers of 1,024)."""
    return scaled(value, BINARY[1:])


def count(value: float | None) -> str:
    """A whole number with thousands separators."""
    return MISSING if value is None else f"{value:,.0f}"


def share(value: float | None) -> str:
    """A ratio as a percentage: 0.051 → “5.1 %”; what is next to nothing without its row of zeros."""
    if value is not None and 0 < abs(value) < 1e-5:
        return "< 0.001 %" if value > 0 else "> −0.001 %"
    return MISSING if value is None else f"{number(value * 100, 2)} %"


def ratio(value: float) -> str:
    """How many times as much: 5.12 → “5.1 ×”."""
    return f"{number(value, 2 if value < 100 else 3)} ×"


def in_words(value: int) -> str:
    """A small count in words (“three”), a larger one in digits."""
    return _WORDS[value] if 0 <= value < len(_WORDS) else f"{value:,}"


def plural(value: int, noun: str, many: str | None = None) -> str:
    """The count and its noun: (1, "cell") → “1 cell”, (3, "cell") → “3 cells”."""
    return f"{value:,} {noun if value == 1 else many or noun + 's'}"


def in_unit(value: float | None, unit: str | None) -> str:
    """A check's value in its own unit: seconds and bytes are scaled, shares become percentages."""
    match unit:
        case _ if value is None:
            return MISSING
        case "s" | "seconds":
            return seconds(value)
        case "bytes" | "B":
            return byte_size(value)
        case "share" | "ratio" | "fraction":
            return share(value)
        case _:
            text = count(value) if float(value).is_integer() else number(value)
            return f"{text} {unit}" if unit and unit not in ("1", "count") else text
