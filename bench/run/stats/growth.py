"""What a server's own counters grew by during a load: its metrics page before it and after it, by names and labels."""

import math
from collections.abc import Callable

from monitoring.scrape import metrics as metrics_page

Total = Callable[..., float | None]  # (name, **labels) → the sum of the series with that name and those labels
Grown = Callable[..., float | None]


def totals(page: str | None) -> Total | None:
    """The sums of a metrics page by name and labels; None when there is no page, or it is something else."""
    if not page:
        return None
    try:
        samples = metrics_page.parse(page)
    except metrics_page.MetricsError:
        return None
    return lambda name, **labels: metrics_page.total(samples, name, **labels)


def delta(before: Total, after: Total, name: str, **labels: str) -> float | None:
    """How much a counter grew; None when the server does not have it, it was reset or is no finite number."""
    start, end = before(name, **labels), after(name, **labels)
    if end is None:
        return None
    grown = end - (start or 0.0)
    return grown if 0 <= grown < math.inf else None  # a page may hold NaN and infinity
