"""Prompt files as people have them: what a record of each format asks, after its publisher's schema."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_prompts import lines, read, table, user

from bench.errors import PlanError
from bench.prompts.reading import PromptFile

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
