"""Nothing that a server says ends more than its own record: hostile bytes, from the socket to the report.

Properties over the whole path: bytes as they come from a socket → record → line of JSON → Parquet → figures, their
reconciliation and validity → run.json and report. A sound record stands before and after every hostile one and must
survive it unchanged.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_framing import DONE, chunked, event

from bench.client import stream
from bench.client.connection import Exchange
from bench.client.identity import identify
from bench.client.pages import Page, models
from bench.client.probe import _length
from bench.client.target import target_of
from bench.load.loadfile import Records
from bench.run import records, store
from bench.run.reconcile import reconcile
from bench.run.stats.summary import summarise
from bench.run.validity import validity
from monitoring.scrape import metrics as metrics_page

pytestmark = pytest.mark.slow

LOAD = {"kind": "closed", "concurrency": 1, "requests": 3, "seconds": None}
TARGET = target_of("http://host", api_key="sk-secret-1")
WHAT = stream.request(TARGET, {"prompt": "a", "max_tokens": 2}, request_id="r", model="m")
SOUND = chunked(event("a", 1), event("b", 2, finish="stop"), DONE)

# JSON values as no server should send them: half characters, huge and negative numbers, wrong types, deep nesting.
NAMES = ["choices", "delta", "text", "content", "role", "tool_calls", "function", "arguments", "usage", "message"]
NAMES += ["prompt_tokens", "completion_tokens", "finish_reason", "prompt_tokens_details", "cached_tokens", "error"]
NAMES += ["object", "detail", "index", "data", "id", "x_groq"]
WORDS = ["\ud800", "\udfff" * 3, "\x00", "\x1b[2J", "sk-secret-1", "abort", "length", 2**32 - 1, -1, 1e308]
keys = st.sampled_from(NAMES) | st.text(max_size=3)
leaves = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
values = st.recursive(
    leaves | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
usages = st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens", "prompt_tokens_details"]), values)
choice = st.dictionaries(st.sampled_from(["delta", "text", "finish_reason", "usage", "index"]), values, max_size=4)
optional = {"choices": st.lists(choice) | values, "usage": usages | values, "error": values}
documents = st.fixed_dictionaries({}, optional=optional).map(json.dumps)
deep = st.sampled_from(["[" * 100_000, '{"choices":' * 50_000, '{"error":' + "[" * 900 + "]" * 900 + "}"])
numbers = st.sampled_from(
    ['{"usage": {"completion_tokens": 1e999}}', "9" * 5000, "NaN", '{"choices": [{"text": NaN}]}']
)
lines = (documents | deep | numbers | st.just("[DONE]")).map(lambda text: f"data: {text}\n\n".encode())
events = st.lists(lines | st.binary(max_size=60), max_size=6)
headers = st.sampled_from(
    [
        b"Retry-After: 1e400", b"Retry-After: -5", b"Retry-After: Wed, 99 Foo 99999 99:99:99 GMT", b"Retry-After: \xff",
        b"Content-Type: \xff\xfe", b"Location: \x80", b"X: " + b"y" * 5000, b"Retry-After: 7",
    ]
)  # fmt: skip


def exchange(wire: bytes, cuts: list[int]) -> Exchange:
    """The wire in reads, as a connection hands it over."""
    result = Exchange(sent_s=1.0)
    edges = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    for number, (start, end) in enumerate(pairwise(edges)):
        result.reads.append((2.0 + number, None, None))
        if result.framing.feed(wire[start:end]):
            break
    result.framing.end()
    result.ended_s = 2.0 + len(edges)
    return result


def record(wire: bytes, cuts: list[int]) -> dict[str, Any]:
    return stream.record(WHAT, exchange(wire, cuts), 0.5, TARGET.secrets)


def through(folder: Path, found: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of requests.parquet and the cell's metrics after the whole way from records to figures."""
    lines_path, table_path = folder / "requests.jsonl", folder / "requests.parquet"
    lines_path.unlink(missing_ok=True)
    out = Records(str(lines_path))
    for one in found:
        out.append(one)
    records.write_parquet([lines_path], table_path, 0.0)
    table = pq.read_table(table_path)
    metrics = summarise(table, LOAD, {"ttft_s": 1.0, "tpot_s": 1.0})
    agreement = reconcile(table, None, None)
    cell = {"metrics": metrics, "validity": validity(table, LOAD, metrics, agreement), "reconciliation": agreement}
    store.write_json(folder / "run.json", cell)  # refuses NaN, infinity and half characters
    return table.to_pylist(), metrics


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    status=st.sampled_from([b"200 OK", b"200 OK", b"400 Bad", b"429 Slow", b"503 Later", b"307 There"]),
    more=st.lists(headers, max_size=2),
    body=events,
    framed=st.booleans(),
    cuts=st.lists(st.integers(1, 4000), max_size=6),
)
def test_no_answer_ends_more_than_its_own_record(
    tmp_path_factory: pytest.TempPathFactory, status: bytes, more: list[bytes], body: list[bytes], framed: bool,
    cuts: list[int],
) -> None:  # fmt: skip
    head = b"\r\n".join([b"HTTP/1.1 " + status, b"Content-Type: text/event-stream", *more])
    if framed:
        parts = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in body if part)
        wire = head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
    else:
        wire = head + b"\r\n\r\n" + b"".join(body)
    hostile = record(wire, cuts)
    sound = record(SOUND, [])
    rows, metrics = through(tmp_path_factory.getbasetemp(), [sound, hostile, sound])
    assert len(rows) == 3
    assert rows[0] == rows[2]
    assert (rows[0]["outcome"], rows[0]["output_tokens"], rows[0]["chunk_tokens"]) == ("ok", 2, [1, 1])
    assert hostile["outcome"] in ("ok", "http_error", "protocol_error", "rate_limited")
    assert metrics["requests"]["total"] == 3
    assert "sk-secret-1" not in json.dumps(hostile)
    assert "\x1b" not in json.dumps(hostile, ensure_ascii=False)


@given(wire=st.binary(max_size=300), cuts=st.lists(st.integers(1, 300), max_size=6))
def test_no_bytes_at_all_end_more_than_their_record(wire: bytes, cuts: list[int]) -> None:
    for prefix in (b"", b"HTTP/1.1 200 OK\r\n", SOUND[:-9], SOUND):
        record(prefix + wire, cuts)


FIXED = [
    ("half a surrogate pair in an error", b'{"error": {"message": "\\ud800 half"}}', "http_error"),
    ("a count that fits no record", b'{"choices": [{"text": "a"}], "usage": {"completion_tokens": 4294967295}}', None),
    ("a finish_reason that is a list", b'{"choices": [{"text": "a", "finish_reason": ["stop"]}]}', None),
    ("choices of everything", b'{"choices": [null, 5, "a", [], {"delta": [1, {"content": "x"}]}]}', None),
    ("an error that is a number", b'{"error": 5}', "http_error"),
    ("an error message that is a list", b'{"error": {"message": [1, "\\udfff"]}}', "http_error"),
]


@pytest.mark.parametrize(("line", "outcome"), [case[1:] for case in FIXED], ids=[case[0] for case in FIXED])
def test_what_once_ended_a_bench(tmp_path: Path, line: bytes, outcome: str | None) -> None:
    hostile = record(chunked(b"data: " + line + b"\n\n", event("b", finish="stop"), DONE), [])
    assert hostile["outcome"] == (outcome or "ok")
    rows, _ = through(tmp_path, [record(SOUND, []), hostile])
    assert [row["outcome"] for row in rows] == ["ok", hostile["outcome"]]


@settings(max_examples=80, deadline=None)
@given(document=values)
def test_no_page_of_a_server_raises(document: Any) -> None:
    text = json.dumps(document)
    listed = models(json.loads(text))
    for about in [*listed, {"id": "m", "max_model_len": document, "owned_by": document, "meta": document}]:
        length = _length(about)
        assert length is None or 0 < length < 2**31
        identify(lambda _: Page(200, {}, text), {}, about, Page(200, {}, text), "host")


@given(
    value=st.sampled_from(["Inf", "NaN", "-Inf", "1e400", "-5", "abc", "9" * 400, "1e308"]), words=st.text(max_size=20)
)
def test_no_metrics_page_raises(value: str, words: str) -> None:
    names = ("vllm:generation_tokens_total", "vllm:time_to_first_token_seconds_sum", "vllm:prompt_tokens_total")
    text = "".join(f"{name} {value}\n" for name in names) + "vllm:time_to_first_token_seconds_count 3\n" + words
    try:
        samples = metrics_page.parse(text)
    except metrics_page.MetricsError:
        return
    sound = [records.from_zero(record(SOUND, []), 0.0)] * 3
    table = pa.Table.from_pylist(sound, schema=records.SCHEMA)
    found = reconcile(table, lambda _, **__: 0.0, lambda name, **labels: metrics_page.total(samples, name, **labels))
    json.dumps(found, allow_nan=False)
