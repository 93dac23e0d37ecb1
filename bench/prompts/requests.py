"""The requests of a load whose prompts come from a file: what is sent, how long it may become, and when it is due."""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.errors import PlanError
from bench.plans.conversations import told, with_turns
from bench.plans.loads import Lengths, Load
from bench.plans.workload import Vocabulary, draw, words
from bench.prompts.entry import Entry
from bench.prompts.reading import PromptFile, block_tokens, timed

DEFAULT_OUTPUT = Lengths(mean=128)
WHOLE_UP_TO_BYTES = 256 * 2**20  # a file up to this size is read to its end before a run begins
CHAT_TEMPLATE_TOKENS = 64  # what a chat template may add
_BYTES_PER_TOKEN = 3  # where nothing counts tokens: English has four to five bytes a token, Chinese three
_BLOCKS_FROM = 1_000
USUAL_BLOCK_TOKENS = 512
_SENT_BYTES_PER_TOKEN = 8  # a token id in a request's body


@dataclass(frozen=True)
class Requests:
    """What a load sends, in order: requests that are not measured, and those that are.

    `due_s` are the offsets of a trace's arrivals, `media` is a request with pictures, sound or files where there is
    one, and `said` is what a reader should know of the lengths: what did not fit, what was estimated.
    """

    warm: list[dict[str, Any]]
    measured: Iterable[dict[str, Any]]
    due_s: list[float] | None = None
    media: dict[str, Any] | None = None
    said: str | None = None


def open_file(load: Load) -> PromptFile:
    return PromptFile(Path(load.prompts_file or ""), load.column, load.turns)


def check(load: Load, count: int) -> tuple[Load, str]:
    """The load as its file makes it (a trace's number of requests and mean rate filled in), and a line about the file.

    `count` is how many requests the load needs at most. Raises PlanError for a file that is not usable; nothing has
    been written by then.
    """
    file = open_file(load)
    if load.arrival == "trace":
        arrivals = list(timed(file, speed=load.speed, seconds=load.seconds, requests=load.requests))
        if not arrivals:
            raise PlanError(f"{file.path}: no arrival falls into seconds = {load.seconds}.")
        _fits_in_memory(file.path, sum(entry.prompt_tokens or 0 for _, entry in arrivals))
        entries: Iterable[Entry] = (entry for _, entry in arrivals)
        load = _resolved(load, file.path, [offset_s for offset_s, _ in arrivals])
    else:
        whole = file.path.exists() and file.path.stat().st_size <= WHOLE_UP_TO_BYTES
        entries = file if whole else islice(file, count)
    requests = 0
    for entry in entries:
        if load.endpoint == "completions" and entry.messages is not None:
            raise PlanError(f'{file.path}: {entry.place}: has messages; endpoint = "completions" takes prompts only.')
        if load.endpoint == "chat" and isinstance(entry.prompt, list):
            raise PlanError(f'{file.path}: {entry.place}: has token ids, which endpoint = "chat" does not take.')
        if load.turns == "carried" and entry.messages is None:
            raise PlanError(
                f'{file.path}: {entry.place}: has a prompt; turns = "carried" needs recorded conversations, and asks '
                "their turns one after the other."
            )
        requests += 1
    said = f"{file.path.name}: {file.kind} ({file.container}), {requests:,} requests read"
    return load, said + (f"; skipped {why}" if (why := file.why_skipped()) else "")


def _resolved(load: Load, path: Path, due_s: list[float]) -> Load:
    mean_rps = float(f"{len(due_s) / (load.seconds or due_s[-1] or 1.0):.6g}")
    if load.rate_rps is not None and not math.isclose(load.rate_rps, mean_rps, rel_tol=1e-3):
        raise PlanError(
            f"{path}: rate_rps = {load.rate_rps:g}, but this trace's arrivals come at {mean_rps:g} requests/s at speed "
            f"= {load.speed:g}. Leave rate_rps out; `speed` changes the rate."
        )
    requests = len(due_s) if load.seconds is None else None
    return load.model_copy(update={"rate_rps": mean_rps, "requests": requests})


def _fits_in_memory(path: Path, tokens: int) -> None:
    need, room = 2 * _SENT_BYTES_PER_TOKEN * tokens, psutil.virtual_memory().available
    if need > room / 2:
        raise PlanError(
            f"{path}: the trace's prompts have {tokens:,} tokens; preparing them takes about {need / 2**30:.1f} GiB of "
            f"memory, and {room / 2**30:.1f} GiB are free. Take a part of it with requests = … or seconds = …."
        )


def requests(
    load: Load, warm: int, count: int, vocabulary: Vocabulary | None, *, repeat: int, max_model_len: int | None = None
) -> Requests:
    """The requests of a load with `scenario = "file"`: `warm` that are not measured, and the measured ones.

    Without a trace's times the file is sent in order, from the start again when it has fewer entries than are needed.
    An entry that does not fit `max_model_len` together with its answer is left out, or cut with `too_long = "cut"`;
    both are counted. Raises PlanError when nothing is left.
    """
    file = open_file(load)
    blocks = block_tokens(islice(open_file(load), _BLOCKS_FROM)) or USUAL_BLOCK_TOKENS
    maker = _Maker(load, vocabulary, repeat, max_model_len, blocks)
    due_s: list[float] | None = None
    if load.arrival == "trace":
        arrivals = list(timed(file, speed=load.speed, seconds=load.seconds, requests=load.requests))
        made = [(offset_s, body) for offset_s, entry in arrivals if (body := maker.body(entry)) is not None]
        due_s, measured = [offset_s for offset_s, _ in made], [body for _, body in made]
        # The trace's own prompts stay unseen by the server until they are due.
        last = (replace(entry, blocks=None) for _, entry in arrivals[-warm:] if warm)
        first = [body for entry in last if (body := maker.body(entry)) is not None]
    else:
        fitting = (body for entry in file if (body := maker.body(entry)) is not None)
        bodies = list(islice(fitting, warm + count))
        sent = list(islice(cycle(bodies), warm + count))
        first, measured = sent[:warm], sent[warm:]
        if load.turns == "carried":
            maker.turns_said = told(bodies, max_model_len)
    if not measured:
        raise PlanError(f"{file.path}: no entry fits a context of {max_model_len} tokens: {maker.said()}.")
    media = next((body for body in measured if body.pop("media", None)), None)
    return Requests(first, measured, due_s, media, maker.said())


def refusal(body: dict[str, Any], base_url: str, model: str, headers: dict[str, str]) -> str | None:
    """Why a server does not take a request with pictures, sound or files, in its own words; None when it does."""
    asked = {"model": model, "messages": body["messages"], **body.get("parameters", {}), "max_tokens": 1}
    try:
        answer = httpx.post(f"{base_url}/v1/chat/completions", json=asked, headers=headers, timeout=60, trust_env=False)
    except httpx.HTTPError as error:
        return f"no answer ({type(error).__name__}: {error})."
    if answer.status_code < 400:
        return None
    return f"HTTP {answer.status_code}: {' '.join(answer.text.split())[:300]}"


class _Maker:
    """Makes requests of entries, for one load, repeat and context; counts what did not fit."""

    def __init__(
        self, load: Load, vocabulary: Vocabulary | None, repeat: int, max_model_len: int | None, blocks: int
    ) -> None:
        self.load, self.vocabulary, self.limit, self.block_tokens = load, vocabulary, max_model_len, blocks
        self.too_long = self.estimated = 0
        self.turns_said: str | None = None
        self._lengths = random.Random(f"{load.seed}/output")
        self._thinking = random.Random(f"{load.seed}/think")
        self._seed = f"{load.seed}/{load.name}/{repeat}"
        self._rng = random.Random(self._seed)
        self._block = lru_cache(maxsize=65_536)(self._make_block)

    def body(self, entry: Entry) -> dict[str, Any] | None:
        """The request of an entry; None when it does not fit the context and is not to be cut."""
        endpoint = self.load.endpoint or ("completions" if entry.messages is None else "chat")
        output = self._output_tokens(entry)
        added = CHAT_TEMPLATE_TOKENS if endpoint == "chat" else 0 if entry.prompt_tokens else 1  # one begins a sequence
        if self.limit is not None and not self._fits(entry, self.limit - output - added):
            self.too_long += 1
            if self.load.too_long == "skip":
                return None
            output = max(1, min(output, self.limit // 2))
            entry = self._cut(entry, max(1, self.limit - output - added))
        made: dict[str, Any] = {"scenario": "file", "endpoint": endpoint, "max_tokens": output}
        if entry.parameters:
            made["parameters"] = entry.parameters
        if entry.messages is not None:
            made |= {"messages": entry.messages, **({"media": True} if entry.media else {})}
            return self._carried(entry, made) if self.load.turns == "carried" else made
        if entry.prompt_tokens is None:
            return {**made, "prompt": entry.prompt}
        return {**made, "prompt": self._synthetic(entry.blocks or (), entry.prompt_tokens, ids=endpoint != "chat")}

    def said(self) -> str | None:
        """What did not fit and was left out or cut, as a sentence's part; None when nothing was."""
        parts = [self.turns_said] if self.turns_said else []
        if self.too_long:
            what = "skipped" if self.load.too_long == "skip" else "cut"
            parts.append(f"{what} {self.too_long} that with their answers do not fit a context of {self.limit} tokens")
        if self.estimated:
            parts.append(f"lengths of {self.estimated} estimated from their bytes: no tokenizer is at hand")
        return "; ".join(parts) or None

    def _carried(self, entry: Entry, made: dict[str, Any]) -> dict[str, Any]:
        """The first turn with those that follow; the answers between them are the server's own."""
        turns = [(said, self._said_tokens(said), self._answer_tokens(answer)) for said, answer in entry.then]
        room = None
        if self.limit is not None:
            room = self.limit - CHAT_TEMPLATE_TOKENS - self._said_tokens(entry.messages or []) - made["max_tokens"]
        return with_turns(made, turns, room, self.load, self._thinking)

    def _said_tokens(self, messages: list[dict[str, Any]]) -> int:
        return sum(self._tokens(text) for text in Entry("", messages=messages).texts())

    def _output_tokens(self, entry: Entry) -> int:
        return entry.output_tokens or self._answer_tokens(entry.answer)

    def _answer_tokens(self, answer: str | None) -> int:
        """As long as the recorded answer, where there is one and the load does not say otherwise."""
        if answer is not None and self.load.output_tokens is None:
            return max(1, self._tokens(answer))
        return draw(self.load.output_tokens or DEFAULT_OUTPUT, self._lengths)

    def _tokens(self, text: str) -> int:
        counted = self.vocabulary.count(text) if self.vocabulary else None
        if counted is None:
            self.estimated += 1
            return math.ceil(len(text.encode()) / _BYTES_PER_TOKEN)
        return counted

    def _fits(self, entry: Entry, room: int) -> bool:
        if entry.prompt_tokens is not None:
            return entry.prompt_tokens <= room
        if isinstance(entry.prompt, list):
            return len(entry.prompt) <= room
        texts = list(entry.texts())
        if sum(len(text.encode()) for text in texts) <= room:
            return True  # no tokenizer makes more tokens than there are bytes
        return sum(self._tokens(text) for text in texts) <= room

    def _cut(self, entry: Entry, room: int) -> Entry:
        """The entry in `room` tokens: a prompt's beginning; a chat without its oldest turns, its end cut."""
        if entry.prompt_tokens is not None:
            return replace(entry, prompt_tokens=min(entry.prompt_tokens, room))
        if isinstance(entry.prompt, list):
            return replace(entry, prompt=entry.prompt[:room])
        if isinstance(entry.prompt, str):
            return replace(entry, prompt=self._beginning(entry.prompt, room))
        messages = list(entry.messages or ())
        oldest = 1 if messages[0]["role"] in ("system", "developer") else 0
        while len(messages) > oldest + 1 and not self._fits(replace(entry, messages=messages), room):
            del messages[oldest]
            while len(messages) > oldest + 1 and messages[oldest]["role"] != "user":
                del messages[oldest]
        last, rest = messages[-1], messages[:-1]
        left = room - sum(self._tokens(text) for text in Entry("", messages=rest).texts())
        if isinstance(last["content"], str):
            last = {**last, "content": self._beginning(last["content"], max(1, left))}
        return replace(entry, messages=[*rest, last])

    def _beginning(self, text: str, tokens: int) -> str:
        if self.vocabulary is not None and self.vocabulary.tokenizer is not None:
            return self.vocabulary.beginning(text, tokens)
        while (over := self._tokens(text) / tokens) > 1:
            text = text[: max(1, int(len(text) / over) - 1)]
            if len(text) == 1:
                break
        return text

    def _synthetic(self, blocks: tuple[int | str, ...], size: int, *, ids: bool) -> str | list[int]:
        """A prompt of `size` tokens whose blocks have the contents that their names stand for; random after them."""
        if ids and self.vocabulary is not None and self.vocabulary.token_ids:
            shared = [token for block in blocks[: -(-size // self.block_tokens)] for token in self._block(block)][:size]
            return shared + self._rng.choices(self.vocabulary.ordinary_ids, k=size - len(shared))
        parts, left = [], size
        for block in blocks:
            if left > 0:
                parts.append(self._text(random.Random(f"{self._seed}/block/{block}"), min(left, self.block_tokens)))
                left -= self.block_tokens
        if left > 0:
            parts.append(self._text(self._rng, left))
        return " ".join(parts)

    def _make_block(self, name: int | str) -> list[int]:
        vocabulary = self.vocabulary
        ids = vocabulary.ordinary_ids if vocabulary else ()
        return random.Random(f"{self._seed}/block/{name}").choices(ids, k=self.block_tokens)

    def _text(self, rng: random.Random, tokens: int) -> str:
        return self.vocabulary.text(rng, tokens) if self.vocabulary else words(rng, tokens)
