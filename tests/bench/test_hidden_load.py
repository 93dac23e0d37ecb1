"""Hidden states as a load: what is sent, how an answer becomes a record, which account of the server it is held to."""

import json
from collections.abc import Iterator
from typing import Any

import fake_states_server as fakes
import pyarrow as pa
import pytest
from test_stats import request, rows

from bench.client import stream
from bench.client.connection import Connection
from bench.client.target import target_of
from bench.errors import PlanError
from bench.plans.loads import Load
from bench.plans.plan import expand, find_plan, load_plan
from bench.plans.workload import Vocabulary, prompts
from bench.run.reconcile import Total, reconcile_states
from bench.run.stats.summary import summarise
from bench.run.validity import validity

JSON = {"Content-Type": "application/json"}
CLOSED = {"kind": "closed", "concurrency": 1, "requests": 2, "seconds": None}
VOCABULARY = Vocabulary(tuple(range(10, 20)))


@pytest.fixture
def fake() -> Iterator[fakes.Fake]:
    with fakes.running() as server:
        yield server


def right(document: dict[str, Any], **changes: Any) -> fakes.Step:
    usage = {"usage": {"prompt_tokens": sum(map(len, document["prompts"]))}}
    return 200, JSON, json.dumps({**fakes.states_document(document), **usage, **changes}).encode()


def ask(server: fakes.Fake, *steps: Any, **prompt: Any) -> dict[str, Any]:
    server.script = list(steps)
    connection = Connection(target_of(server.base_url))
    entry = {"prompts": [[11, 12, 13], [14]], "layers": [-2], "pooling": "last", "scenario": "hidden_states", **prompt}
    what = stream.request(connection.target, entry, request_id="r1", model="fake", endpoint="hidden_states")
    record = stream.complete(connection, what, scheduled_s=0.0, timeout_s=10)
    connection.close()
    return record


def test_a_right_answer_has_an_end_and_prompt_tokens_but_no_first_token(fake: fakes.Fake) -> None:
    record = ask(fake, right)
    assert (record["outcome"], record["http_status"], record["error"]) == ("ok", 200, None)
    assert record["sent"] <= record["headers"] <= record["ended"]
    assert record["prompt_tokens"] == 4
    for absent in ("first_token", "last_token", "output_tokens", "cached_tokens", "chunk_tokens"):
        assert record[absent] is None, absent
    assert record["chunk_s"] == []
    path, sent, headers = fake.requests[0]
    assert (path, headers["x-request-id"]) == ("/v1/hidden_states", "r1")
    assert sent == {
        "model": "fake", "prompts": [[11, 12, 13], [14]], "layers": [-2], "pooling": "last",
        "encoding_format": "base64",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("step", "outcome", "kind", "said"),
    [
        (fakes.error(501, "no states here"), "http_error", "http_501", "no states here"),
        (fakes.error(429, "queue full"), "rate_limited", "http_429", "queue full"),
        ((200, JSON, b"{}"), "protocol_error", "not_states", "no hidden states"),
        ((200, JSON, b'{"half": '), "protocol_error", "not_states", "no hidden states"),
        ((200, {"Content-Type": "text/html"}, b"<p>hello"), "protocol_error", "not_states", "text/html"),
        ("cut", "connection_error", "no_response", "without an answer"),
        ("half", "protocol_error", "early_close", "closed before"),
        (lambda d: right({**d, "prompts": d["prompts"][:1]}), "protocol_error", "not_states", "1 whole states for 2"),
        (lambda d: right(d, hidden_states=["AAAA", ""]), "protocol_error", "not_states", "0 whole states for 2"),
        (lambda d: right(d, hidden_states=[[0.0] * 4] * 2), "protocol_error", "not_states", "0 whole states"),
        (lambda d: right(d, usage={"prompt_tokens": None}), "protocol_error", "no_usage", "how many prompt tokens"),
    ],
)
def test_wrong_answers(fake: fakes.Fake, step: Any, outcome: str, kind: str, said: str) -> None:
    record = ask(fake, step, step)  # a cut connection is tried anew
    assert (record["outcome"], record["error_kind"]) == (outcome, kind)
    assert said in record["error"]


def test_an_entry_without_prompts_is_refused() -> None:
    with pytest.raises(ValueError, match="needs `prompts`"):
        stream.request(
            target_of("http://host"), {"prompt": "text"}, request_id="r", model="m", endpoint="hidden_states"
        )


def test_prompts_have_the_lengths_asked_for_and_leave_room_for_the_engines_one_token() -> None:
    load = Load(scenario="hidden_states", concurrency=1, requests=4, prompt_tokens=30, prompts_per_request=3)  # type: ignore[arg-type]
    made = list(prompts(load, 4, VOCABULARY, repeat=1))
    assert [[len(ids) for ids in body["prompts"]] for body in made] == [[30, 30, 30]] * 4
    assert {(body["endpoint"], body["layers"], body["pooling"]) for body in made} == {("hidden_states", (-2,), "last")}
    assert not any("max_tokens" in body for body in made)
    assert len({tuple(ids) for body in made for ids in body["prompts"]}) == 12  # nothing for a prefix cache
    cut = next(prompts(load, 1, VOCABULARY, repeat=1, max_model_len=16))
    assert [len(ids) for ids in cut["prompts"]] == [15, 15, 15]
    assert list(prompts(load, 4, VOCABULARY, repeat=1)) == made
    in_words = next(prompts(load, 1, None, repeat=1))
    assert [len(text.split()) for text in in_words["prompts"]] == [30, 30, 30]


@pytest.mark.parametrize(
    ("load", "said"),
    [
        ({"layers": [-2]}, "`layers` belongs to scenario"),
        ({"pooling": "mean"}, "`pooling` belongs to scenario"),
        ({"prompts_per_request": 2, "scenario": "chat"}, "`prompts_per_request` belongs"),
        ({"scenario": "hidden_states", "output_tokens": 4}, "has no output tokens"),
        ({"scenario": "hidden_states", "layers": ["second"]}, "layers"),
        ({"scenario": "hidden_states", "pooling": "max"}, "pooling"),
        ({"scenario": "hidden"}, "scenario = 'hidden'"),
    ],
)
def test_loads_that_cannot_be(load: dict[str, Any], said: str) -> None:
    document = {"engines": [{"model": "demo-1m"}], "loads": [{"concurrency": 1, "requests": 2, **load}]}
    with pytest.raises(PlanError) as error:
        expand(document, source="plan.toml")
    assert said in str(error.value)


def test_the_plan_that_comes_with_it_puts_states_beside_ordinary_requests_of_one_token() -> None:
    plan = load_plan(find_plan("hidden"))
    asked = [(load.scenario, load.concurrency, load.layers, load.pooling) for load in plan.loads]
    assert asked == [
        ("completion", 1, None, None), ("completion", 8, None, None),
        ("hidden_states", 1, None, None), ("hidden_states", 8, None, None), ("hidden_states", 8, "all", "mean"),
    ]  # fmt: skip
    assert plan.slo.limits() == {"e2e_s": 0.5}


def two_answers(**more: Any) -> pa.Table:
    """E2E 0.2 and 0.4 s, 10 prompt tokens each; the window of one user is 0 to 1.0 s."""
    absent = dict.fromkeys(("first_token_s", "last_token_s", "chunk_tokens", "output_tokens"))
    whole = {**absent, "chunk_s": [], "reads": 1, "coalesced_reads": 0, **more}
    first = request(0.0, [0.2], headers_s=0.19, **whole)
    return rows(first, request(0.6, [1.0], headers_s=0.99, **whole))


def test_metrics_of_answers_in_one_piece() -> None:
    found = summarise(two_answers(), CLOSED, {"ttft_s": 0.1, "e2e_s": 0.3})
    assert (found["output_throughput_tok_s"], found["output_tokens"]) == (None, None)
    assert (found["ttft_s"], found["itl_s"], found["tpot_s"]) == (None, None, None)
    assert found["e2e_s"]["mean"] == pytest.approx(0.3)
    assert found["window_s"] == pytest.approx(1.0)
    assert found["request_throughput_rps"] == pytest.approx(2.0)
    assert found["prompt_throughput_tok_s"] == pytest.approx(20.0)
    assert found["goodput_rps"] == pytest.approx(1.0)  # 0.4 s missed the E2E limit; no answer can miss a TTFT


def page(tokens: float, count: float, total_s: float) -> Total:
    values = {
        "nbridge_hidden_states_prompt_tokens_total": tokens,
        "nbridge_hidden_states_request_latency_seconds_count": count,
        "nbridge_hidden_states_request_latency_seconds_sum": total_s,
    }
    return values.get


def test_the_plugins_counters_are_what_the_client_is_held_to() -> None:
    # the client's mean E2E: 0.3; the server's: 0.58 / 2 = 0.29
    found = reconcile_states(two_answers(), page(100, 5, 1.0), page(120, 7, 1.58))
    assert found["exact"] is True
    assert found["prompt_tokens"] == {"client": 20, "server": 20, "equal": True}
    assert found["requests"] == {"client": 2, "server": 2, "equal": True}
    assert found["e2e_mean_s"]["difference"] == pytest.approx(0.01)
    assert found["e2e_mean_s"]["agree"] is True
    assert "output_tokens" not in found
    table = two_answers()
    verdict = validity(table, {**CLOSED, "concurrency": 1}, summarise(table, CLOSED), found)
    names = {check["name"]: check["ok"] for check in verdict["checks"]}
    assert names["prompt tokens, client − server"] is True
    assert names["mean E2E, client − server, unexplained"] is True


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        (page(130, 7, 1.58), "disagree on prompt tokens: 20 against 30"),
        (page(120, 7, 2.0), "disagree on the mean E2E by 200.0 ms"),  # the server says longer than the client waited
    ],
)
def test_a_server_that_says_otherwise_makes_the_cell_invalid(later: Total, reason: str) -> None:
    table = two_answers()
    found = reconcile_states(table, page(100, 5, 1.0), later)
    verdict = validity(table, CLOSED, summarise(table, CLOSED), found)
    assert not verdict["valid"]
    assert reason in " ".join(verdict["reasons"])


def test_what_cannot_be_compared_is_said() -> None:
    nothing: Total = {}.get  # a server without the plugin
    found = reconcile_states(two_answers(), nothing, nothing)
    assert found["exact"] is None
    assert "no nbridge_hidden_states_ counters" in found["notes"][0]
    assert reconcile_states(two_answers(), None, None)["exact"] is None
    failed = reconcile_states(two_answers(outcome="timeout"), page(100, 5, 1.0), page(100, 5, 1.0))
    assert failed["exact"] is None
    assert "2 requests did not end well" in failed["notes"][0]


@pytest.mark.engine
def test_a_real_server_under_hidden_state_loads(tmp_path: Any, engine_server: Any, nbridge: Any) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text("""
name = "states"
[defaults.engine]
model = "demo-1m"
[defaults.load]
scenario = "hidden_states"
requests = 12
prompt_tokens = 40
[[loads]]
name = "last"
concurrency = 2
[[loads]]
name = "open-all-layers"
kind = "open"
rate_rps = 6
layers = "all"
pooling = "mean"
prompts_per_request = 3
""")
    done = nbridge("bench", plan, "--target", engine_server.base_url, "--out", tmp_path / "runs", "--json")
    assert done.returncode in (0, 1), done.stderr  # 1: a busy machine's clock made a cell invalid
    document = json.loads(done.stdout)
    for cell, tokens in zip(document["cells"], (12 * 40, 12 * 3 * 40), strict=True):
        # On a busy machine a cell may be invalid for the client's lateness; the two accounts agree all the same.
        assert cell["outcome"] in ("ok", "invalid"), cell["reason"]
        assert cell["metrics"]["requests"]["ok"] == 12
        assert cell["reconciliation"]["exact"] is True, cell["reconciliation"]
        assert cell["reconciliation"]["prompt_tokens"]["server"] == tokens
        late = any("E2E" in reason for reason in cell["validity"]["reasons"])
        assert cell["reconciliation"]["e2e_mean_s"]["agree"] is not late
        assert (cell["metrics"]["ttft_s"], cell["metrics"]["output_throughput_tok_s"]) == (None, None)
    report = next((tmp_path / "runs").glob("*/report.md")).read_text()
    assert "is answered in one piece" in report
