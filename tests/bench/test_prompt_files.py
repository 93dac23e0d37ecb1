"""Prompt files as people have them: each format after its publisher's schema, read right or refused in a sentence."""

import csv
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.errors import PlanError
from bench.prompts.entry import Entry
from bench.prompts.reading import PromptFile, block_tokens, timed
from bench.prompts.summary import summarise


def read(path: Path, **options: Any) -> list[Entry]:
    return list(PromptFile(path, **options))


def lines(path: Path, *items: Any) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


SHAREGPT = {
    "id": "QWJhYvA_0",
    "conversations": [
        {"from": "human", "value": "Name a colour."},
        {"from": "gpt", "value": "Green."},
        {"from": "human", "value": "Another."},
        {"from": "gpt", "value": "Blue."},
    ],
}
FIRST = [user("Name a colour.")]
WHOLE = [*FIRST, {"role": "assistant", "content": "Green."}, user("Another.")]
TOOLS = [{"type": "function", "function": {"name": "sum", "parameters": {"type": "object", "properties": {}}}}]

# Each as its publisher documents it; what is asked, and the answer or the number of tokens that the file says.
ENTRIES: list[tuple[str, Any, Any, Any]] = [
    ("ours", {"prompt": "a", "max_tokens": 3}, "a", 3),
    ("null and float", {"prompt": "a", "max_tokens": 8.0, "messages": None, "id": 7}, "a", 8),
    ("no limit", {"prompt": "a", "max_tokens": None}, "a", None),
    ("token ids", {"prompt": [1, 2, 3]}, [1, 2, 3], None),
    ("vllm custom dataset", {"prompt": "a", "output_tokens": 12}, "a", 12),
    ("genai-perf", {"text_input": "a"}, "a", None),
    ("aiperf single turn", {"text": "a", "output_length": 50}, "a", 50),
    ("aiperf random pool", {"texts": ["a"]}, "a", None),
    ("aiperf multi turn", {"session_id": "1", "turns": [{"text": "a"}, {"text": "b"}]}, [user("a")], None),
    ("mt-bench", {"question_id": 81, "category": "writing", "turns": ["a", "b"]}, [user("a")], None),
    ("guidellm", {"prompt": "a", "output_tokens_count": 9}, "a", 9),
    ("sharegpt", SHAREGPT, FIRST, "Green."),
    ("lmsys", {"conversation_id": "x", "model": "m", "turn": 2, "conversation": WHOLE}, FIRST, "Green."),
    ("fine-tuning chat", {"messages": [*FIRST, {"role": "assistant", "content": "Green."}]}, FIRST, "Green."),
    ("dolly", {"instruction": "a", "context": "b", "response": "c", "category": "open_qa"}, "a\n\nb", "c"),
    ("alpaca", {"instruction": "a", "input": "", "output": "c"}, "a", "c"),
    (
        "open-orca",
        {"id": "1", "system_prompt": "s", "question": "q", "response": "c"},
        [{"role": "system", "content": "s"}, user("q")],
        "c",
    ),
    ("dpo", {"prompt": "a", "chosen": "b", "rejected": "c"}, "a", None),
    ("chat prompt", {"prompt": [user("a")]}, [user("a")], None),
]  # fmt: skip


@pytest.mark.parametrize(("record", "asked", "answer"), [e[1:] for e in ENTRIES], ids=[e[0] for e in ENTRIES])
def test_what_a_record_asks(tmp_path: Path, record: Any, asked: Any, answer: Any) -> None:
    for path in (lines(tmp_path / "a.jsonl", record), tmp_path / "a.json"):
        if path.suffix == ".json":
            path.write_text(json.dumps([record], indent=2), encoding="utf-8")
        (entry,) = read(path)
        assert (entry.messages or entry.prompt) == asked
        assert (entry.answer or entry.output_tokens) == answer


def test_a_batch_request_is_sent_as_it_is(tmp_path: Path) -> None:
    body = {
        "model": "gpt-4o-mini", "messages": WHOLE, "max_completion_tokens": 1000, "temperature": 0.2, "tools": TOOLS,
        "stream": False, "response_format": {"type": "json_object"},
    }  # fmt: skip
    chat = {"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    plain = {"custom_id": "2", "method": "POST", "url": "/v1/completions", "body": {"prompt": "a", "max_tokens": 5}}
    embed = {"custom_id": "3", "method": "POST", "url": "/v1/embeddings", "body": {"input": "a"}}
    file = PromptFile(lines(tmp_path / "batch.jsonl", chat, plain, embed))
    first, second = file
    assert first.messages == WHOLE
    assert (first.output_tokens, second.output_tokens) == (1000, 5)
    assert first.parameters == {"temperature": 0.2, "tools": TOOLS, "response_format": {"type": "json_object"}}
    assert second.prompt == "a"
    assert file.why_skipped() == "1: asks /v1/embeddings, not for a completion (first at line 3)"


def test_content_parts_and_tools_of_a_chat_are_kept(tmp_path: Path) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    called = [
        user("Sum 1 and 2."),
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]
    first, second = read(lines(tmp_path / "a.jsonl", {"messages": messages}, {"messages": called, "tools": TOOLS}))
    assert (first.messages, first.media) == (messages, True)
    assert (second.messages, second.media, second.parameters) == (called, False, {"tools": TOOLS})


@pytest.mark.parametrize(
    ("turns", "asked", "answers"),
    [
        ("first", [FIRST], ["Green."]),
        ("last", [WHOLE], ["Blue."]),
        ("all", [FIRST, WHOLE], ["Green.", "Blue."]),
    ],
)
def test_the_turns_of_a_conversation(tmp_path: Path, turns: Any, asked: Any, answers: list[str]) -> None:
    found = read(lines(tmp_path / "a.jsonl", SHAREGPT), turns=turns)
    assert [entry.messages for entry in found] == asked
    assert [entry.answer for entry in found] == answers
    assert {entry.turns for entry in found} == {2}


def test_a_conversation_that_begins_with_an_answer_begins_with_its_question(tmp_path: Path) -> None:
    record = {
        "conversations": [{"from": "gpt", "value": "…and so on."}, *SHAREGPT["conversations"]],
        "system": "Be kind.",
    }
    (entry,) = read(lines(tmp_path / "a.jsonl", record))
    assert entry.messages == [{"role": "system", "content": "Be kind."}, *FIRST]


def test_what_cannot_be_sent_is_skipped_and_counted(tmp_path: Path) -> None:
    file = PromptFile(
        lines(
            tmp_path / "a.jsonl",
            SHAREGPT,
            {"conversations": [{"from": "wizard", "value": "a"}]},
            {"conversations": [{"from": "human", "value": " "}]},
            {"conversations": []},
            {"conversations": [{"from": "gpt", "value": "a"}]},
            {"conversations": [{"from": "human", "value": ""}]},
            {"conversations": [{"from": "human", "value": "\ud800"}]},
        )
    )
    assert len(list(file)) == 1
    assert file.records == 7
    assert {reason.split(" (")[0]: (one.count, one.first) for reason, one in file.skipped.items()} == {
        "an unknown role 'wizard'": (1, "line 2"),
        "an empty prompt": (2, "line 3"),
        "no turn of a user": (2, "line 4"),
        "half a surrogate pair in messages: no text of Unicode": (1, "line 7"),
    }


MOONCAKE = [
    {"timestamp": 0, "input_length": 1500, "output_length": 52, "hash_ids": [46, 47, 48]},
    {"timestamp": 1535, "input_length": 672, "output_length": 26, "hash_ids": [46, 49]},
]


def table(path: Path, *rows: Any, delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out, delimiter=delimiter).writerows(rows)
    return path


def traces(folder: Path) -> dict[str, Path]:
    """The published traces, after their schemas: 2 requests each, the second 1.5 s (or so) after the first."""
    bailian = {"chat_id": 159, "parent_chat_id": -1, "type": "text", "turn": 1, "output_length": 9, "hash_ids": [1, 2]}
    return {
        "mooncake": lines(folder / "mooncake.jsonl", *MOONCAKE),
        "bailian": lines(
            folder / "bailian.jsonl",
            bailian | {"timestamp": 61.114, "input_length": 20},
            bailian | {"timestamp": 62.614, "input_length": 32},
        ),
        "azure 2023": table(
            folder / "azure23.csv",
            ["TIMESTAMP", "ContextTokens", "GeneratedTokens"],
            ["2023-11-16 18:15:46.6805900", 374, 44],
            ["2023-11-16 18:15:48.1805900", 396, 109],
        ),
        "azure 2024": table(
            folder / "azure24.csv",
            ["TIMESTAMP", "ContextTokens", "GeneratedTokens"],
            ["2024-05-10 00:00:00+00:00", 2162, 5],
            ["2024-05-10 00:00:01.500000+00:00", 2399, 6],
        ),
        "azure 2025": table(
            folder / "azure25.csv",
            ["TIMESTAMP", "NumImages", "ContextTokens", "GeneratedTokens"],
            ["2024-10-15 12:00:00.000000", 1, 1454, 38],
            ["2024-10-15 12:00:01.500000", 0, 51, 141],
        ),
        "burstgpt 1": table(
            folder / "burst1.csv",
            ["Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type"],
            [5, "ChatGPT", 472, 18, 490, "Conversation log"],
            [6.5, "GPT-4", 1087, 230, 1317, "API log"],
        ),
        "burstgpt 3": table(
            folder / "burst3.csv",
            ["Timestamp", "Session ID", "Elapsed time", "Model", "Request tokens", "Response tokens", "Total tokens"],
            [1000.0, "a-1", 2.5, "ChatGPT", 472, 18, 490],
            [1001.5, "", "", "ChatGPT", 10, 23, 33],
        ),
        "vidur": table(
            folder / "vidur.csv",
            ["arrived_at", "num_prefill_tokens", "num_decode_tokens"],
            [0.0, 374, 44],
            [1.5, 396, 109],
        ),
    }


@pytest.mark.parametrize(
    ("name", "lengths"),
    {
        "mooncake": [(1500, 52), (672, 26)],
        "bailian": [(20, 9), (32, 9)],
        "azure 2023": [(374, 44), (396, 109)],
        "azure 2024": [(2162, 5), (2399, 6)],
        "azure 2025": [(1454, 38), (51, 141)],
        "burstgpt 1": [(472, 18), (1087, 230)],
        "burstgpt 3": [(472, 18), (10, 23)],
        "vidur": [(374, 44), (396, 109)],
    }.items(),
)
def test_a_trace_has_lengths_and_arrivals(tmp_path: Path, name: str, lengths: list[tuple[int, int]]) -> None:
    arrivals = list(timed(PromptFile(traces(tmp_path)[name]), speed=2.0, seconds=None, requests=None))
    assert [(entry.prompt_tokens, entry.output_tokens) for _, entry in arrivals] == lengths
    second_s = 1.535 if name == "mooncake" else 1.5
    assert [offset_s for offset_s, _ in arrivals] == [0.0, pytest.approx(second_s / 2, abs=1e-6)]


def test_a_part_of_a_trace(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", *({"timestamp": 1000 * n, "input_length": 9} for n in range(10)))

    def offsets(**limits: Any) -> list[float]:
        given = {"speed": 1.0, "seconds": None, "requests": None, **limits}
        return [offset_s for offset_s, _ in timed(PromptFile(path), **given)]

    assert offsets(requests=3) == [0.0, 1.0, 2.0]
    assert offsets(seconds=3) == [0.0, 1.0, 2.0]  # an arrival at that instant is outside
    assert offsets(seconds=3, speed=2.0) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]


@pytest.mark.parametrize(
    ("lengths", "size"),
    [
        ([(6758, 14), (7322, 15)], 512),
        ([(655, 2)], 512),
        ([(20, 2), (32, 2), (33, 3)], 16),
        ([(130, 2), (193, 3)], 64),  # only whole blocks are named
        ([(10, 7)], None),
        ([(100, 50), (100, 2)], None),
    ],
)
def test_the_size_of_a_traces_blocks_is_found(lengths: list[tuple[int, int]], size: int | None) -> None:
    found = [Entry("", prompt_tokens=tokens, blocks=tuple(range(count))) for tokens, count in lengths]
    assert block_tokens(found) == size


@pytest.mark.parametrize(
    "times", [(5, 3), (-1, 3), (0, None), (0, "yesterday"), (0, float("nan"))],
    ids=["backward", "negative", "none", "words", "NaN"],
)  # fmt: skip
def test_times_that_cannot_be_are_refused_with_their_place(tmp_path: Path, times: tuple[Any, Any]) -> None:
    path = lines(tmp_path / "a.jsonl", *({"timestamp": time, "input_length": 9} for time in times))
    with pytest.raises(PlanError, match=r"a\.jsonl: line [12]: (its|no) arrival time"):
        list(timed(PromptFile(path), speed=1.0, seconds=None, requests=None))
    assert len(read(path)) == 2  # as prompts without their times they are fine


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "a\xe2\x80\xa8b\xc2\x85c"}\n{"prompt": "d"}\n',  # U+2028 and U+0085 are characters of a text
        b'\xef\xbb\xbf{"prompt": "a\xe2\x80\xa8b\xc2\x85c"}\r\n\r\n{"prompt": "d"}\r\n',
        b'{"prompt": "a\xe2\x80\xa8b\xc2\x85c"}\n{"prompt": "d"}',
        b'[{"prompt": "a\\u2028b\\u0085c"},\n {"prompt": "d"}\n]\n',
        b'\xef\xbb\xbf["a\xe2\x80\xa8b\xc2\x85c", "d"]',
        b'{\n "prompt": "a\xe2\x80\xa8b\xc2\x85c"\n}\n{\n "prompt": "d"\n}\n',
        "a\u2028b\x85c\r\nd\r\n".encode(),
        "a\u2028b\x85c\n\n  \nd".encode(),
    ],
)
def test_lines_end_at_newlines_only(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prompts"
    for data in (content, gzip.compress(content)):
        path.write_bytes(data)
        assert [entry.prompt for entry in read(path)] == ["a\u2028b\x85c", "d"]


def test_tables(tmp_path: Path) -> None:
    rows = [["id", "prompt", "max_tokens", "note"], ["1", "a, b\nc", "8.0", ""], ["2", "d", "", "x"], ["3", "", "", ""]]
    for delimiter, name in ((",", "a.csv"), (";", "b.csv"), ("\t", "c.tsv"), (",", "d")):
        found = PromptFile(table(tmp_path / name, *rows, delimiter=delimiter))
        assert [(entry.prompt, entry.output_tokens) for entry in found] == [("a, b\nc", 8), ("d", None)]
        assert found.why_skipped() == "1: an empty prompt (first at line 5)"
    assert [entry.prompt for entry in read(tmp_path / "a.csv", column="id")] == ["1", "2", "3"]
    with pytest.raises(PlanError, match="line 3: no column `texts`; there are `id`, `prompt`, `max_tokens`, `note`"):
        read(tmp_path / "a.csv", column="texts")


def test_parquet(tmp_path: Path) -> None:
    talk = [
        [{**user("a"), "toxic": False, "turn": None}, {"role": "assistant", "content": "b", "toxic": None, "turn": 2}]
    ]
    wildchat = {"conversation_hash": ["x"], "model": ["m"], "turn": [1], "conversation": talk, "language": ["English"]}
    pq.write_table(pa.table(wildchat), tmp_path / "a.parquet")
    (entry,) = read(tmp_path / "a.parquet")
    assert (entry.messages, entry.answer) == ([user("a")], "b")
    pq.write_table(pa.table({"body": ["a", None, "c"], "max_tokens": [1.0, None, None]}), tmp_path / "b.parquet")
    assert [entry.prompt for entry in read(tmp_path / "b.parquet", column="body")] == ["a", "c"]
    (tmp_path / "c.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:-20])
    with pytest.raises(PlanError, match="not readable as Parquet"):
        read(tmp_path / "c.parquet")
    with pytest.raises(PlanError, match="no prompt in it: it has `label`"):
        pq.write_table(pa.table({"label": ["a"]}), tmp_path / "d.parquet")
        read(tmp_path / "d.parquet")


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
