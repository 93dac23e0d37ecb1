"""Durations as people write them: `20ms`, `0.5s`, `2 min`; a bare number is seconds."""

import math
import re

_UNITS_S = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_FORM = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?|\.[0-9]+)\s*(us|µs|ms|s|min|h)?\s*", re.IGNORECASE)


def seconds_of(text: str, *, longest_s: float = math.inf) -> float:
    """The seconds that `text` means. ValueError: it is no duration, not above 0, or beyond `longest_s`.

    `longest_s` is where a value is surely meant in another unit: a bare `20` for a time per token.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no duration: write 20ms, 0.02 (seconds) or 2min")
    value_s = float(found[1]) * _UNITS_S[(found[2] or "s").lower()]
    if not 0 < value_s < math.inf:
        raise ValueError(f"{text!r}: a limit of time is above 0")
    if value_s > longest_s:
        meant = f"; {found[1]}ms?" if found[2] is None else ""
        raise ValueError(
            f"{text!r} is {value_s:,.10g} s, longer than makes sense here ({longest_s:g} s at most){meant}"
        )
    return value_s
