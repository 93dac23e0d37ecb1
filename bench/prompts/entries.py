"""One record of a prompt file → what may be asked of a server: messages, a prompt, or, in a trace, only its length."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from bench.prompts import fields
from bench.prompts.entry import Entry, Malformed, Unusable, usable_text
from bench.prompts.fields import arrival_s, by_name, count
from bench.prompts.messages import (
    Turns,
    checked_messages,
    conversation,
    has_media,
    recorded_messages,
    shaped,
    user_turns,
)

# What a request may say beside its prompt and goes to the server as it is; everything else of a line stays here.
_PARAMETERS = frozenset((
    "tools", "tool_choice", "parallel_tool_calls", "response_format", "stop", "temperature", "top_p", "top_k", "min_p",
    "seed", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "logprobs", "top_logprobs",
    "reasoning_effort", "chat_template_kwargs", "min_tokens",
))  # fmt: skip
_OURS = frozenset(["model", "stream", "stream_options", "messages", "prompt", "max_tokens", "max_completion_tokens"])
_ENDPOINTS = {"/v1/chat/completions": "chat", "/v1/completions": "completions"}


# What the records of a file are, in words.
LINES = "plain prompts"
BATCH = "OpenAI batch requests"
RECORDED = "recorded conversations"
PROMPTS = "prompts and messages"
TRACE = "a trace"
_PLACEHOLDERS = ("images", "image", "videos", "video", "audios", "audio")


@lru_cache(maxsize=4096)
def _conversation_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    names = by_name(keys)
    return tuple(names[key] for key in fields.CONVERSATION_KEYS if key in names)


def kind(value: Any, column: str | None = None) -> str:
    """What a record is, in words; records of different kinds are not mixed in one file. Raises Malformed."""
    if isinstance(value, str):
        return LINES
    if not isinstance(value, dict):
        raise Malformed(f"{str(value)[:40]}: expected a JSON object with `prompt` or `messages`")
    if column is not None:
        if column not in value:
            raise Malformed(f"no column `{column}`; there are {_list(value)}")
        return f"prompts in column `{column}`"
    keys = tuple(value)
    if "body" in value and isinstance(value["body"], dict):
        return BATCH
    if any(isinstance(value[key], list) for key in _conversation_keys(keys)):
        return RECORDED
    names = by_name(keys)
    if "messages" in names or not names.keys().isdisjoint(fields.PROMPT_KEYS):
        return PROMPTS
    if not names.keys().isdisjoint(fields.PROMPT_LENGTH_KEYS):
        return TRACE
    if absent := next((key for key in _conversation_keys(keys) if value[key] is None), None):
        raise Unusable(f"`{absent}` is null")
    raise Malformed(
        f"no prompt in it: it has {_list(value)}. Expected `prompt`, `messages`, `conversations`, lengths such as "
        '`input_length`, or the name of the column that holds the prompt (column = "…", --column)'
    )


def _list(value: dict[str, Any]) -> str:
    return ", ".join(f"`{str(key)[:30]}`" for key in list(value)[:8]) or "nothing"


def entries(value: Any, what: str, place: str, *, column: str | None, turns: Turns, table: bool) -> Iterator[Entry]:
    """The requests of one record, whose kind is `what`: one, or several of a recorded conversation (`turns = "all"`).

    Raises Unusable (to be skipped) and Malformed (the file is not what it seems).
    """
    if isinstance(value, str):
        yield Entry(place, prompt=usable_text(value, "the line"))
        return
    names = by_name(tuple(value))

    def get(*keys: str) -> Any:
        for key in keys:
            if key in names and (found := value[names[key]]) is not None:
                return found
        return None

    rest = Entry(
        place,
        output_tokens=count(get(*fields.OUTPUT_LENGTH_KEYS), "output length"),
        arrival_s=arrival_s(value, names, table),
    )
    if rest.output_tokens == 0:
        raise Unusable("an output length of 0")
    if what == TRACE:
        yield _traced(get, rest)
    elif what == BATCH:
        yield _batch(value, rest)
    elif what == RECORDED:
        said = next(value[key] for key in _conversation_keys(tuple(value)) if isinstance(value[key], list))
        messages = recorded_messages(said)
        if isinstance(system := get(*fields.SYSTEM_KEYS), str) and system.strip():
            messages.insert(0, {"role": "system", "content": system})
        yield from conversation(messages, rest, turns)
    elif column is None and get("messages") is not None:
        yield from _messages(value, get, rest, turns)
    else:
        yield _prompt(value, column, get, rest)


def _batch(value: dict[str, Any], rest: Entry) -> Entry:
    body, url = value["body"], value.get("url") or ("/v1/chat/completions" if "messages" in value["body"] else "")
    if not isinstance(url, str) or url not in _ENDPOINTS:
        raise Unusable(f"asks {str(url)[:60] or 'no address'}, not for a completion")
    if body.get("n") not in (None, 1):
        raise Unusable("asks for several answers (n)")
    limit = count(body.get("max_completion_tokens", body.get("max_tokens")), "max_tokens")
    if limit == 0:
        raise Unusable("an output length of 0")
    more = {key: value for key, value in body.items() if key not in _OURS and key != "n" and value is not None}
    rest = replace(rest, output_tokens=limit, parameters=more)
    if _ENDPOINTS[url] == "chat":
        messages = body.get("messages")
        return replace(rest, messages=checked_messages(messages), media=has_media(messages), turns=user_turns(messages))
    return replace(rest, prompt=_own_prompt(body.get("prompt")))


def _messages(value: dict[str, Any], get: Any, rest: Entry, turns: Turns) -> Iterator[Entry]:
    """Chat messages: sent as they are, unless they end with an answer, which makes them a recorded conversation."""
    messages = shaped(get("messages"))
    if any(value.get(key) for key in _PLACEHOLDERS):
        raise Unusable("pictures or sounds in files of their own, which are not read (content parts are sent)")
    more = {key: item for key, item in value.items() if key in _PARAMETERS and item is not None}
    rest = replace(rest, parameters=more)
    if messages[-1]["role"] == "assistant":
        yield from conversation(messages, rest, turns)
    else:
        checked = checked_messages(messages)
        yield replace(rest, messages=checked, media=has_media(checked), turns=user_turns(checked))


def _prompt(value: dict[str, Any], column: str | None, get: Any, rest: Entry) -> Entry:
    asked = value.get(column) if column is not None else get(*fields.PROMPT_KEYS)
    more = {key: item for key, item in value.items() if key in _PARAMETERS and key != column and item is not None}
    rest = replace(rest, parameters=more)
    answer = get(*fields.ANSWER_KEYS)
    if isinstance(answer, str) and column is None and answer is not asked:
        rest = replace(rest, answer=answer)
    if isinstance(asked, list) and asked and isinstance(asked[0], dict):
        return replace(rest, messages=checked_messages(asked), media=has_media(asked), turns=user_turns(asked))
    prompt = _own_prompt(asked)
    if isinstance(prompt, str) and column is None:
        about = next((text for text in (get(key) for key in fields.MORE_KEYS) if isinstance(text, str) and text), None)
        if get("instruction") is asked and about is not None:
            prompt = f"{prompt}\n\n{usable_text(about, 'context')}"
        if isinstance(system := get(*fields.SYSTEM_KEYS), str) and system.strip():
            both = [{"role": "system", "content": usable_text(system, "system")}, {"role": "user", "content": prompt}]
            return replace(rest, messages=both)
    return replace(rest, prompt=prompt)


def _traced(get: Any, rest: Entry) -> Entry:
    tokens = count(get(*fields.PROMPT_LENGTH_KEYS), "prompt length")
    if tokens is None:
        raise Unusable("no prompt length")
    if tokens == 0:
        raise Unusable("a prompt length of 0")
    blocks = get("hashids")
    if blocks is not None and not (isinstance(blocks, list) and all(isinstance(block, (int, str)) for block in blocks)):
        raise Malformed(f"hash_ids = {str(blocks)[:40]}: expected a list of numbers or names")
    return Entry(
        rest.place,
        prompt_tokens=tokens,
        output_tokens=rest.output_tokens,
        arrival_s=rest.arrival_s,
        blocks=None if blocks is None else tuple(blocks),
    )


def _own_prompt(asked: Any) -> str | list[int]:
    if isinstance(asked, list) and len(asked) == 1 and isinstance(asked[0], (str, list)):
        asked = asked[0]
    if isinstance(asked, list) and asked and {type(token) for token in asked} == {int}:
        if min(asked) < 0:
            raise Malformed(f"a token id of {min(asked)}: ids are 0 or more")
        return asked
    if asked is None or asked == []:
        raise Unusable("an empty prompt")
    if isinstance(asked, list) and isinstance(asked[0], (str, list)):
        raise Unusable("several prompts in one request")
    if not isinstance(asked, str):
        raise Malformed(f"prompt = {str(asked)[:40]}: expected a text or a list of token ids")
    return usable_text(asked, "prompt")
