"""Chat messages: of a request, which are sent as they are, and of a recorded conversation, which becomes requests."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from bench.prompts.entry import Entry, Malformed, Unusable, usable_text
from bench.prompts.fields import plain

Turns = Literal["first", "last", "all", "carried"]

_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "model": "assistant", "bot": "assistant", "functioncall": "assistant", "system": "system",
    "observation": "user", "functionresponse": "user", "tool": "user",
}  # fmt: skip
_MESSAGE_ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
_MEDIA_PARTS = {"image_url", "input_image", "image", "input_audio", "audio_url", "video_url", "image_embeds", "file"}


def recorded_messages(turns: list[Any]) -> list[dict[str, Any]]:
    """The turns of a recorded conversation as messages, whatever their keys are called."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        if isinstance(turn, str):
            messages.append({"role": "user", "content": turn})
            continue
        if not isinstance(turn, dict):
            raise Malformed(
                f"a turn of {str(turn)[:40]}: expected an object with `from` and `value`, or `role` and `content`"
            )
        said = turn.get("from") or turn.get("role") or ("user" if "text" in turn else None)
        text = next((turn[key] for key in ("value", "content", "text") if turn.get(key) is not None), "")
        if not isinstance(said, str) or not isinstance(text, (str, list)):
            raise Malformed("a turn without a speaker (`from` or `role`) or with a text that is none")
        role = _ROLES.get(plain(said))
        if role is None:
            raise Unusable(f"an unknown role {said[:30]!r} (known are {', '.join(sorted(_ROLES))})")
        messages.append({"role": role, "content": text})
    return messages


def conversation(messages: list[dict[str, Any]], rest: Entry, turns: Turns) -> Iterator[Entry]:
    """What was asked in a recorded conversation, with what had been said before it."""
    system = [message for message in messages[:1] if message["role"] in ("system", "developer")]
    lead = len(system)
    while lead < len(messages) and messages[lead]["role"] == "assistant":
        lead += 1  # an answer to nothing: parts of longer conversations begin so
    messages = system + messages[lead:]
    asked = [at for at, message in enumerate(messages) if message["role"] == "user"]
    if not asked:
        raise Unusable("no turn of a user")
    if turns == "carried":
        yield _carried(messages, lead=len(system), rest=rest, asked=len(asked))
        return
    chosen = {"first": asked[:1], "last": asked[-1:], "all": asked}[turns]
    for at in chosen:
        sent = checked_messages(messages[: at + 1])
        if not any(text.strip() for text in Entry("", messages=[sent[-1]]).texts()) and not has_media(sent):
            raise Unusable("an empty prompt")
        following = messages[at + 1] if at + 1 < len(messages) else {"role": "", "content": None}
        answer = following["content"] if following["role"] == "assistant" else None
        yield replace(
            rest,
            messages=sent,
            answer=answer if isinstance(answer, str) and answer.strip() else None,
            media=has_media(sent),
            turns=len(asked),
        )


def _carried(messages: list[dict[str, Any]], *, lead: int, rest: Entry, asked: int) -> Entry:
    """The conversation's turns without its answers, which the server is to give: the first, and those that follow."""
    if any(message["role"] in ("tool", "function") or message.get("tool_calls") for message in messages):
        raise Unusable("a conversation with tools, whose results fit the recorded answers alone")
    said: list[tuple[list[dict[str, Any]], str | None]] = []
    answered = True
    for message in checked_messages(messages)[lead:]:
        if message["role"] == "assistant":
            content = message["content"]
            said[-1] = said[-1][0], content if isinstance(content, str) and content.strip() else None
        elif answered:
            said.append(([message], None))
        else:
            said[-1][0].append(message)
        answered = message["role"] == "assistant"
    for turn, _ in said:
        if not any(text.strip() for text in Entry("", messages=turn).texts()) and not has_media(turn):
            raise Unusable("an empty prompt")
    first, *following = said
    sent = [*messages[:lead], *first[0]]
    media = has_media([message for turn, _ in said for message in turn])
    return replace(rest, messages=sent, answer=first[1], then=tuple(following), media=media, turns=asked)


def shaped(messages: Any) -> list[dict[str, Any]]:
    """The messages, which are some, and whose roles are known."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Malformed(f"messages = {str(messages)[:40]}: expected a list of objects with `role` and `content`")
    if not messages:
        raise Unusable("no messages")
    for message in messages:
        role = message.get("role")
        if not isinstance(role, str) or role not in _MESSAGE_ROLES:
            raise Unusable(f"an unknown role {str(role)[:30]!r} (known are {', '.join(sorted(_MESSAGE_ROLES))})")
    return messages


def checked_messages(messages: Any) -> list[dict[str, Any]]:
    """Messages that a server may take, as they are but for nulls and for parts that name their text `value`."""
    checked = []
    for message in shaped(messages):
        content = message.get("content")
        if isinstance(content, list):
            content = [_part(part) for part in content]
        elif content is not None and not isinstance(content, str):
            raise Malformed(f"content = {str(content)[:40]}: expected a text or a list of parts")
        checked.append({**{key: item for key, item in message.items() if item is not None}, "content": content})
    for text in Entry("", messages=checked).texts():
        if text.strip():
            usable_text(text, "messages")
    return checked


def _part(part: Any) -> dict[str, Any]:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise Malformed(f"a content part {str(part)[:40]}: expected an object with `type`")
    if "value" in part and part["type"] == "text":
        return {"type": "text", "text": part["value"]}
    if "value" in part or (part["type"] == "text" and not isinstance(part.get("text"), str)):
        raise Unusable(f"a content part of type {part['type'][:30]!r} that servers do not take")
    return {key: item for key, item in part.items() if item is not None}


def has_media(messages: list[dict[str, Any]]) -> bool:
    """Whether a message has pictures, sound or files among its parts."""
    parts = [part for message in messages if isinstance(message.get("content"), list) for part in message["content"]]
    return any(part.get("type") in _MEDIA_PARTS for part in parts)


def user_turns(messages: list[dict[str, Any]]) -> int:
    """How often a user speaks."""
    return sum(message["role"] == "user" for message in messages)
