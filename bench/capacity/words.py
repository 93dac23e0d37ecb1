"""A search's answer in words. Pure."""

from collections.abc import Mapping
from typing import Any

from inputs.quantities import number, seconds

UNITS = {"rate": "requests/s", "concurrency": "concurrent requests"}
_ENDED = {
    "time": "the time for the search ran out",
    "points": "the verdicts did not settle",
    "client": "the client could not deliver more",
    "invalid": "its measurements cannot be believed",
    "server": "the server cut the search short",
}


def level(over: str, value: float) -> str:
    """“12.4 requests/s”, “8 concurrent requests”."""
    shown = number(value, 3) if over == "rate" else f"{value:,.0f}"
    return f"{shown} {UNITS[over]}"


def interval(found: Mapping[str, Any]) -> str:
    """“37.1 to 40.2”; whole numbers for concurrent requests."""
    low, high = (level(found["over"], found[end]).partition(" ")[0] for end in ("low", "high"))
    return f"{low} to {high}"


def capacity(found: Mapping[str, Any]) -> str:
    """“38.6 requests/s (95 %: 37.1 to 40.2)”, “at least 320 requests/s”, “below 2.00 requests/s”, “not established”."""
    over, low, value, high = (found[name] for name in ("over", "low", "value", "high"))
    if found["ended"] in ("nothing", "floor"):
        return "no load meets the SLO"
    if value is not None:
        return f"{level(over, value)} ({found['coverage']:.0%}: {interval(found)})".replace("%:", " %:")
    if low is not None:
        return f"at least {level(over, low)}"
    return "not established" if high is None else f"below {level(over, high)}"


def said(found: Mapping[str, Any]) -> str:
    """The whole answer in a line."""
    parts = [capacity(found)]
    if found["limiting"] and found["ended"] not in ("nothing", "floor"):
        parts[0] += f", limited by {' and '.join(found['limiting'])}"
    if found["ended"] in _ENDED:
        parts.append(_ENDED[found["ended"]])
    if found["reason"]:
        parts.append(str(found["reason"]))
    if found["goodput_rps"] is not None:
        at = level(found["over"], found["goodput_at"])
        parts.append(f"goodput {number(found['goodput_rps'])} requests/s at {at}")
    if (bend := found["knee"]) and found["low"] is not None:
        between = f"{number(bend['low'])} and {level(found['over'], bend['high'])}"
        parts.append(f"{bend['figure']} leaves its floor of {seconds(bend['floor_s'])} between {between}")
    text = "; ".join(part.rstrip(".") for part in parts)
    return text if text.endswith("?") else f"{text}."
