"""Where run.json says something else than the records do, number by number."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """A number that run.json stores and the records do not give (or give differently)."""

    name: str
    stored: Any
    recomputed: Any


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for name, below in tree.items():
            yield from _flat(below, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, tree


def differences(stored: dict[str, Any] | None, recomputed: dict[str, Any] | None) -> tuple[Difference, ...]:
    """Where `stored` says something else than `recomputed`, number by number (relative tolerance 1e-6).

    Only parts that are recomputed are compared: what was sampled of the client itself is not kept and stays as stored.
    """
    if not stored or not recomputed:
        return ()
    parts = set(recomputed) & set(stored)  # an earlier version stored fewer
    old = {name: value for name, value in _flat(stored) if name.split(".")[0] in parts and value is not None}
    new = {name: value for name, value in _flat(recomputed) if name.split(".")[0] in parts and value is not None}
    return tuple(
        Difference(name, old.get(name), new.get(name))
        for name in dict.fromkeys([*new, *old])
        if not _same(old.get(name), new.get(name))
    )


def _same(stored: Any, recomputed: Any) -> bool:
    if isinstance(stored, int | float) and isinstance(recomputed, int | float):
        return math.isclose(stored, recomputed, rel_tol=1e-6, abs_tol=1e-9)
    return bool(stored == recomputed)
