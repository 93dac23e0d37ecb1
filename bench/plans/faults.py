"""What is wrong with a plan, in a paragraph that names the file, the key, its value and what was expected. Pure."""

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from bench.errors import PlanError

_BEFORE_EXPANSION = {"defaults", "matrix"}  # keys of a plan's file that no plan has


def require_known(table: dict[str, Any], model: type[BaseModel], where: str) -> None:
    """Raise PlanError for a key that `model` does not have."""
    for key, value in table.items():
        if key not in model.model_fields:
            raise PlanError(f"{where}: unknown key `{key}` (= {value!r}). {_nearest(key, model.model_fields)}")


def _nearest(key: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    return f"Did you mean `{near[0]}`?" if near else f"Known keys: {', '.join(names)}."


def explain(error: ValidationError, document: dict[str, Any], source: str, top: type[BaseModel]) -> str:
    """The first problems of a document that was to be a `top`, as one readable paragraph."""
    problems = [item for item in error.errors() if item["type"] != "too_short" or not item["input"]]
    messages = []
    for item in problems[:3]:
        path = item["loc"]
        where = _place(path, document)
        if item["type"] == "extra_forbidden":
            table = _table(top, path[:-1])
            known = set(table.model_fields) | (_BEFORE_EXPANSION if "engines" in table.model_fields else set())
            messages.append(f"{where} = {item['input']!r}: unknown key. {_nearest(str(path[-1]), known)}")
        elif item["type"] == "missing":
            messages.append(f"{where}: is missing.")
        else:
            value = f" = {item['input']!r}" if not isinstance(item["input"], (dict, list, tuple)) else ""
            messages.append(f"{where}{value}: {item['msg'].removeprefix('Value error, ')}.")
    return f"{source}: " + " ".join(messages)


def _place(path: tuple[int | str, ...], document: dict[str, Any]) -> str:
    """`engines[int8].dtype`: an entry of a list by its name."""
    words = [str(part) for part in path]
    if len(path) >= 2 and path[0] in ("engines", "loads") and isinstance(path[1], int):
        entry = document[str(path[0])][path[1]]
        label = entry.get("name") if isinstance(entry, dict) else None
        words = [f"{path[0]}[{label or path[1]}]", *words[2:]]
    return ".".join(words) or "the plan"


def _table(top: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    """The kind of table that stands at `path` in a `top`."""
    table = top
    for key in path:
        field = table.model_fields.get(str(key))
        table = (field and _inside(field.annotation)) or table
    return table


def _inside(annotation: Any) -> type[BaseModel] | None:
    """The first kind of table in an annotation such as `tuple[Engine, ...]` or `Cost | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _inside(part))), None)
