"""What all figures share. Vega draws in the browser with what Streamlit brings along: nothing is fetched elsewhere.

Engines differ by colour, marker and dash, in the order of the plan. Every axis names its unit.
"""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from dashboards.theme import DASHES, SHAPES, Palette

Rows = list[dict[str, Any]]
TIME = (
    "datum.value == 0 ? '0' : abs(datum.value) < 0.000999 ? format(datum.value * 1000000, ',.3~r') + ' µs' : "
    "abs(datum.value) < 0.999 ? format(datum.value * 1000, ',.3~r') + ' ms' : format(datum.value, ',.3~r') + ' s'"
)
BYTES = (
    "datum.value == 0 ? '0' : abs(datum.value) < 1048576 ? format(datum.value / 1024, ',.3~r') + ' KiB' : "
    "abs(datum.value) < 1073741824 ? format(datum.value / 1048576, ',.3~r') + ' MiB' : "
    "format(datum.value / 1073741824, ',.3~r') + ' GiB'"
)
SIZE = "(abs(datum.value) < 1000 ? format(abs(datum.value), ',.3~r') : format(abs(datum.value), ',.3~s'))"
USD = f"(datum.value < 0 ? '−$' : '$') + {SIZE}"
TOKENS = "format(datum.value, '.3~s')"


def data(rows: Rows) -> alt.InlineData:
    """`rows` inside the figure's own description."""
    return alt.InlineData(values=rows)


def finished(chart: Any, height: int = 320) -> Any:
    """`chart` at its height, with nothing of Vega's own menu that leads elsewhere."""
    return chart.properties(height=height, usermeta={"embedOptions": {"actions": False}})


def engine_scales(engines: Sequence[str], palette: Palette, title: str = "") -> dict[str, Any]:
    """Colour, shape and dash encodings for `engines`, sharing one legend."""
    count = len(engines)
    legend = alt.Legend(title=title or None, orient="top", columns=0, labelLimit=260, symbolSize=100)

    def scale(values: Sequence[Any]) -> alt.Scale:
        return alt.Scale(domain=list(engines), range=[values[index % len(values)] for index in range(count)])

    return {
        "color": alt.Color("engine:N", scale=scale(palette.series), legend=legend),
        "shape": alt.Shape("engine:N", scale=scale(SHAPES), legend=legend),
        "dash": alt.StrokeDash("style:N", scale=scale([list(dash) for dash in DASHES]), legend=None),
        "line": alt.StrokeDash("engine:N", scale=scale([list(dash) for dash in DASHES]), legend=legend),
    }


def time_axis(field: str, title: str, values: list[float]) -> alt.X:
    """A time axis in seconds with ticks that name their unit; logarmithic when the values span more than 1:8."""
    low, high = min(values), max(values)
    axis = alt.Axis(labelExpr=TIME, title=title, tickCount=6, labelOverlap=True)
    if low > 0 and high / low > 8:
        ends = [low / 1.35, high * 1.35]
        # Vega's own ticks stand at every digit; of their labels a narrow screen shows the first and the last.
        axis = alt.Axis(labelExpr=TIME, title=title, values=decades(ends, 6), labelOverlap=True)
        scale = alt.Scale(type="log", domain=ends, nice=False)
    else:
        scale = alt.Scale(zero=low <= 0, domain=[low - (high - low) * 0.08, high + (high - low or high) * 0.08])
    return alt.X(field, type="quantitative", axis=axis, scale=scale)


def decades(values: Sequence[float], most: int = 7) -> list[float]:
    """Ticks for a logarithmic axis over `values`: 1, 2, 5 or 1, 3 or whole powers of ten, as many as are readable."""
    low, high = math.log10(min(values)), math.log10(max(values))
    found: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in steps]
        found = [value for value in found if low - 0.02 <= math.log10(value) <= high + 0.02]
        if len(found) <= most:
            break
    return found


def names(order: list[str], field: str, palette: Palette) -> Any:
    """The rows' names above their bars: on a narrow screen an axis would leave no room for the bars."""
    names = alt.Chart(data([{field: name} for name in order]))
    text = names.mark_text(align="left", baseline="middle", dy=-9, dx=2, fontSize=11, color=palette.ink)
    return text.encode(x=alt.value(0), y=alt.Y(f"{field}:N", sort=order, axis=None), text=f"{field}:N")
