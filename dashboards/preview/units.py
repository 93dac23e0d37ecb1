"""Values as a person reads them, in Grafana's units."""

import math

_SECONDS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"))
_THOUSANDS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))
_BINARY = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
_SUFFIXES = {"reqps": "req/s", "celsius": "°C", "hertz": "Hz", "watt": "W", "kwatth": "kWh", "joule": "J", "Bps": "B/s"}
_SCALED = {"hertz", "watt", "joule", "Bps"}


def words(value: float, unit: str, decimals: int | None = None) -> str:
    """`value` with its unit; three significant digits unless `decimals` says how many follow the point."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    sign, size = ("−" if value < 0 else ""), abs(value)
    match unit:
        case "s":
            text = _scaled(size, _SECONDS, decimals, " ")
        case "percentunit":
            text = f"{_digits(size * 100, decimals)} %"
        case "bytes":
            text = _scaled(size, _BINARY, decimals, " ")
        case "currencyUSD":
            text = f"${_money(size, decimals)}"
        case "none":
            text = _digits(size, decimals)
        case "short":
            text = _scaled(size, _THOUSANDS, decimals, " ")
        case _ if unit.startswith("suffix:"):
            text = f"{_digits(size, decimals)} {unit.removeprefix('suffix:')}"
        case _ if unit.startswith("si:"):
            text = _scaled(size, _THOUSANDS, decimals, " ", unit.removeprefix("si:"))
        case _ if unit in _SCALED:
            text = _scaled(size, _THOUSANDS, decimals, " ", _SUFFIXES[unit])
        case _:
            text = f"{_digits(size, decimals)} {_SUFFIXES[unit]}"
    return sign + text.strip()


def parted(text: str) -> tuple[str, str]:
    """What `words` gave, as the number and its unit."""
    number, _, unit = text.partition(" ")
    return number, unit


def _scaled(
    size: float, scales: tuple[tuple[float, str], ...], decimals: int | None, between: str, suffix: str = ""
) -> str:
    scale, name = next(((scale, name) for scale, name in scales if size >= scale), scales[-1])
    if size == 0:
        scale, name = next((scale, name) for scale, name in scales if scale == 1)
    return f"{_digits(size / scale, decimals)}{between}{name}{suffix}"


def _digits(size: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{size:.{decimals}f}"
    if size == 0:
        return "0"
    after = max(0, 2 - math.floor(math.log10(size)))
    text = f"{size:.{after}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _money(size: float, decimals: int | None) -> str:
    if decimals is None and (size >= 0.1 or size == 0):
        return f"{size:,.2f}"
    return _digits(size, decimals)
