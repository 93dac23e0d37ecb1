"""Values as a person reads them, in Grafana's units."""

import math
from collections.abc import Callable

from inputs.quantities import BINARY, THOUSANDS, TIME, Scales, scaled, trimmed

_SCALED: dict[str, tuple[Scales, str]] = {
    "s": (TIME, ""),
    "bytes": (BINARY, ""),
    "short": (THOUSANDS, ""),
    "hertz": (THOUSANDS, "Hz"),
    "watt": (THOUSANDS, "W"),
    "joule": (THOUSANDS, "J"),
    "Bps": (THOUSANDS, "B/s"),
}
_SUFFIXES = {"none": "", "reqps": "req/s", "celsius": "°C", "kwatth": "kWh"}


def words(value: float, unit: str, decimals: int | None = None) -> str:
    """`value` with its unit; three significant digits unless `decimals` says how many follow the point."""
    sign, size = ("−" if value < 0 else ""), abs(value)
    write: Callable[[float], str] = trimmed if decimals is None else f"{{:.{decimals}f}}".format
    if math.isinf(value):
        text = "∞"
    elif unit == "currencyUSD":
        text = "$" + (f"{size:,.2f}" if decimals is None and (size >= 0.1 or size == 0) else write(size))
    elif unit == "percentunit":
        text = f"{write(size * 100)} %"
    elif unit in _SCALED or unit.startswith("si:"):
        scales, suffix = _SCALED.get(unit) or (THOUSANDS, unit.removeprefix("si:"))
        text = scaled(size, scales, write) + suffix
    else:
        suffix = unit.removeprefix("suffix:") if unit.startswith("suffix:") else _SUFFIXES[unit]
        text = f"{write(size)} {suffix}"
    return sign + text.strip()


def parted(text: str) -> tuple[str, str]:
    """What `words` gave, as the number and its unit."""
    number, _, unit = text.partition(" ")
    return number, unit
