"""One request of a prompt file, and why a record may not become one."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


class Unusable(Exception):
    """Why a record cannot be sent; it is counted and left out. The file stays usable."""


class Malformed(Exception):
    """Why a record is not what its file seems to be; the file is refused."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One request, as the file has it. Exactly one of `messages`, `prompt` and `prompt_tokens` is there.

    `output_tokens` is how many tokens the file asks for, or its trace had; `answer` the answer that was recorded, which
    says the same with a tokenizer. `arrival_s` counts from wherever the file counts. `blocks` name the contents of the
    prompt's parts: equal names, equal tokens. `parameters` go into the request's body as they are. `then` are the turns
    that follow in a conversation which carries the server's own answers on: what is said, and the recorded answer.
    """

    place: str
    messages: list[dict[str, Any]] | None = None
    prompt: str | list[int] | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    answer: str | None = None
    arrival_s: float | None = None
    blocks: tuple[int | str, ...] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    media: bool = False
    turns: int = 1
    then: tuple[tuple[list[dict[str, Any]], str | None], ...] = ()

    def texts(self) -> Iterator[str]:
        """All text that is sent as prompt."""
        if isinstance(self.prompt, str):
            yield self.prompt
        for message in self.messages or ():
            content = message.get("content")
            if isinstance(content, str):
                yield content
            for part in content if isinstance(content, list) else ():
                if isinstance(part.get("text"), str):
                    yield part["text"]


def usable_text(text: str, what: str) -> str:
    """The text, which is some and can be sent. Raises Unusable."""
    if not text.strip():
        raise Unusable("an empty prompt")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unusable(f"half a surrogate pair in {what}: no text of Unicode") from None
    return text
