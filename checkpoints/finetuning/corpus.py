"""A user's text for fine-tuning: read, checked, and cut into windows to train on and windows held out."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.errors import BadText
from inputs import files

HELD_OUT_ONE_IN = 10
LEAST_WINDOWS = 20  # two of them held out: with fewer, before and after cannot be told apart
_RUN_TOKENS = 16
_LARGEST_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Corpus:
    """Windows of token ids, all of one length (one more with the model's start token).

    `heldout_seen_share` is the share of the held-out windows' runs of 16 tokens that also stand in the training text: a
    text that repeats itself flatters the perplexity after training.
    """

    training: list[list[int]]
    heldout: list[list[int]]
    tokens: int
    heldout_seen_share: float
    sha256: str


def read(path: Path) -> str:
    """Return a UTF-8 text file's content. Raises BadText: missing, empty, no text, or larger than 2 GiB."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise BadText(f"--text {path} is larger than 2 GiB, which is read in one piece. Train on a part of it.")
        raw = files.read_bytes(path, limit_bytes=_LARGEST_BYTES)
    except OSError as error:
        raise BadText(f"--text {path} cannot be read: {error.strerror}. Name a text file in UTF-8.") from None
    if not raw.strip():
        raise BadText(f"--text {path} is empty; there is nothing to train on.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadText(
            f"--text {path} is not text in UTF-8 (byte {error.start} is {raw[error.start]:#04x}). Convert it, e.g. "
            "with `iconv -t utf-8`; a PDF or an archive has to become plain text first."
        ) from None
    if "\0" in text:
        raise BadText(f"--text {path} holds zero bytes, so it is a binary file and no text.")
    return text


def windows(tokenizer: Any, text: str, window_tokens: int) -> Corpus:
    """Cut a text into windows of `window_tokens`, every tenth held out; what is left over at the end is not used.

    Each begins with the tokenizer's start token, where it has one. Raises BadText when the text is too short.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    count = len(ids) // window_tokens
    if count < LEAST_WINDOWS:
        most = len(ids) // LEAST_WINDOWS
        advice = f"use --window-tokens {most} or less, or " if most >= 8 else ""
        raise BadText(
            f"The text has {len(ids):,} tokens, which make {count} windows of {window_tokens}; at least "
            f"{LEAST_WINDOWS} are needed, a tenth of which is held out. To train on it, {advice}give a longer text."
        )
    begin = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    cut = [ids[number * window_tokens : (number + 1) * window_tokens] for number in range(count)]
    heldout = cut[HELD_OUT_ONE_IN - 1 :: HELD_OUT_ONE_IN]
    training = [window for number, window in enumerate(cut) if (number + 1) % HELD_OUT_ONE_IN]
    return Corpus(
        training=[begin + window for window in training],
        heldout=[begin + window for window in heldout],
        tokens=len(ids),
        heldout_seen_share=seen_share(training, heldout),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


def seen_share(training: list[list[int]], heldout: list[list[int]], run: int = _RUN_TOKENS) -> float:
    """Return the share of the held-out windows' runs of `run` tokens that also occur inside a training window."""
    known = {hash(tuple(window[at : at + run])) for window in training for at in range(len(window) - run + 1)}
    asked = [hash(tuple(window[at : at + run])) for window in heldout for at in range(len(window) - run + 1)]
    return sum(each in known for each in asked) / len(asked) if asked else 0.0
