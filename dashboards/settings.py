"""What the app looks at: run folders, servers, exporters, Prometheus. Checked once, handed to the app as one text."""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

import reports
from dashboards.errors import SettingsError
from monitoring.scrape.address import normalised

VARIABLE = "NBRIDGE_DASHBOARD"
SAMPLE = Path(reports.__file__).parent / "published" / "cpu-2-cores-default"


Address = Annotated[str, AfterValidator(normalised)]


class DashboardSettings(BaseModel):
    """The settings of `nbridge dashboard`, from a TOML file and flags."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: Path = Path("runs")
    servers: tuple[Address, ...] = ("http://127.0.0.1:8000",)
    exporters: tuple[Address, ...] = ()
    prometheus: Address | None = None
    alertmanager: Address | None = None
    refresh_s: float = Field(default=2.0, ge=1.0, le=300.0)
    window_s: float = Field(default=60.0, ge=10.0, le=3600.0)
    history_s: float = Field(default=900.0, ge=60.0, le=86_400.0)
    allow_measuring: bool = False
    port: int = Field(default=8501, ge=1, le=65535)


def load(file: Path | None, flags: Mapping[str, Any]) -> DashboardSettings:
    """Settings from `file` (TOML), overridden by those of `flags` that are not None; raises SettingsError."""
    found: dict[str, Any] = {}
    if file is not None:
        try:
            found = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{file}: cannot be read ({error.strerror}).") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file}: is not valid TOML ({error}).") from error
    return _checked(found | {name: value for name, value in flags.items() if value is not None}, str(file or "flags"))


def from_environment() -> DashboardSettings:
    """The settings that `nbridge dashboard` handed over; the defaults where it did not start the app."""
    text = os.environ.get(VARIABLE)
    if not text:
        return DashboardSettings()
    try:
        return DashboardSettings.model_validate_json(text)
    except ValidationError as error:
        raise SettingsError(_words(error, VARIABLE)) from error


def _checked(found: dict[str, Any], source: str) -> DashboardSettings:
    try:
        return DashboardSettings.model_validate(found)
    except ValidationError as error:
        raise SettingsError(_words(error, source)) from error


def _words(error: ValidationError, source: str) -> str:
    """The first complaint as a sentence, with the nearest names for an unknown key."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, DashboardSettings.model_fields, n=2)
        known = " or ".join(near) if near else ", ".join(DashboardSettings.model_fields)
        return f"{source}: {key} is not a setting of the dashboard. Did you mean {known}?"
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # an address: what it holds may be a password
        return f"{source}: {key}: {reason}."
    return f"{source}: {key} = {first.get('input')!r}: {reason}."
