"""PromQL as text: the few forms that the boards need, each aggregated the only way that is right for it.

Counters are rated and then summed over engines and servers; histograms are rated, their buckets summed, and only then
asked for a quantile; a mean is a sum of sums over a sum of counts. Nothing here fills a gap with a zero. A series that
vLLM called otherwise up to 0.9 is asked for by both names.
"""

import re
from collections.abc import Mapping

from monitoring.alerting.recording import either

WINDOW = "$__rate_interval"  # Grafana's: at least four scrapes
RECENT = "5m"  # the window of single numbers, as in the alert rules

SERVER = 'instance=~"$instance"'
ENGINE = f'model_name=~"$model",{SERVER}'

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def highest(gauge: str, matchers: str, *, by: str = "") -> str:
    """A gauge's highest value over everything but the labels `by`."""
    return f"max{_by(by)}({either(f'{gauge}{{{matchers}}}')})"


def rate(metric: str, matchers: str, *, by: str = "", window: str = WINDOW) -> str:
    """A counter's increase per second, added up over everything but the labels `by`."""
    return f"sum{_by(by)}({either(f'rate({metric}{{{matchers}}}[{window}])')})"


def increase(metric: str, matchers: str, *, by: str = "", window: str = "$__range") -> str:
    """A counter's increase within a window, added up over everything but the labels `by`."""
    return f"sum{_by(by)}({either(f'increase({metric}{{{matchers}}}[{window}])')})"


def quantile(q: float, histogram: str, matchers: str, *, by: str = "", window: str = WINDOW) -> str:
    """A quantile over all engines and servers together, interpolated within one bucket: no finer than its bounds."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', matchers, by=labels, window=window)})"


def share_within(histogram: str, bound: str, matchers: str, *, by: str = "", window: str = WINDOW) -> str:
    """The exact share of observations at most `bound`, which must be one of the histogram's bucket bounds."""
    within = rate(
        f"{histogram}_bucket", f'{matchers},le="{bound}"' if matchers else f'le="{bound}"', by=by, window=window
    )
    return f"{within} / {rate(f'{histogram}_count', matchers, by=by, window=window)}"


def mean(histogram: str, matchers: str, *, by: str = "", window: str = WINDOW) -> str:
    """The mean observation within the window, over all engines and servers together."""
    total = rate(f"{histogram}_sum", matchers, by=by, window=window)
    return f"{total} / {rate(f'{histogram}_count', matchers, by=by, window=window)}"


def share_of(counter: str, part: str, matchers: str, *, window: str = WINDOW) -> str:
    """The share of a counter's increase whose labels match `part`.

    A label value that has never occurred has no series; the share is then 0 exactly when the whole is counted at all.
    """
    whole = rate(counter, matchers, window=window)
    some = rate(counter, f"{part},{matchers}" if matchers else part, window=window)
    return f"({some} or 0 * {whole}) / {whole}"


def buckets(histogram: str, matchers: str) -> str:
    """A histogram's observations per second by bucket bound, over all engines and servers together."""
    return rate(f"{histogram}_bucket", matchers, by="le")


def substitute(expr: str, values: Mapping[str, str]) -> str:
    """`expr` with its variables replaced. Raises KeyError for a variable without a value."""
    return _VARIABLE.sub(lambda match: values[match.group(1) or match.group(2)], expr)


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""
