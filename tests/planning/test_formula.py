"""Formulas of data files: ranges over the corners, and nothing but arithmetic."""

import math

import pytest

from planning.claims.formula import MOST_RANGES, evaluate, names
from planning.errors import BadInput


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("a + 2 * b", (2 + 10, 4 + 12)),
        ("a / b", (2 / 6, 4 / 5)),
        ("-a - (b - 1)", (-9, -6)),
        ("min(a, 3) * max(b, 5.5)", (2 * 5.5, 3 * 6)),
        ("ceil(a / 3) + round(b / 4)", (2, 4)),
        ("payback(a, b, 5)", (2, math.inf)),
    ],
)
def test_the_range_over_all_corners(formula: str, expected: tuple[float, float]) -> None:
    assert evaluate(formula, {"a": (2, 4), "b": (5, 6)}) == pytest.approx(expected)


def test_names_are_the_inputs_without_the_functions() -> None:
    assert names("min(a, b) + a * round(c)") == ["a", "b", "c"]
    assert names("round * 2") == ["round"]


@pytest.mark.parametrize(
    "formula", ["a ** 2", "__import__('os')", "a.b", "[a]", "a if a else 1", "'a'", "True", "a < 1", "min(*[a])"]
)
def test_anything_but_arithmetic_is_refused(formula: str) -> None:
    with pytest.raises(BadInput, match=r"it may hold|no input"):
        evaluate(formula, {"a": (1, 1)})


def test_what_has_no_value_is_refused() -> None:
    with pytest.raises(BadInput, match="no value"):
        evaluate("payback(1, 1, 2) - payback(1, 1, 2)", {})
    many = {f"x{index}": (0.0, 1.0) for index in range(MOST_RANGES + 1)}
    with pytest.raises(BadInput, match="more than 12 inputs"):
        evaluate(" + ".join(many), many)
