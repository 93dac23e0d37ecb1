"""Which prompts a map is fitted on, which ones its settings are chosen on, and which ones only judge it. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from alignment.errors import TooFewPrompts

MIN_TRAIN, MIN_VALIDATION, MIN_TEST = 20, 10, 20


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts; all rows with one prompt are in one part."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]

    @property
    def fit(self) -> tuple[int, ...]:
        """What a final map is fitted on, once its settings are chosen: training and validation."""
        return self.train + self.validation


def split(hashes: Sequence[str], *, test_share: float = 0.2, validation_share: float = 0.1, seed: int = 0) -> Split:
    """Split rows by their prompts' hashes: the same hashes and seed give the same parts, whatever the order.

    Shares are of the distinct prompts. Raises TooFewPrompts with the numbers.
    """
    distinct = sorted(set(hashes), key=lambda one: hashlib.sha256(f"{seed}:{one}".encode()).digest())
    tests = round(len(distinct) * test_share)
    validations = round(len(distinct) * validation_share)
    trains = len(distinct) - tests - validations
    if trains < MIN_TRAIN or validations < MIN_VALIDATION or tests < MIN_TEST:
        raise TooFewPrompts(
            f"{len(distinct)} distinct prompts leave {trains} to fit on, {validations} to choose settings on and "
            f"{tests} to judge by (test share {test_share:g}, validation share {validation_share:g}); at least "
            f"{MIN_TRAIN}, {MIN_VALIDATION} and {MIN_TEST} are needed. Give more prompts."
        )
    part = {one: 0 if place < tests else 1 if place < tests + validations else 2 for place, one in enumerate(distinct)}
    rows: tuple[list[int], list[int], list[int]] = ([], [], [])
    for row, one in enumerate(hashes):
        rows[part[one]].append(row)
    return Split(train=tuple(rows[2]), validation=tuple(rows[1]), test=tuple(rows[0]))


def shortage(fit_prompts: int, width: int, test_share: float) -> str | None:
    """A warning, with the numbers, when a map of `width` is fitted on fewer prompts than that; else None."""
    if fit_prompts >= width:
        return None
    needed = -(-width // (1 - test_share))
    return (
        f"{fit_prompts} prompts fit a map of width {width}: an orthogonal map needs about as many prompts as it is "
        f"wide, and directions that no prompt shows are arbitrary. Give at least {needed:.0f} prompts."
    )
