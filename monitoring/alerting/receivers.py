"""Where alerts and signs of life go, as the settings describe it. Secrets are named, never held."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from inputs import files
from monitoring.errors import SettingsError

SECRET_BYTES = 64 << 10

Severity = Literal["critical", "warning", "info"]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CREDENTIALS = re.compile(r"//[^/@]+:[^/@]+@")


class _Named(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]

    @model_validator(mode="after")
    def _secrets_are_named_well(self) -> Self:
        for field, value in self:
            if field.endswith("_env") and value is not None and not _NAME.fullmatch(value):
                raise ValueError(f"{field} must be the NAME of an environment variable that holds the secret")
        return self


class _Posted(_Named):
    """An HTTP POST; the address may be the secret, or a bearer token beside it."""

    url: str | None = None
    url_file: str | None = None
    url_env: str | None = None
    token_file: str | None = None
    token_env: str | None = None

    @field_validator("url")
    @classmethod
    def _is_plain(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        if value is not None and _CREDENTIALS.search(value):
            raise ValueError("holds a password; put the whole address into a file (url_file) or a variable (url_env)")
        return value

    @model_validator(mode="after")
    def _goes_somewhere(self) -> Self:
        _exactly_one(self, ("url", "url_file", "url_env"))
        _at_most_one(self, ("token_file", "token_env"))
        return self


class _Told(_Named):
    """Who is told of alerts, and of which."""

    severities: tuple[Severity, ...] = ("critical", "warning")
    send_resolved: bool = True


class Webhook(_Posted, _Told):
    """Alertmanager's JSON."""

    kind: Literal["webhook"]


class Heartbeat(_Posted):
    """Alertmanager's JSON every `interval_s` while all is well, and never an alert: its absence is the alarm."""

    kind: Literal["heartbeat"]
    interval_s: Annotated[float, Field(ge=1)] = 60


class Email(_Told):
    """One mail per notification, over SMTP with STARTTLS unless `require_tls` is false."""

    kind: Literal["email"]
    to: Annotated[str, Field(min_length=3)]
    sender: Annotated[str, Field(min_length=3)]
    smarthost: Annotated[str, Field(pattern=r"^[^:\s]+:\d+$")]
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    require_tls: bool = True

    @model_validator(mode="after")
    def _logs_in_with_both(self) -> Self:
        _at_most_one(self, ("password_file", "password_env"))
        if (self.username is None) != (self.password_file is None and self.password_env is None):
            raise ValueError("username and one of password_file, password_env belong together")
        return self


class Chat(_Told):
    """A message through an incoming webhook of Slack, or of a chat that speaks its format."""

    kind: Literal["chat"]
    url_file: str | None = None
    url_env: str | None = None
    channel: str | None = None

    @model_validator(mode="after")
    def _goes_somewhere(self) -> Self:
        _exactly_one(self, ("url_file", "url_env"))
        return self


Receiver = Annotated[Webhook | Email | Chat | Heartbeat, Field(discriminator="kind")]


def _exactly_one(receiver: BaseModel, fields: tuple[str, ...]) -> None:
    if sum(getattr(receiver, field) is not None for field in fields) != 1:
        raise ValueError(f"needs exactly one of {', '.join(fields)}")


def _at_most_one(receiver: BaseModel, fields: tuple[str, ...]) -> None:
    if sum(getattr(receiver, field) is not None for field in fields) > 1:
        raise ValueError(f"takes only one of {', '.join(fields)}")


def secret(receiver: Receiver, what: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The secret that `<what>_file` or `<what>_env` of a receiver names; None when neither is set.

    Raises SettingsError naming the receiver, the field, and the file or variable that is missing or empty.
    """
    path, variable = getattr(receiver, f"{what}_file"), getattr(receiver, f"{what}_env")
    if path is not None:
        try:
            value = files.read_text(Path(path).expanduser(), limit_bytes=SECRET_BYTES).strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise SettingsError(f"Receiver {receiver.name}: {what}_file = {path!r} cannot be read: {reason}.") from None
        if not value:
            raise SettingsError(f"Receiver {receiver.name}: {what}_file = {path!r} is empty.")
        return value
    if variable is not None:
        if not environ.get(variable):
            raise SettingsError(f"Receiver {receiver.name}: {what}_env = {variable!r}, and that variable is not set.")
        return environ[variable].strip()
    return None
