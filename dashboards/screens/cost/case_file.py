"""The case of the Cost page as the file that `nbridge cost FILE` reads: every assumption with its source and date."""

import json
from typing import Any

from planning.cost.assumptions import REQUEST_INPUTS, Case
from planning.cost.uncertainty import Quantity


def case_toml(case: Case) -> str:
    """The case as TOML; read back it is the same case."""
    lines = [f"name = {_text(case.name)}"]
    if case.notes:
        lines.append(f"notes = [{', '.join(map(_text, case.notes))}]")
    lines.append(f"speed_mix = [{', '.join(map(_number, case.speed_mix))}]")
    lines += ["", "[api]", *_keys(case.api.model_dump(exclude_none=True))]
    lines += ["", "[hosting]", *_keys(case.hosting.model_dump(exclude_none=True))]
    for kind in case.requests:
        lines += ["", "[[requests]]", *_keys({"name": kind.name, "weight": kind.weight})]
        lines += [f"{name} = {_quantity(getattr(kind, name))}" for name in REQUEST_INPUTS]
    lines += ["", "[inputs]", *(f"{name} = {_quantity(quantity)}" for name, quantity in case.inputs.items())]
    return "\n".join(lines) + "\n"


def _keys(table: dict[str, Any]) -> list[str]:
    return [f"{name} = {_text(value) if isinstance(value, str) else _number(value)}" for name, value in table.items()]


def _quantity(one: Quantity) -> str:
    if one.is_point:
        parts = [f"value = {_number(one.mode)}"]
    else:
        parts = [f"{end} = {_number(getattr(one, end))}" for end in ("low", "mode", "high")]
    if one.unit:
        parts.append(f"unit = {_text(one.unit)}")
    if one.source:
        parts.append(f"source = {_text(one.source)}")
    if one.date:
        parts.append(f"date = {one.date.isoformat()}")
    return f"{{ {', '.join(parts)} }}"


def _number(value: float) -> str:
    return repr(value)


def _text(text: str) -> str:
    """A basic string of TOML: its escapes are those of JSON, and what JSON leaves alone may stand there."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
