"""Traces of requests without their texts: each after its publisher's schema, its lengths and its arrivals."""

from pathlib import Path
from typing import Any

import pytest
from made_prompts import lines, read, table

from bench.errors import PlanError
from bench.prompts.entry import Entry
from bench.prompts.reading import PromptFile, block_tokens, timed

MOONCAKE = [
    {"timestamp": 0, "input_length": 1500, "output_length": 52, "hash_ids": [46, 47, 48]},
    {"timestamp": 1535, "input_length": 672, "output_length": 26, "hash_ids": [46, 49]},
]


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
