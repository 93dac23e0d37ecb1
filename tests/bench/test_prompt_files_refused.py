"""Prompt files that are wrong, cut off or too long, and records that hold anything: read, or refused in a sentence."""

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made_prompts import lines, read

from bench.errors import PlanError
from bench.prompts.reading import PromptFile
from bench.prompts.summary import summarise

BAD: list[tuple[str, bytes | None, str]] = [
    ("a.jsonl", None, "no such file"),
    ("a.jsonl", b"", "is empty"),
    ("a.jsonl", b" \n\n", "is empty"),
    ("a.jsonl", b"{", "line 1: not JSON"),
    ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "b', "cut off: it ends in the middle of line 2; `head -n 1`"),
    ("a.jsonl", b'{"prompt": "a"}\nhello\n{"prompt": "b"}\n', "line 2: not JSON"),
    ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "b"} {"prompt": "c"}\n', "line 2: not JSON"),
    ("a.json", b'[{"prompt": "a"},\n{"prompt": "b"', r"cut off: it ends in the middle of entry 2 \(line 2\)"),
    ("a.json", b'[{"prompt": "a"}, {"prompt": "b"},', "cut off: it ends in the middle of (entry 3|its JSON array)"),
    ("a.json", b'[{"prompt": "a"}', "cut off: it ends in the middle of its JSON array: 1 entries are whole"),
    ("a.json", b'[{"prompt": "a"}] x', "follows the end of the JSON array"),
    ("a.json", b'[{"prompt": "a"} {"prompt": "b"}]', "entry 2 .line 1.: not JSON: a comma or ] is expected"),
    ("a.json", b'[{"prompt": "a"}, {"prompt": b}, ' + b'{"prompt": "c"}, ' * 20 + b"]", "entry 2 .line 1.: not JSON"),
    ("a.json", b"hello", "line 1: not JSON, though the file's name ends in .json"),
    ("a.jsonl", b"[" * 200_000, "nested too deeply"),
    ("a.jsonl", b'{"prompt": "a"}\n{"messages": ' + b"[" * 200_000 + b"\n", "line 2: JSON nested too deeply"),
    ("a.jsonl", b'{"prompt": "a"}\n[1]\n', r"line 2: \[1\]: expected a JSON object"),
    ("a.jsonl", b'{"prompt": 5}', "line 1: prompt = 5: expected a text"),
    ("a.jsonl", b'{"prompt": [1, -2]}', "line 1: a token id of -2"),
    ("a.jsonl", b'{"messages": []}', "no usable entry: 1: no messages .first at line 1"),
    ("a.jsonl", b'{"messages": "hi"}', "line 1: messages = hi: expected a list"),
    ("a.jsonl", b'{"messages": [{"role": "user", "content": 5}]}', "line 1: content = 5"),
    ("a.jsonl", b'{"messages": [{"role": "wizard", "content": "a"}]}', "an unknown role 'wizard' .known are assistant"),
    ("a.jsonl", b'{"prompt": "a", "max_tokens": 0}', "an output length of 0 .first at line 1"),
    ("a.jsonl", b'{"prompt": "a", "max_tokens": -1}', "line 1: output length = -1: expected a whole number"),
    ("a.jsonl", b'{"prompt": "a", "max_tokens": 1.5}', "line 1: output length = 1.5"),
    ("a.jsonl", b'{"prompt": "a", "max_tokens": true}', "line 1: output length = True"),
    ("a.jsonl", b'{"prompt": "a", "max_tokens": "many"}', "line 1: output length = 'many'"),
    ("a.jsonl", b'{"input_length": 0, "output_length": 3}', "a prompt length of 0 .first at line 1"),
    ("a.jsonl", b'{"input_length": -4, "output_length": 3}', "line 1: prompt length = -4"),
    ("a.jsonl", b'{"input_length": 4, "hash_ids": "x"}', "line 1: hash_ids = x: expected a list"),
    ("a.jsonl", b'{"label": 1}', "line 1: no prompt in it: it has `label`. Expected `prompt`, `messages`"),
    ("a.jsonl", b'{"prompt": "a"}\n{"conversations": []}', "line 2: recorded conversations, but line 1 holds prompts"),
    ("a.jsonl", b'{"prompt": "a"}\n\xff\n', "line 2: the prompts file is not UTF-8"),
    ("a.jsonl", "{}".encode("utf-16"), "is UTF-16, not UTF-8"),
    ("a.bin", b"\x7fELF\x00\x00", "is not text"),
    ("a.csv", b"prompt,n\na,1\nb\n", "line 3: 1 fields where the header has 2"),
    ("a.csv", b'prompt,n\n"a,1\nb,2\n', "not CSV"),
    ("a.csv", b"label\nx\n", "no prompt in it: it has `label`"),
    ("a.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 9999, mtime=0)[:-30], "cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "words"), BAD)
def test_a_wrong_file_is_refused_with_place_and_remedy(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PlanError, match=words) as refused:
        read(path)
    assert str(refused.value).startswith(str(path))
    assert len(str(refused.value)) < 500 + len(str(path))


def test_a_file_cut_off_at_line_40_000(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text('{"prompt": "a"}\n' * 39_999 + '{"prom', encoding="utf-8")
    with pytest.raises(PlanError, match="in the middle of line 40000; `head -n 39999` keeps what is whole"):
        read(path)


def test_a_long_line_is_refused_without_reading_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.prompts.source.MAX_RECORD_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    with path.open("wb") as out:  # two GiB of holes behind the first bytes
        out.write(b'{"prompt": "' + b"a" * 70_000)
        out.truncate(2 * 2**30)
    with pytest.raises(PlanError, match="line 1 is longer than"):
        read(path)


def test_of_a_long_array_only_a_part_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.prompts.source._CHUNK_CHARS", 64)
    path = tmp_path / "a.json"
    texts = ["x" * size + '\n"]}' for size in range(1, 300)]
    path.write_text(json.dumps([{"prompt": text} for text in texts], indent=1), encoding="utf-8")
    found = read(path)
    assert [entry.prompt for entry in found] == texts
    assert found[-1].place == f"entry {len(texts)} (line {3 * len(texts) - 1})"


KEYS = [
    "prompt", "messages", "role", "content", "type", "text", "value", "from", "conversations", "turns", "body", "url",
    "max_tokens", "input_length", "output_length", "hash_ids", "timestamp", "tools", "n", "system", "instruction",
    "input", "output", "image_url", "images", "chat_id",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5) | JSON, min_size=1, max_size=3))
@example([{"conversations": None}, {"body": {}, "url": [None]}])
@example([{"body": {"messages": [{"role": "user", "content": [{"type": [1], "text": "a"}]}]}}])
def test_whatever_the_records_hold_they_are_read_or_refused(records: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = lines(Path(folder) / "a.jsonl", *records)
        for turns in ("first", "all"):
            try:
                found = list(PromptFile(path, turns=turns))  # type: ignore[arg-type]
                summarise(PromptFile(path, turns=turns), context=100)  # type: ignore[arg-type]
            except PlanError as error:
                assert str(error).startswith(str(path))
                continue
            for entry in found:
                assert [entry.messages, entry.prompt, entry.prompt_tokens].count(None) == 2
                assert entry.output_tokens is None or entry.output_tokens > 0
                json.dumps([entry.messages, entry.prompt, entry.parameters])


def test_a_conversation_that_is_null_is_skipped_and_not_the_file(tmp_path: Path) -> None:
    # As in files from the hub, where whoever filtered the conversations left the rows.
    said = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    rows = [{"id": "1", "conversations": None}, {"id": "2", "conversations": said}, {"id": "3", "conversations": []}]
    (tmp_path / "sharegpt.json").write_text(json.dumps(rows), encoding="utf-8")
    file = PromptFile(tmp_path / "sharegpt.json")
    assert [entry.messages for entry in file] == [[{"role": "user", "content": "Hi"}]]
    assert file.skipped["`conversations` is null"].count == 1
