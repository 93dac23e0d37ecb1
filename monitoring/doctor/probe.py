"""Asks a model for a few words, and a hooked server for one hidden state.

Not for log-probabilities, which would tell more: the first request for them makes vLLM compile the kernel that ranks
them, and every other request stands still meanwhile, for eleven seconds on a small machine.
"""

import json
from typing import Any

from monitoring.doctor.diagnosis import Probe
from monitoring.scrape import http_exchange
from monitoring.scrape.canary import refusal

PROMPT = "The capital of France is"
WORDS = 8


def probe(
    server: str, *, model: str | None = None, api_key_env: str | None = None, deadline_s: float, with_states: bool
) -> Probe:
    """What the model answers now; never raises for what the server does. Raises SettingsError for a bad key name."""
    headers = http_exchange.key_headers(api_key_env)

    def ask(method: str, path: str, document: Any = None) -> Any:
        answer = http_exchange.exchange(
            method, server + path, deadline_s=deadline_s, headers=headers, document=document
        )
        if answer.status != 200:
            raise http_exchange.NoAnswer(refusal(answer).reason or f"HTTP {answer.status}")
        return json.loads(answer.text)

    text, text_problem, token_count = None, None, None
    try:
        name = model or ask("GET", "/v1/models")["data"][0]["id"]
        document = {"model": name, "prompt": PROMPT, "max_tokens": WORDS, "temperature": 0, "ignore_eos": True}
        answer = ask("POST", "/v1/completions", document)
        text = str(answer["choices"][0]["text"])
        usage = answer.get("usage")
        count = usage.get("completion_tokens") if isinstance(usage, dict) else None
        token_count = count if isinstance(count, int) else None
    except http_exchange.NoAnswer as error:
        text_problem = str(error)
    except (ValueError, LookupError, TypeError, RecursionError):
        text_problem = "the answer to a completion has no text"
    if not with_states:
        return Probe(text, token_count, text_problem)
    try:
        states = ask("POST", "/v1/hidden_states", {"prompts": [PROMPT], "layer": -2})
        return Probe(text, token_count, text_problem, state=tuple(float(value) for value in states["hidden_states"][0]))
    except http_exchange.NoAnswer as error:
        return Probe(text, token_count, text_problem, state_problem=str(error))
    except (ValueError, LookupError, TypeError, RecursionError):
        return Probe(text, token_count, text_problem, state_problem="the answer has no hidden states")
