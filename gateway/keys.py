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
    """Check that the servers' and the clouds' keys are there. Raises SettingsError."""
    wanted = [(f"server {one.name}", one.api_key_env) for one in settings.server]
    wanted += [(f"cloud {one.name}", one.api_key_env) for one in settings.cloud]
    for who, name in wanted:
        if name and not environ.get(name):
            raise SettingsError(f"{who}: api_key_env = {name!r}: the environment variable is not set.")
        if name and (re.search(r"[\s\"\\]", environ[name]) or not environ[name].isascii()):
            raise SettingsError(f"{who}: the key in {name} holds blanks, quotes, backslashes or is not ASCII.")
