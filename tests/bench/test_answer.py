"""What completion events say: chunks by what they carry, tokens by what the server counts, and how it ended."""

import json

import pytest
from test_framing import DONE, chunked, event, reads

from bench.client.answer import Answer, answer, error_message
from bench.client.events import parse


def usage(tokens: object) -> bytes:
    document = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": tokens}}
    return f"data: {json.dumps(document)}\n\n".encode()


def delta_event(delta: object) -> bytes:
    return f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n".encode()


def answer_of(*events: bytes) -> Answer:
    return answer(parse(reads(chunked(*events), [])).events or ())


def test_chunks_and_tokens_by_continuous_usage() -> None:
    """Where usage grows to its final value, a token whose text is held back is a chunk, and no token is none."""
    said = answer_of(
        event("", 0), event("a", 1), event("", 3), event("bc", 5), event("", 5, finish="stop"), usage(5), DONE
    )
    assert said.chunk_tokens == [1, 2, 2]
    assert len(said.chunk_s) == 3
    assert (said.finish_reason, said.done, said.error_kind, said.usage) == ("stop", True, None, "chunk")
    assert (said.prompt_tokens, said.output_tokens, said.cached_tokens) == (3, 5, None)


def test_chunks_by_text_where_usage_comes_at_the_end() -> None:
    said = answer_of(event(""), event("a"), event("b"), event("", finish="stop"), usage(2), DONE)
    assert (len(said.chunk_s), said.chunk_tokens) == (2, [1, 1])


def test_tokens_per_chunk_are_unknown_when_nothing_says_them() -> None:
    said = answer_of(event("a bc"), event("", finish="stop"), usage(2), DONE)
    assert (len(said.chunk_s), said.chunk_tokens, said.output_tokens) == (1, None, 2)
    said = answer_of(event("a"), event("b", finish="stop"), DONE)
    assert (len(said.chunk_s), said.chunk_tokens, said.output_tokens) == (2, None, None)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "a"}, {"reasoning_content": "hm"}, {"reasoning": "hm"}, {"thinking": "hm"}, {"refusal": "no"},
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}, {"function_call": {"arguments": "{"}},
        {"content": [{"type": "text", "text": "a"}]}, {"content": " "}, {"audio": {"id": "a", "data": "UklG"}},
        {"content": "", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, {"a key of 2031": ["x"]},
    ],
)  # fmt: skip
def test_generated_text_is_content_whatever_its_key(delta: dict) -> None:
    assert len(answer_of(delta_event({"role": "assistant", "content": ""}), delta_event(delta)).chunk_s) == 1


@pytest.mark.parametrize(
    "delta",
    [
        {}, {"role": "assistant"}, {"role": "assistant", "content": None}, {"content": ""}, {"tool_calls": []},
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"arguments": ""}}]},
        {"content": None, "refusal": None, "annotations": [{"type": "url", "url": "u"}]}, None, 5, {"content": 5},
        {"provider_specific_fields": {"citations": ["u"]}},
    ],
)  # fmt: skip
def test_what_brings_no_generated_text_is_no_chunk(delta: object) -> None:
    assert answer_of(delta_event(delta)).chunk_s == []


# (text or None, usage so far or None) per event, the usage at the end → tokens per chunk, output tokens
A_STORY = [
    ("usage in every chunk", [1, 2, 3], 3, [1, 1, 1], 3),
    ("zeros until the last", [0, 0, 3], 3, [1, 1, 1], 3),
    ("the final usage in every chunk", [3, 3, 3], 3, [1, 1, 1], 3),
    ("a difference in every chunk", [1, 1, 1], None, [1, 1, 1], 3),
    ("differences that vary", [2, 1, 1, 1], None, [2, 1, 1, 1], 5),
    ("a difference in every chunk, the total at the end", [2, 2, 2], 6, None, 6),
    ("usage that runs behind", [0, 1, 2], 3, [1, 1, 1], 3),
    ("usage at the end", [None, None, None], 3, [1, 1, 1], 3),
    ("two tokens an event, usage at the end", [None, None, None], 6, None, 6),
    ("no usage", [None, None, None], None, None, None),
    ("four tokens an event", [4, 8, 12], 12, [4, 4, 4], 12),
    ("text and a count of 0", [None, None], 0, None, None),
    ("as 3.0", [None, None, None], 3.0, [1, 1, 1], 3),
    ("as text", [None, None], "2", None, None),
    ("negative", [-1, -1], -2, None, None),
    ("too large for a record", [None, None], 2**32 - 1, None, None),
    ("a fraction", [None, None], 2.5, None, None),
    ("true", [None, None], True, None, None),
    ("infinite", [None, None], float("inf"), None, None),
]


@pytest.mark.parametrize(("counts", "final", "chunk_tokens", "output"), [case[1:] for case in A_STORY],
                         ids=[case[0] for case in A_STORY])  # fmt: skip
def test_usage_only_counts(counts: list, final: object, chunk_tokens: list | None, output: int | None) -> None:
    events = [event(" x", tokens) for tokens in counts]
    said = answer_of(*events, *([] if final is None else [usage(final)]), event("", finish="stop"), DONE)
    assert len(said.chunk_s) == len(counts)
    assert (said.chunk_tokens, said.output_tokens) == (chunk_tokens, output)


def test_the_first_token_counted_with_the_role_is_not_a_chunk() -> None:
    """SGLang counts it in the event that only names the role, and again in the one that brings its text."""
    role = {"choices": [{"delta": {"role": "assistant", "content": ""}}], "usage": {"completion_tokens": 1}}
    said = answer_of(f"data: {json.dumps(role)}\n\n".encode(), event("a", 1), event("b", 2, finish="stop"), DONE)
    assert said.chunk_tokens == [1, 1]


def test_usage_in_the_places_of_groq_and_moonshot() -> None:
    groq = {"choices": [], "x_groq": {"usage": {"prompt_tokens": 4, "completion_tokens": 1}}}
    moon = {"choices": [{"delta": {}, "finish_reason": "stop", "usage": {"prompt_tokens": 4, "completion_tokens": 1}}]}
    for document in (groq, moon):
        said = answer_of(event("a"), f"data: {json.dumps(document)}\n\n".encode(), DONE)
        assert (said.prompt_tokens, said.output_tokens, said.chunk_tokens) == (4, 1, [1])


@pytest.mark.parametrize(
    ("extra", "note"),
    [
        ([b"data: \n\n"], "empty_data"),
        ([DONE], "done_twice"),
        ([b'data: {"choices": [], "usage": {"completion_tokens": 2}}\n\n'], "usage_after_done"),
        ([b"event: ping\ndata: now\n\n"], "foreign_event"),
        ([b'data: {"choices": []}\n\n'], "after_done"),
    ],
)
def test_oddities_are_noted_and_survived(extra: list[bytes], note: str) -> None:
    said = answer_of(event("a"), event("b", finish="stop"), DONE, *extra)
    assert (said.error_kind, said.notes, said.done, len(said.chunk_s)) == (None, {note}, True, 2)


def test_text_after_the_end_is_garbage() -> None:
    assert answer_of(event("a", finish="stop"), DONE, event("b")).error_kind == "garbage"


def test_events_in_one_http_chunk_are_one_chunk_that_the_sender_made() -> None:
    """A proxy that merges events tells so: they share an HTTP chunk, and nobody read late."""
    together = event("a", 1) + event("b", 2)
    said = answer(parse(reads(chunked(together, event("c", 3, finish="stop"), DONE), [])).events or ())
    assert said.chunk_tokens == [2, 1]
    assert (said.merged_reads, said.coalesced) == (1, [0])  # the two chunks that are left came in one read


def test_cached_tokens_come_from_the_usage_details() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}
    said = answer_of(event("a", 1), f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode(), DONE)
    assert (said.prompt_tokens, said.cached_tokens) == (9, 8)


def test_reads_with_several_chunks_are_counted() -> None:
    wire = chunked(event("a", 1), event("b", 2), event("c", 3), event("d", 4, finish="stop"), DONE)
    second = wire.index(b'"c"')
    said = answer(parse(reads(wire, [second])).events)
    assert said.coalesced == [0, 1]
    assert said.chunk_s == [0.0, 0.0, 1.0, 1.0]


def test_an_error_in_the_stream_ends_the_answer_and_keeps_the_chunks() -> None:
    broken = b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'
    said = answer_of(event("a", 1), broken)
    assert (said.error_kind, said.error, len(said.chunk_s)) == ("stream_error", "out of memory", 1)


@pytest.mark.parametrize("data", [b"data: {broken\n\n", b"data: 7\n\n", b"<html>\n\n", b"data: \xff\xfe\n\n"])
def test_garbage_in_the_stream_is_named(data: bytes) -> None:
    said = answer_of(event("a", 1), data, DONE)
    assert (said.error_kind, len(said.chunk_s), said.done) == ("garbage", 1, False)


def test_an_aborted_answer_is_an_error() -> None:
    assert answer_of(event("a", 1), event("", 1, finish="abort"), DONE).error_kind == "stream_error"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "no such model"}}, "no such model"),
        ({"error": "flat"}, "flat"),
        ({"object": "error", "message": "old vLLM"}, "old vLLM"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"msg": "field required"}]}, '[{"msg": "field required"}]'),
        ({"choices": []}, None),
        ([1], None),
    ],
)
def test_error_messages_of_many_servers(body: object, message: str | None) -> None:
    assert error_message(body) == message
