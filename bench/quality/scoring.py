"""One engine's pass over the held-out tokens: every piece asked of its server, one row per scored token on disk."""

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.client import pages
from bench.client.target import Target as Address
from bench.plans.tables import LEAST_PIECES, Quality
from bench.quality.asking import FORMS, Form, Told, Unanswered, ask
from bench.quality.texts import Piece, Texts, cut
from bench.run import quality as figures
from bench.run import store
from bench.target import Target


class CannotScore(Exception):
    """Why there is no quality of an engine: an outcome and a paragraph for the reader."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


def score(target: Target, asked: Quality, texts: Texts, out: Path, *, timeout_s: float) -> dict[str, Any]:
    """Ask `target` for every piece and write the rows to `out`; returns what run.json says of the pass.

    `repeat_kl` is the mean divergence, over the first piece, between two answers of the same server to the same
    request: what cannot be the quantization's. Raises CannotScore, and StorageError when the disk is full.
    """
    began = time.monotonic()
    to = _address(target)
    pieces = _pieces(target, to, asked, texts)
    _require_fit(target, pieces)
    form = _form(target, to, pieces[0], asked.top)
    told: list[list[Told]] = []
    for piece in [*pieces, pieces[0]]:
        if time.monotonic() - began > timeout_s:
            raise CannotScore("timeout", f"Quality: the pass did not end within cell_timeout_s = {timeout_s:g} s.")
        try:
            told.append(ask(target, to, form, piece.ids, asked.top)[piece.scored_from - 1 :])
        except Unanswered as why:
            raise _ended(target, f"Quality: piece {len(told) + 1}: {why}.") from why
    again = told.pop()
    rows = _rows(pieces, told)
    store.require_room(out)
    with store.explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, out, compression="zstd", use_dictionary=["text", "piece", "top_tokens"])
    pairs = zip(told[0], again, strict=True)
    return {
        "form": form,
        "top": asked.top,
        "pieces": len(pieces),
        "tokens_sha256": figures.tokens_sha256(rows),
        "repeat_kl": math.fsum(figures.divergence(one.top, two.top) for one, two in pairs) / len(again),
        "seconds": time.monotonic() - began,
    }


def _ended(target: Target, why: str) -> CannotScore:
    """How the server died, where it has; else that the pass failed, and why."""
    return CannotScore(*(target.failure() or ("failed", why)))


def _address(target: Target) -> Address:
    try:
        return target.address()
    except ValueError as error:
        raise CannotScore("failed", f"Quality: {error}") from error


def _pieces(target: Target, to: Address, asked: Quality, texts: Texts) -> list[Piece]:
    """The pieces by the server's own tokenizer."""
    route, path = target.dialect.completions, target.dialect.tokenize
    if route is None or not route.token_ids or path is None:
        raise CannotScore(
            "unsupported",
            "Quality is measured on token ids, so a server has to take them as a prompt of text completions, and to "
            "have a /tokenize; this one has not both.",
        )
    tokenize = partial(pages.tokens, to, path, target.model)
    try:
        pieces = cut(texts, tokenize, asked)
    except (OSError, ValueError, TypeError) as error:
        raise _ended(target, f"Quality: the server's tokenizer does not answer: {error}.") from error
    if len(pieces) < LEAST_PIECES:
        raise CannotScore("failed", f"Quality: the server's tokenizer made tokens of {len(pieces)} pieces only.")
    return pieces


def _require_fit(target: Target, pieces: list[Piece]) -> None:
    longest, room = max(len(piece.ids) for piece in pieces) + 1, target.max_model_len
    if room is not None and longest > room:
        raise CannotScore(
            "unsupported",
            f"Quality: pieces of {longest:,} tokens do not fit this engine's max_model_len = {room:,}; lower "
            "window_tokens in [quality], or raise max_model_len.",
        )


def _form(target: Target, to: Address, piece: Piece, top: int) -> Form:
    """The first way to ask that the server answers rightly."""
    said = []
    for form in FORMS:
        try:
            ask(target, to, form, piece.ids, top)
        except Unanswered as why:
            if target.failure():
                raise _ended(target, str(why)) from why
            said.append(f"{'echo with logprobs' if form == 'echo' else form}: {why}")
        else:
            return form
    raise CannotScore(
        "unsupported",
        f"Quality: this server does not say how likely it holds a prompt's tokens ({'; '.join(said)}). If it refuses "
        f"top = {top}, lower it in [quality], or start vLLM with --max-logprobs {top}.",
    )


def _rows(pieces: list[Piece], told: list[list[Told]]) -> pa.Table:
    scored = [
        (piece.text, number, place, piece.ids[place], one)
        for number, (piece, of_piece) in enumerate(zip(pieces, told, strict=True))
        for place, one in enumerate(of_piece, start=piece.scored_from)
    ]
    columns = {
        "text": [row[0] for row in scored],
        "piece": [row[1] for row in scored],
        "place": [row[2] for row in scored],
        "token": [row[3] for row in scored],
        "logprob": [row[4].logprob for row in scored],
        "top_tokens": [list(row[4].top) for row in scored],
        "top_logprobs": [list(row[4].top.values()) for row in scored],
    }
    return pa.table(columns, schema=figures.SCHEMA)
