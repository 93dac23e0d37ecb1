"""What tables of settings are made of: frozen, strict, and the types of their values."""

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"  # stands in HAProxy's configuration and on its command line
_MODEL = r"^[^\s\"'\\%{}$#\x00-\x1f\x7f]{1,200}$"  # a model's name as in requests: org/name, name:tag

Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Port = Annotated[int, Field(ge=0, le=65535)]
Name = Annotated[str, Field(pattern=_NAME)]
ModelName = Annotated[str, Field(pattern=_MODEL)]


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def variable_name(value: str | None) -> str | None:
    """The NAME of an environment variable; raises ValueError, which does not repeat what may be the key itself."""
    if value is not None and not _VARIABLE_NAME.fullmatch(value):
        raise ValueError("must be the NAME of an environment variable that holds the key, not the key itself")
    return value
