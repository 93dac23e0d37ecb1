"""Deterministic workloads: a load, a tokenizer and a seed give the same prompts on every machine.

Prompts are random tokens (exact lengths, nothing for a prefix cache to find) unless the scenario is a chat, which needs
text. A shared prefix is the same for all prompts of a load. A user's own prompts are read in bench/prompts.
"""

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bench.errors import PlanError
from bench.plans.conversations import with_turns
from bench.plans.loads import Lengths, Load

# Prompt and output lengths, share of a common prefix, endpoint, for the traffic that each name stands for: a chat with
# a system prompt; a bare completion; an answer over retrieved documents; a mix of the three.
_SCENARIOS: dict[str, tuple[Lengths, Lengths, float, str]] = {
    "chat": (
        Lengths(kind="lognormal", mean=256, sigma=0.6, low=16),
        Lengths(kind="lognormal", mean=128, sigma=0.6, low=8),
        0.25,
        "chat",
    ),
    "completion": (Lengths(mean=128), Lengths(mean=64), 0.0, "completions"),
    "retrieval": (
        Lengths(kind="lognormal", mean=1500, sigma=0.4, low=256),
        Lengths(kind="uniform", low=32, high=128),
        0.2,
        "completions",
    ),
    "hidden_states": (Lengths(mean=128), Lengths(mean=1), 0.0, "hidden_states"),
    "conversation": (
        Lengths(kind="lognormal", mean=128, sigma=0.6, low=8),
        Lengths(kind="lognormal", mean=128, sigma=0.6, low=8),
        0.25,
        "chat",
    ),
}
_TURNS = Lengths(kind="uniform", low=2, high=6)
_MIX = {"chat": 0.60, "completion": 0.25, "retrieval": 0.15}
_WORDS = (
    "the a of to and in is it you that he was for on are with as his they be at one have this from or had by hot but"
    " some what there we can out other were all your when up use word how said an each she which do their time if will"
    " way about many then them would write like so these her long make thing see him two has look more day could go"
).split()
_PREFIX_TOKENS = 65_536
_LONGEST_TOKENS = 10_000_000  # a lognormal has no upper end


@dataclass(frozen=True)
class Vocabulary:
    """What prompts are made from: ids that are ordinary tokens, and the tokenizer for text.

    Of a server elsewhere the tokenizer itself is not at hand; `tokens_per_word` then says how long a text becomes.
    `token_ids`: whether the server takes prompts as token ids, which alone have exact lengths.
    """

    ordinary_ids: tuple[int, ...]
    tokenizer: Tokenizer | None = None
    tokens_per_word: float = 1.0
    tokenize: Callable[[str], list[int]] | None = None
    token_ids: bool = True

    @classmethod
    def load(cls, directory: Path) -> "Vocabulary":
        """From a model directory's tokenizer.json. Raises PlanError when there is none."""
        source = directory / "tokenizer.json"
        if not source.exists():
            raise PlanError(f"{source}: no such file; prompts by token count need the model's tokenizer.json.")
        tokenizer = Tokenizer.from_file(str(source))
        special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        special |= _ids_with_a_meaning(directory / "config.json")
        return cls(tuple(i for i in range(tokenizer.get_vocab_size()) if i not in special), tokenizer)

    @classmethod
    def sampled(cls, tokenize: Callable[[str], list[int]]) -> "Vocabulary":
        """From a server's own `tokenize`: the ids that common words become, and how many a word takes."""
        text = words(random.Random("vocabulary"), 2000)
        ids = tokenize(text)
        ordinary = sorted(set(ids[1:]))  # the first may be a start-of-sequence token
        return cls(tuple(ordinary), None, len(ids) / 2000, tokenize)

    def count(self, text: str) -> int | None:
        """How many tokens a text has, by the tokenizer or the server's own; None when neither is there or answers."""
        if self.tokenizer is not None:
            return len(self.tokenizer.encode(text, add_special_tokens=False).ids)
        try:
            return None if self.tokenize is None else len(self.tokenize(text))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def beginning(self, text: str, tokens: int) -> str:
        """The beginning of a text, of at most `tokens` tokens by the tokenizer."""
        if self.tokenizer is None:
            raise ValueError("only a tokenizer can cut a text")
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return text if len(encoding.ids) <= tokens else text[: encoding.offsets[tokens - 1][1]]

    def spoken(self, *, token_ids: bool) -> "Vocabulary":
        """The same for a server that takes token ids, or does not."""
        return replace(self, token_ids=token_ids)

    def text(self, rng: random.Random, tokens: int) -> str:
        """English words that encode to `tokens` tokens, rarely to one or two fewer; about so without tokenizer."""
        if self.tokenizer is None:
            return words(rng, max(1, round(tokens / self.tokens_per_word)))
        ids = self.tokenizer.encode(words(rng, tokens), add_special_tokens=False).ids
        for cut in range(tokens, max(tokens - 8, 0), -1):
            text: str = self.tokenizer.decode(ids[:cut])
            if len(self.tokenizer.encode(text, add_special_tokens=False).ids) <= tokens:
                return text
        return str(self.tokenizer.decode(ids[:tokens]))


def _ids_with_a_meaning(config: Path) -> set[int]:
    """The ids that start, end or pad a sequence, as the model's config.json names them."""
    try:
        document = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    found: set[int] = set()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = document.get(name)
        found |= set(value) if isinstance(value, list) else {value} - {None}
    return found


def words(rng: random.Random, count: int) -> str:
    """`count` random common words; without a tokenizer, a word stands for a token."""
    return " ".join(rng.choices(_WORDS, k=count))


def draw(lengths: Lengths, rng: random.Random) -> int:
    """One token count from the distribution, at least `low` and at most `high`."""
    match lengths.kind:
        case "fixed":
            value = lengths.mean or 0.0
        case "uniform":
            value = rng.randint(lengths.low, lengths.high or lengths.low)
        case "lognormal":
            # mean of a lognormal = exp(mu + sigma²/2), so that `mean` is the mean that a reader expects
            value = rng.lognormvariate(math.log(lengths.mean or 1.0) - lengths.sigma**2 / 2, lengths.sigma)
    whole = round(min(value, _LONGEST_TOKENS))
    return max(lengths.low, min(whole, lengths.high or whole))


def prompts(
    load: Load, count: int, vocabulary: Vocabulary | None, *, repeat: int, max_model_len: int | None = None
) -> Iterator[dict[str, Any]]:
    """`count` requests of a load, in sending order: scenario, endpoint, what is asked, and max_tokens for completions.

    The same load, repeat and tokenizer give the same requests. Repeats differ, so that a prefix cache still warm from
    the last repeat finds nothing but the shared prefix. A length that does not fit `max_model_len` is cut to it.
    Without a vocabulary, lengths count words.
    """
    rng = random.Random(f"{load.seed}/{load.name}/{repeat}")
    prefix_rng = random.Random(f"{load.seed}/prefix")
    prefix_words = words(prefix_rng, _PREFIX_TOKENS).split()
    prefix_ids = prefix_rng.choices(vocabulary.ordinary_ids, k=_PREFIX_TOKENS) if vocabulary else []

    def plain(size: int, shared: int) -> str | list[int]:
        if vocabulary and vocabulary.token_ids:
            return prefix_ids[:shared] + rng.choices(vocabulary.ordinary_ids, k=size - shared)
        a_word = vocabulary.tokens_per_word if vocabulary else 1.0
        same = round(shared / a_word)
        return " ".join([*prefix_words[:same], words(rng, max(1, round(size / a_word) - same))])

    if load.scenario == "hidden_states":
        yield from _asking_states(load, count, rng, plain, max_model_len)
        return
    for _ in range(count):
        name = rng.choices(list(_MIX), list(_MIX.values()))[0] if load.scenario == "mixed" else load.scenario
        default_prompt, default_output, default_share, endpoint = _SCENARIOS[name]
        share = default_share if load.shared_prefix_share is None else load.shared_prefix_share
        size = draw(load.prompt_tokens or default_prompt, rng)
        output = draw(load.output_tokens or default_output, rng)
        if max_model_len is not None:
            output = max(1, min(output, max_model_len // 2))
            # a chat template adds some tokens of its own
            size = max(1, min(size, max_model_len - output - (64 if endpoint == "chat" else 0)))
        shared = min(round(size * share), _PREFIX_TOKENS)
        body: dict[str, Any] = {"scenario": name, "endpoint": endpoint, "max_tokens": output}
        if endpoint == "chat":
            # the same seed each time: a shorter system prompt is the beginning of a longer one
            same = random.Random(f"{load.seed}/system")
            system = vocabulary.text(same, shared) if vocabulary else " ".join(prefix_words[:shared])
            user = vocabulary.text(rng, size - shared) if vocabulary else words(rng, size - shared)
            body["messages"] = [{"role": "system", "content": system}] if shared else []
            body["messages"].append({"role": "user", "content": user})
        else:
            body["prompt"] = plain(size, shared)
        if name == "conversation":
            sizes = [
                (draw(load.prompt_tokens or default_prompt, rng), draw(load.output_tokens or default_output, rng))
                for _ in range(draw(load.conversation_turns or _TURNS, rng) - 1)
            ]
            turns = (
                (
                    [{"role": "user", "content": vocabulary.text(rng, said) if vocabulary else words(rng, said)}],
                    said,
                    out,
                )
                for said, out in sizes
            )
            room = None if max_model_len is None else max_model_len - 64 - size - output
            body = with_turns(body, turns, room, load, rng)
        yield body


def _asking_states(
    load: Load, count: int, rng: random.Random, plain: Callable[[int, int], str | list[int]], max_model_len: int | None
) -> Iterator[dict[str, Any]]:
    lengths, _, share, endpoint = _SCENARIOS["hidden_states"]
    share = share if load.shared_prefix_share is None else load.shared_prefix_share
    asked = {"layers": load.layers or (-2,), "pooling": load.pooling or "last"}
    for _ in range(count):
        sizes = [draw(load.prompt_tokens or lengths, rng) for _ in range(load.prompts_per_request or 1)]
        if max_model_len is not None:
            sizes = [min(size, max_model_len - 1) for size in sizes]  # the engine generates one token
        prompts = [plain(size, min(round(size * share), _PREFIX_TOKENS)) for size in sizes]
        yield {"scenario": "hidden_states", "endpoint": endpoint, "prompts": prompts, **asked}
