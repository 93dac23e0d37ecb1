"""What stands after `--`: an option that a setting of ours covers becomes that setting, the rest goes to vLLM."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve.engine.options import OWNED_OPTIONS, is_option, option_of
from serve.errors import SettingsError

# vLLM's switches and what they say of their setting; every other owned option has a value.
_SWITCHES = {
    "--trust-remote-code": True,
    "--enable-prefix-caching": True,
    "--enable-chunked-prefill": True,
    "--enforce-eager": True,
    "--enable-lora": True,
    "--enable-log-requests": True,
    "--disable-uvicorn-access-log": False,
}
_MULTIPLES = {letter: 1000**power for power, letter in enumerate("kmgt", start=1)} | {
    letter: 1024**power for power, letter in enumerate("KMGT", start=1)
}


@dataclass(frozen=True)
class PassedOn:
    """`settings`: a setting's name → its value, as a text where the setting itself reads it. `rest`: for vLLM."""

    settings: dict[str, Any]
    rest: tuple[str, ...]


def sort_out(words: Sequence[str]) -> PassedOn:
    """The words after `--`, in vLLM's spellings. Raises SettingsError for what says two things at once."""
    settings: dict[str, Any] = {}
    rest: list[str] = []
    left = list(words)
    if left and not is_option(left[0]):
        settings["model"] = left.pop(0)  # as in `vllm serve MODEL`
    while left:
        word = left.pop(0)
        option = option_of(word)
        negated = option.startswith("--no-")
        option = "--" + option.removeprefix("--no-") if negated else option
        setting = OWNED_OPTIONS.get(option)
        if setting is None or not setting.isidentifier():  # not ours, or a secret: the settings judge it
            rest.append(word)
            continue
        value = (_SWITCHES[option] != negated) if option in _SWITCHES else _value(word, option, left)
        if setting == "speculative":
            value = {**settings.get(setting, {}), **_speculative(word, str(value))}
        elif setting in settings and settings[setting] != value:
            raise SettingsError(f"After --: {setting} is given as {settings[setting]!r} and as {value!r}.")
        settings[setting] = value
    return PassedOn(settings, tuple(rest))


def _value(word: str, option: str, left: list[str]) -> Any:
    """The value of an option, taken from its own word or from those that follow."""
    name, equals, value = word.partition("=")
    several = option in ("--lora-modules", "--served-model-name")
    values = [value] if equals else []
    while left and not is_option(left[0]) and (several or not values):
        values.append(left.pop(0))
    if not values:
        raise SettingsError(f"After --: {name} needs a value.")
    if option == "--lora-modules":
        return dict(_adapter(one) for one in values)
    if len(values) > 1:
        raise SettingsError(f"After --: {name} {' '.join(values)}: this server has one name; give only one.")
    if option in ("--max-model-len", "--max-num-batched-tokens"):
        return _count(name, values[0])
    return values[0]


def _count(name: str, text: str) -> str:
    """A number as vLLM also takes it: 8k is 8,000, 8K is 8,192, 25.6k is 25,600."""
    found = re.fullmatch(r"(\d+)(\.\d+)?([kmgtKMGT])", text)
    if not found:
        return text
    whole, part, letter = found.groups()
    if part and letter.isupper():
        raise SettingsError(f"After --: {name} {text}: {letter} counts in powers of 1,024 and takes no decimals.")
    return str(round(float(whole + (part or "")) * _MULTIPLES[letter]))


def _adapter(text: str) -> tuple[str, str]:
    """(name, path) of NAME=PATH, or of a JSON object with `name` and `path` as vLLM writes it."""
    name, equals, path = text.partition("=")
    if text.startswith("{"):
        try:
            document = json.loads(text)
            name, equals, path = document.pop("name"), "=", document.pop("path")
            document.pop("base_model_name", None)  # what /v1/models tells beside it
        except (ValueError, KeyError, AttributeError, TypeError):
            document = {"": None}
        equals = "" if document or not isinstance(name, str) or not isinstance(path, str) else equals
    if not (name and equals and path):
        raise SettingsError(
            f"After --: --lora-modules {text}: expected NAME=DIRECTORY, such as legal=./adapters/legal."
        )
    return name, path


def _speculative(word: str, value: str) -> dict[str, Any]:
    """The fields that --speculative-config sets: a JSON object, or one field, as --speculative-config.method does."""
    name = word.partition("=")[0]
    _, dot, key = name.partition(".")
    try:
        document = json.loads(value)
    except ValueError:
        document = value
    if dot:
        return {key.replace("-", "_"): document}
    if not isinstance(document, dict):
        raise SettingsError(f"After --: {name} {value}: expected a JSON object.")
    return document


def adapters_named(words: list[str]) -> dict[str, str]:
    """Adapters as typed, NAME=DIRECTORY each. Raises SettingsError."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise SettingsError(
                f"flag --lora-modules {word!r}: expected NAME=DIRECTORY, such as legal=./adapters/legal."
            )
        if name in found:
            raise SettingsError(f"flag --lora-modules names {name!r} twice; each adapter needs a name of its own.")
        found[name] = path
    return found
