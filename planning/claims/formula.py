"""Formulas written as text in data files: arithmetic over named numbers that may be ranges, and nothing else.

`"upfront / (api - own)"` is evaluated at every combination of its inputs' ends; the result is the range of the values
found. That is exact where the formula rises or falls in each input, as those of costs do.
"""

import ast
import itertools
import math
import operator
from collections.abc import Callable, Mapping

from planning.errors import BadInput

Span = tuple[float, float]
MOST_RANGES = 12
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _payback(upfront: float, api: float, own: float) -> float:
    """Months until what was paid upfront has come back; inf when it never does."""
    return upfront / (api - own) if api > own else math.inf


FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "round": round,
    "ceil": math.ceil,
    "payback": _payback,
}


def names(formula: str) -> list[str]:
    """Return the inputs that the formula uses, in the order in which they first appear."""
    nodes = list(ast.walk(_parsed(formula)))
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    found = [node for node in nodes if isinstance(node, ast.Name) and id(node) not in called]
    return list(dict.fromkeys(node.id for node in sorted(found, key=lambda node: node.col_offset)))


def evaluate(formula: str, inputs: Mapping[str, Span]) -> Span:
    """Return the least and the greatest value of the formula over the ends of its inputs.

    Raises BadInput when it is not arithmetic over known names, or cannot be computed.
    """
    tree = _parsed(formula)
    used = names(formula)
    missing = [name for name in used if name not in inputs]
    if missing:
        raise BadInput(f"The formula {formula!r} uses `{missing[0]}`, which is no input. Known: {', '.join(inputs)}.")
    if sum(inputs[name][0] != inputs[name][1] for name in used) > MOST_RANGES:
        raise BadInput(f"The formula {formula!r} has more than {MOST_RANGES} inputs with a range; fix some of them.")
    values = []
    for corner in itertools.product(*({*inputs[name]} for name in used)):
        try:
            values.append(float(_value(tree.body, dict(zip(used, corner, strict=True)), formula)))
        except ZeroDivisionError:
            raise BadInput(f"The formula {formula!r} divides by zero: no input below a line may be 0.") from None
    if any(math.isnan(value) for value in values):
        raise BadInput(
            f"The formula {formula!r} has no value at some ends of its inputs (it takes “never” from “never”)."
        )
    return min(values), max(values)


def _parsed(formula: str) -> ast.Expression:
    try:
        return ast.parse(formula, mode="eval")
    except SyntaxError:
        raise BadInput(f"The formula {formula!r} cannot be read. It may hold numbers, names, + - * / and ().") from None


def _value(node: ast.expr, inputs: Mapping[str, float], formula: str) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.Name(id=name):
            return inputs[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, inputs, formula)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_value(left, inputs, formula), _value(right, inputs, formula))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            return float(FUNCTIONS[name](*(_value(argument, inputs, formula) for argument in arguments)))
    raise BadInput(
        f"The formula {formula!r} holds {ast.unparse(node)!r}; it may hold numbers, names, + - * /, () and "
        f"the functions {', '.join(FUNCTIONS)}."
    )
