"""Held-out texts as people have them, and the pieces that are cut from them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.errors import PlanError
from bench.plans.tables import Quality
from bench.quality.texts import Piece, Texts, cut, parts, read

# The first lines of WikiText-2's test file as its authors publish it: plain text with blank lines and headings.
WIKITEXT = " \n = Robert Boulter = \n \n Robert Boulter is an English film , television and theatre actor . \n \n"


def spelled(text: str, *, special: bool = False) -> list[int]:
    return [1] * special + [ord(letter) for letter in text]


def bare(text: str, *, special: bool = False) -> list[int]:
    return [ord(letter) for letter in text]


def test_plain_text_is_one_text_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "wiki.test.raw").write_text(WIKITEXT)
    (tmp_path / "book.txt").write_bytes(b"\xef\xbb\xbf" + "[1] É\r\nline\n\n".encode())
    (tmp_path / "wiki.txt.gz").write_bytes(gzip.compress(WIKITEXT.encode()))
    assert read(tmp_path / "wiki.test.raw") == Texts("wiki.test.raw", (WIKITEXT,))
    assert read(tmp_path / "book.txt").texts == ("[1] É\r\nline\n\n",)
    assert read(tmp_path / "wiki.txt.gz").texts == (WIKITEXT,)


def test_records_are_a_text_each(tmp_path: Path) -> None:
    # C4 and The Pile: JSON lines with `text` beside other keys; The Pile's is gzipped here.
    lines = [{"text": "one", "timestamp": "2019-04-25T12:57:54Z", "url": "https://a"}, {"text": " "}, {"text": "two"}]
    (tmp_path / "c4.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "pile.jsonl.gz").write_bytes(gzip.compress((tmp_path / "c4.jsonl").read_bytes()))
    # WikiText on the hub: Parquet with a column `text`, many of whose rows are empty.
    pq.write_table(pa.table({"text": ["", " = Robert Boulter = \n", ""]}), tmp_path / "test-00000-of-00001.parquet")
    # Alpaca: a JSON array of `instruction`, `input`, `output`.
    (tmp_path / "alpaca.json").write_text(json.dumps([{"instruction": "Name a colour.", "input": "", "output": "Red"}]))
    (tmp_path / "rows.csv").write_text('id,text\n1,"a, b"\n2,c\n')
    assert read(tmp_path / "c4.jsonl").texts == ("one", "two")
    assert read(tmp_path / "pile.jsonl.gz").texts == ("one", "two")
    assert read(tmp_path / "test-00000-of-00001.parquet").texts == (" = Robert Boulter = \n",)
    assert read(tmp_path / "alpaca.json").texts == ("Name a colour.",)
    assert read(tmp_path / "rows.csv").texts == ("a, b", "c")


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"caf\xe9 au lait", "not text in UTF-8 .*at byte 3.*iconv"),
        ("a.txt", "Bär".encode("utf-16"), "UTF-16"),
        ("a.pdf", b"%PDF-1.7\n\x00\x01", "zero byte"),
        ("a.jsonl", b'{"tokens": [1, 2]}\n', "line 1: no `text` in it; it has tokens"),
        ("a.jsonl", b'{"text": ""}\n', "holds no text"),
        ("a.jsonl", b'{"text": "a"}\n{"te', "cut off"),
        ("a.json", b"[1, 2]", "a text, or an object with a `text`, is expected"),
        ("a.txt.gz", gzip.compress(b"abc" * 99, mtime=0)[:-9], "cannot be read"),
    ],
)
def test_a_file_that_is_no_text_is_refused_with_the_place(tmp_path: Path, name: str, raw: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(PlanError, match=words):
        read(tmp_path / name)
    with pytest.raises(PlanError, match="no such file"):
        read(tmp_path / "absent.txt")


def test_pieces_are_spread_evenly_and_begin_at_words() -> None:
    # 11 pieces of 8 tokens: 64 characters of room for each. The text has 900 characters, so piece i begins at the first
    # word from 900·i/11 on: 81 → word 9 begins at 81; 163 → 171 …
    text = "abcdefgh " * 100
    found = parts(Texts("t", (text,)), Quality(tokens=88, window_tokens=8))
    assert [number for number, _ in found] == [0] * 11
    assert all(part == text[:64] for _, part in found)
    pieces = cut(Texts("t", (text,)), spelled, Quality(tokens=88, window_tokens=8))
    assert pieces == [Piece(0, (1, *map(ord, "abcdefgh")), 1)] * 11
    assert cut(Texts("t", (text,)), bare, Quality(tokens=88, window_tokens=8))[0] == Piece(
        0, tuple(map(ord, "abcdefgh ")), 1
    )


def test_many_short_texts_are_a_piece_each() -> None:
    texts = Texts("t", tuple(f"text{number:02}" for number in range(40)))
    found = parts(texts, Quality(tokens=160, window_tokens=8))
    assert found == [(number, f"text{number:02}") for number in range(0, 40, 2)]
    pieces = cut(texts, bare, Quality(tokens=160, window_tokens=8))
    assert pieces[3] == Piece(6, tuple(map(ord, "text06")), 1)  # shorter than the window: five tokens are scored


def test_no_text_is_scored_twice() -> None:
    letters = "".join(chr(0x4E00 + number) for number in range(700))  # Chinese: every character another, no spaces
    found = parts(Texts("t", (letters,)), Quality(tokens=8000, window_tokens=8))
    assert len(found) == 10
    assert len(set("".join(part for _, part in found))) == sum(len(part) for _, part in found) == 640


def test_too_little_text_is_said_with_what_would_do() -> None:
    with pytest.raises(PlanError, match=r"t has 600 characters, enough for 9 pieces of window_tokens = 8; at least 10"):
        parts(Texts("t", ("x" * 600,)), Quality(tokens=160, window_tokens=8))


def test_the_order_and_the_ends_of_texts_are_in_the_fingerprint() -> None:
    made: list[tuple[Any, ...]] = [("ab", "c"), ("a", "bc"), ("c", "ab"), ("abc",)]
    assert len({Texts("t", texts).sha256 for texts in made}) == 4
