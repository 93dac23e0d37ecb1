"""API keys: users' in front, servers' behind. They are read here and stand in no error, no log and no argv."""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from gateway.errors import SettingsError
from gateway.settings import Settings
from inputs import files

_KEYS_BYTES = 1 << 20


def user_keys(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The users' keys; empty when none is asked for. Raises SettingsError without repeating a key."""
    keys: list[str] = []
    if name := settings.gateway.api_keys_env:
        if not environ.get(name, "").split():
            raise SettingsError(f"The environment variable {name}, which shall hold the users' keys, is not set.")
        keys += environ[name].replace(",", " ").split()
    if settings.gateway.api_keys_file:
        keys += _keys_of(Path(settings.gateway.api_keys_file))
    for key in keys:
        if not key.isascii() or not key.isprintable():
            raise SettingsError("A user's key has characters that no HTTP header carries; keys are printable ASCII.")
    return keys


def _keys_of(path: Path) -> list[str]:
    try:
        mode = path.stat().st_mode
        text = files.read_text(path, limit_bytes=_KEYS_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"gateway.api_keys_file = '{path}' cannot be read: {error}.") from None
    if stat.S_ISREG(mode) and mode & 0o077:
        raise SettingsError(f"gateway.api_keys_file = '{path}' can be read by others: chmod 600 {path}")
    keys = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not keys:
        raise SettingsError(f"gateway.api_keys_file = '{path}' holds no key: one stands on each line.")
    return keys


def upstream_keys(settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
    """Check that the servers' keys are there. Raises SettingsError."""
    for one in settings.server:
        if one.api_key_env and not environ.get(one.api_key_env):
            raise SettingsError(
                f"server {one.name}: api_key_env = {one.api_key_env!r}: the environment variable is not set."
            )
        if one.api_key_env and re.search(r"[\s\"\\]", environ[one.api_key_env]):
            raise SettingsError(f"server {one.name}: the key in {one.api_key_env} holds blanks, quotes or backslashes.")
