"""What may not leave: marks in place of addresses, numbers and keys in the texts of a request. Pure.

These are patterns, no understanding: a name or an address in a sentence passes.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from gateway.clouds import Cloud

# Beside the texts these go: they may name a person.
PERSONAL = ("user", "metadata", "safety_identifier")
_TEXTS = ("messages", "prompt", "input", "suffix", "instructions", "prediction")


def _is_card(text: str) -> bool:
    digits = [int(one) for one in text if one.isdigit()][::-1]
    return sum(sum(divmod(2 * one, 10)) if place % 2 else one for place, one in enumerate(digits)) % 10 == 0


def _is_iban(text: str) -> bool:
    plain = text.replace(" ", "").upper()
    return int("".join(str(int(one, 36)) for one in plain[4:] + plain[:4])) % 97 == 1


# In this order: what is taken first is no longer there for the next.
_PATTERNS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "secret": (
        re.compile(
            r"\b(?:sk-[A-Za-z0-9_-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{20,}|xox[abprs]-[A-Za-z0-9-]{10,}"
            r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+|AIza[\w-]{30,})"
        ),
        lambda _: True,
    ),
    "email": (re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"), lambda _: True),
    "iban": (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), _is_iban),
    "card": (re.compile(r"\b\d(?:[ -]?\d){12,18}\b"), _is_card),
    "ip": (re.compile(r"\b(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\b"), lambda _: True),
    "phone": (
        re.compile(r"(?<![\w+])(?:\+\d{1,3}[ .-]?|\(?0)\(?\d{1,4}\)?(?:[ ./-]?\d{2,4}){2,5}(?!\w)"),
        lambda text: 8 <= sum(one.isdigit() for one in text) <= 15,
    ),
}


def redacted(document: Mapping[str, Any], cloud: Cloud) -> dict[str, Any]:
    """The request with marks such as [email] where the cloud's rules find something; as it was without rules."""
    if not cloud.redact and not cloud.redact_patterns:
        return dict(document)
    kept = {key: value for key, value in document.items() if key not in PERSONAL}
    return {key: _inside(value, cloud) if key in _TEXTS else value for key, value in kept.items()}


def _inside(value: Any, cloud: Cloud) -> Any:
    if isinstance(value, str):
        return value if value.startswith("data:") else _text(value, cloud)
    if isinstance(value, list):
        return [_inside(one, cloud) for one in value]
    if isinstance(value, dict):
        return {key: _inside(one, cloud) for key, one in value.items()}
    return value


def _text(text: str, cloud: Cloud) -> str:
    for number, pattern in enumerate(cloud.redact_patterns, 1):
        text = re.sub(pattern, f"[redacted {number}]", text)
    for kind, (known, is_one) in _PATTERNS.items():
        if kind in cloud.redact:
            text = known.sub(lambda hit, kind=kind, is_one=is_one: f"[{kind}]" if is_one(hit[0]) else hit[0], text)  # type: ignore[misc]
    return text
