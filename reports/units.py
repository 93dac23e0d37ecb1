"""Quantities as a person reads them. Inside everything is seconds and bytes; None is shown as a dash, never as 0."""

import math

MISSING = "–"
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


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


def seconds(value: float | None) -> str:
    """A duration in seconds as µs, ms or s, whichever reads best: 0.0123 → “12.3 ms”."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0 s"
    size = abs(value)
    if size < 0.9995e-3:
        return f"{number(value * 1e6)} µs"
    if size < 0.9995:
        return f"{number(value * 1e3)} ms"
    return f"{number(value)} s"


def byte_size(value: float | None) -> str:
    """A size in bytes as KiB, MiB or GiB (powers of 1,024)."""
    if value is None:
        return MISSING
    size = float(value)
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1023.5:
            return f"{number(size)} {unit}"
        size /= 1024
    return f"{number(size)} GiB"


def count(value: float | None) -> str:
    """A whole number with thousands separators."""
    return MISSING if value is None else f"{value:,.0f}"


def share(value: float | None) -> str:
    """A ratio as a percentage: 0.051 → “5.1 %”."""
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


def listing(names: list[str], limit: int = 6) -> str:
    """Names as an English enumeration; beyond `limit` the rest is counted: “a, b and 14 more”."""
    shown = list(names)
    if len(names) > limit:
        shown = [*names[: limit - 1], f"{len(names) - limit + 1} more"]
    if len(shown) < 2:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def shortened(name: str, limit: int) -> str:
    """`name` with its middle left out when it is longer than `limit` characters."""
    flat = " ".join(name.split())
    if len(flat) <= limit:
        return flat
    head = (limit - 1) * 2 // 3
    return f"{flat[:head]}…{flat[len(flat) - (limit - 1 - head) :]}"


def short_names(names: tuple[str, ...], limit: int = 30) -> dict[str, str]:
    """A short, distinct name for each of `names`; those that would collide are numbered."""
    short = {name: shortened(name, limit) for name in names}
    taken = list(short.values())
    return {
        name: text if taken.count(text) == 1 else f"{index + 1}: {shortened(name, limit - 4)}"
        for index, (name, text) in enumerate(short.items())
    }


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
