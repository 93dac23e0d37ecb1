"""What can go wrong while planning: every message says which value, why, and what would work.

PlanningError              (exit 4: the work failed)
├── UnknownName            (exit 2: no such model, GPU, build or API model; the nearest names are offered)
├── BadCatalog             (exit 2: a file of facts and prices that cannot be read or is not valid)
├── BadInput               (exit 2: a number outside what it can be: a negative price, a share above 1)
└── MissingMeasurement     (exit 2: a run that lacks the figure that was asked for)
"""

import difflib
from collections.abc import Iterable, Sequence


class PlanningError(Exception):
    """The root of this package's errors; `str()` is one paragraph that a user can act on."""

    exit_code: int = 4


class UnknownName(PlanningError):
    """A name that no catalog holds."""

    exit_code = 2


class BadCatalog(PlanningError):
    """A data file that is not what it should be."""

    exit_code = 2


class BadInput(PlanningError):
    """A number that cannot be."""

    exit_code = 2


class MissingMeasurement(PlanningError):
    """A run without the measured figure that is needed."""

    exit_code = 2


def unknown(
    kind: str, name: str, known: Iterable[str], otherwise: str = "", nearest: Sequence[str] = ()
) -> UnknownName:
    """Return the error for a name that is not known, with the nearest names (`nearest`, else by spelling), else all."""
    names = list(known)
    near = list(nearest) or difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else f" Known: {', '.join(names)}."
    return UnknownName(f"There is no {kind} {name!r} in the catalog.{hint}{' ' + otherwise if otherwise else ''}")
