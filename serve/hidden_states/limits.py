"""What one server takes at a time: bounds of a request and of the queue, settable by environment variables."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from serve.errors import SettingsError

PREFIX = "NBRIDGE_HIDDEN_"


@dataclass(frozen=True)
class Limits:
    """Bounds of `/v1/hidden_states`; each is set by NBRIDGE_HIDDEN_<NAME>, in units of the name.

    A value is one 32-bit float: 8,388,608 of them are 32 MiB, and about 100 MiB on the wire as JSON. A request counts
    as queued until its answer has been written; `max_queued_values` is of the large answers.
    """

    max_body_bytes: int = 8 << 20
    max_prompts: int = 256
    max_values: int = 8 << 20
    max_queued_prompts: int = 1024
    max_queued_values: int = 32 << 20
    timeout_s: int = 120

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """The limits with what the environment sets. Raises SettingsError for anything but a positive integer."""
        found = {}
        for field in fields(cls):
            variable = PREFIX + field.name.upper()
            text = (os.environ if environ is None else environ).get(variable)
            if text is None:
                continue
            if not text.isdecimal() or int(text) < 1:
                raise SettingsError(f"environment variable {variable} = {text!r}: expected a positive integer.")
            found[field.name] = int(text)
        return cls(**found)
