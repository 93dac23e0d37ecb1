"""Conversations that carry the server's own answers on: what a plan says, what is made of it, and how it is sent."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from golden import Golden, golden

from bench.errors import PlanError
from bench.plans.conversations import think_s, told, with_turns
from bench.plans.loads import Load, Think
from bench.plans.plan import expand
from bench.plans.workload import prompts
from bench.prompts.requests import check, requests
from bench.run import records, store
from bench.run.stats.summary import summarise
from bench.run.validity import validity

TALK = {"scenario": "conversation", "concurrency": 2, "conversations": 6}
RECORDED = [
    {"id": "a", "conversations": [
        {"from": "system", "value": "Be brief."}, {"from": "human", "value": "one two"},
        {"from": "gpt", "value": "a b c"}, {"from": "human", "value": "three"}, {"from": "human", "value": "four"},
        {"from": "gpt", "value": "d"}, {"from": "human", "value": "five"},
    ]},
    {"id": "b", "conversations": [{"from": "human", "value": "alone"}, {"from": "gpt", "value": "yes it is"}]},
]  # fmt: skip


def load(**more: Any) -> Load:
    (one,) = expand({"engines": [{"model": "m"}], "loads": [{**TALK, **more}]}, source="x.toml").loads
    return one


def test_think_times_are_constant_or_have_the_mean_asked_for() -> None:
    assert load(think_s=2.5).think_s == Think(mean=2.5)
    rng = random.Random(1)
    assert think_s(None, rng) == think_s(Think(mean=0), rng) == 0.0
    assert think_s(Think(mean=2.5), rng) == 2.5
    drawn = [think_s(Think(kind="lognormal", mean=4.0, sigma=0.6), rng) for _ in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(4.0, rel=0.03)
    assert min(drawn) < 1.5 < 8 < max(drawn)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"requests": 9}, "set `conversations` or `seconds`"),
        ({"conversations": None}, "set `conversations` or `seconds`"),
        ({"conversations": 3}, "conversations = 3 at concurrency = 2"),
        ({"think_s": -1}, "think_s"),
        ({"think_s": {"kind": "lognormal"}}, "mean"),
        ({"scenario": "chat", "requests": 9}, "`conversations` belongs to"),
        ({"scenario": "chat", "requests": 9, "conversations": None, "think_s": 1}, "`think_s` belongs to"),
        ({"turns": "carried"}, '`turns` belongs to scenario = "file"'),
        ({"scenario": "file", "prompts_file": "a", "turns": "carried", "conversation_turns": 2}, "turns of their own"),
        (
            {"scenario": "file", "prompts_file": "a", "turns": "carried", "endpoint": "completions"},
            "exclude each other",
        ),
    ],
)
def test_a_wrong_plan_says_what_is_wrong(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(PlanError, match=word):
        load(**changes)


def test_a_conversation_is_its_first_turn_and_what_follows() -> None:
    plan = load(conversation_turns=3, prompt_tokens=12, output_tokens=5, think_s=1.5, shared_prefix_share=0.5)
    bodies = list(prompts(plan, 4, None, repeat=1))
    assert bodies == list(prompts(plan, 4, None, repeat=1))
    first = bodies[0]
    assert (first["endpoint"], first["max_tokens"]) == ("chat", 5)
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert [len(message["content"].split()) for message in first["messages"]] == [6, 6]
    assert [(turn["max_tokens"], turn["think_s"], len(turn["messages"][0]["content"].split())) for turn in first["then"]
            ] == [(5, 1.5, 12), (5, 1.5, 12)]  # fmt: skip
    assert bodies[1]["messages"][0] == first["messages"][0] and bodies[1]["messages"][1] != first["messages"][1]


def test_a_conversation_has_as_many_turns_as_fit_its_context() -> None:
    # 64 for the template, 10 + 10 for the first turn, 10 + 10 + 16 for each of the others
    plan = load(conversation_turns=5, prompt_tokens=10, output_tokens=10)
    made = {n: len(next(iter(prompts(plan, 1, None, repeat=1, max_model_len=n)))["then"]) for n in (120, 156, 228, 229)}
    assert made == {120: 1, 156: 2, 228: 4, 229: 4}
    bodies = list(prompts(plan, 2, None, repeat=1, max_model_len=156))
    assert told(bodies, 156) == "6 turns in 2 conversations, 2 of them cut short to fit a context of 156 tokens"
    assert all("cut" not in body for body in bodies)
    assert with_turns({}, [([], 5, 5)], None, plan, random.Random(1))["then"][0]["max_tokens"] == 5


def recorded(folder: Path, **more: Any) -> Load:
    path = folder / "sharegpt.json"
    path.write_text(json.dumps(RECORDED))
    return load(scenario="file", prompts_file=str(path), turns="carried", conversations=4, **more)


def test_recorded_conversations_keep_their_turns_and_lose_their_answers(tmp_path: Path) -> None:
    plan = recorded(tmp_path, think_s=0.5)
    assert check(plan, 8)[1].endswith("2 requests read")
    found = requests(plan, 1, 4, None, repeat=1)
    first, second, third, _ = found.measured  # type: ignore[misc]
    assert found.warm[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one two"},
    ]
    assert (first["messages"], first["then"]) == ([{"role": "user", "content": "alone"}], [])
    # the answers are as long as the recorded ones: here by bytes, three a token
    assert (second["max_tokens"], [turn["max_tokens"] for turn in second["then"]]) == (2, [1, 128])
    assert [[m["content"] for m in turn["messages"]] for turn in second["then"]] == [["three", "four"], ["five"]]
    assert [turn["think_s"] for turn in second["then"]] == [0.5, 0.5]
    assert third == first
    assert found.said is not None and found.said.startswith("4 turns in 2 conversations")


def test_a_conversation_with_tools_fits_its_recorded_answers_alone(tmp_path: Path) -> None:
    path = tmp_path / "tools.jsonl"
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}
    said = [{"role": "user", "content": "7 times 6?"}, called,
            {"role": "tool", "content": "42", "tool_call_id": "a"}, {"role": "assistant", "content": "42"}]  # fmt: skip
    plain = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in (plain, said)))
    plan = load(scenario="file", prompts_file=str(path), turns="carried", conversations=4)
    assert (
        "1: a conversation with tools, whose results fit the recorded answers alone (first at line 2)"
        in check(plan, 4)[1]
    )


def test_a_recorded_conversation_ends_where_it_no_longer_fits(tmp_path: Path) -> None:
    found = requests(recorded(tmp_path, output_tokens=10), 0, 2, None, repeat=1, max_model_len=120)
    by_first = {body["messages"][-1]["content"]: body for body in found.measured}
    assert len(by_first["one two"]["then"]) == 1
    assert found.said is not None and "1 of them cut short to fit a context of 120 tokens" in found.said


def test_prompts_are_no_conversations(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "hello"}\n')
    plan = load(scenario="file", prompts_file=str(path), turns="carried", conversations=4)
    with pytest.raises(PlanError, match=r"line 1: has a prompt; turns = .carried. needs recorded conversations"):
        check(plan, 4)


# ---- records: two users, three conversations, by hand


def turn(conversation: str, number: int, sent_s: float, ended_s: float, **more: Any) -> dict[str, Any]:
    row = dict.fromkeys(records.SCHEMA.names)
    return row | {
        "request_id": f"{conversation}{number}", "conversation": conversation, "turn": number, "scheduled_s": sent_s,
        "sent_s": sent_s, "first_token_s": sent_s + 0.1 * number, "last_token_s": ended_s, "ended_s": ended_s,
        "chunk_s": [sent_s + 0.1 * number, ended_s], "chunk_tokens": [1, 1], "output_tokens": 2, "outcome": "ok",
        "prompt_tokens": 10 * number, "cached_tokens": 8 * (number - 1), "reads": 2, "coalesced_reads": 0,
        "merged_reads": 0, "notes": [], **more,
    }  # fmt: skip


TURNS = [
    turn("a", 1, 0.0, 1.0), turn("a", 2, 2.0, 3.0),  # one user: 1 s of thinking, then another conversation
    turn("c", 1, 3.0, 4.0), turn("c", 2, 5.0, 6.0), turn("c", 3, 7.0, 8.0),
    turn("b", 1, 0.5, 1.5), turn("b", 2, 3.5, 4.5, outcome="aborted"),
]  # fmt: skip
CLOSED = {"kind": "closed", "concurrency": 2, "seconds": None, "requests": 3}


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=records.SCHEMA)


def test_users_are_busy_while_they_are_in_a_conversation() -> None:
    found = summarise(table(TURNS), CLOSED)
    # from b's beginning, when both are busy, to b's end, when its user finds no conversation any more
    assert found["window_s"] == pytest.approx(4.0)
    assert found["mean_conversations"] == pytest.approx(2.0)
    # a is in flight 0.5 to 1 and 2 to 3, c 3 to 4, b 0.5 to 1.5 and 3.5 to 4.5: 4.5 s of 4 s
    assert found["mean_in_flight"] == pytest.approx(4.5 / 4)
    checks = validity(table(TURNS), CLOSED, found, {"exact": None})["checks"]
    assert next(check["ok"] for check in checks if check["name"] == "concurrency held")


def test_every_turn_has_its_figures() -> None:
    found = summarise(table(TURNS), CLOSED)["turns"]
    assert [(one["turn"], one["requests"], one["ok"]) for one in found] == [(1, 3, 3), (2, 3, 2), (3, 1, 1)]
    assert [one["ttft_s"]["mean"] for one in found] == pytest.approx([0.1, 0.2, 0.3])
    assert [one["prompt_tokens_mean"] for one in found] == [10, 20, 30]
    assert [one["cached_share"] for one in found] == [0, 0.4, pytest.approx(16 / 30)]
    uncounted = [{**row, "cached_tokens": None} for row in TURNS]
    assert summarise(table(uncounted), CLOSED)["turns"][1]["cached_share"] is None
    assert summarise(table([{**row, "turn": None, "conversation": None} for row in TURNS]), CLOSED)["turns"] is None


def test_only_first_turns_are_arrivals() -> None:
    load = {"kind": "open", "rate_rps": 1.0, "arrival": "poisson", "requests": 3, "seconds": None, "max_in_flight": 4}
    unsent = dict.fromkeys(("sent_s", "ended_s", "first_token_s", "last_token_s", "output_tokens", "chunk_tokens"))
    lost = turn("d", 1, 3.0, 3.0) | unsent | {"outcome": "dropped", "chunk_s": []}
    found = summarise(table([*TURNS, lost]), load)
    assert (found["delivery"]["offered"], found["delivery"]["delivered"]) == (4, 3)
    assert found["window_s"] == 3.0  # to the last arrival
    reasons = validity(table([*TURNS, lost]), load, found, {"exact": None})["reasons"]
    assert any("1 of 4 arrivals were not sent" in reason for reason in reasons)


# ---- real Locust against the golden server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Golden]:
    with golden(tmp_path_factory.mktemp("golden"), model="golden?ttft_s=0.02&gap_s=0.002") as running:
        yield running


def measured(folder: Path, server: Golden, nbridge: Callable[..., Any], **more: Any) -> tuple[dict[str, Any], pa.Table]:
    """The cell and the records of a run of one load."""
    values = {**TALK, "name": "talk", "prompt_tokens": 6, "conversation_turns": 3, "output_tokens": 4, **more}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if value is not None]
    (folder / "plan.toml").write_text("[[loads]]\n" + "\n".join(lines).replace('": ', '" = '))
    answer = nbridge("bench", folder / "plan.toml", "--target", server.url, "--out", folder / "runs", "--json",
                     "--no-report")  # fmt: skip
    assert answer.returncode in (0, 1, 4), answer.stderr
    (cell,) = json.loads(answer.stdout)["cells"]
    (run,) = (folder / "runs").iterdir()
    return cell, store.open_run(run).requests(cell["id"])


@pytest.mark.slow
def test_the_servers_own_answers_are_carried_on(tmp_path: Path, server: Golden, nbridge: Callable[..., Any]) -> None:
    before = len(server.log())
    cell, requests = measured(tmp_path, server, nbridge, think_s=0.3)
    assert (cell["metrics"]["requests"]["ok"], len(requests)) == (18, 18), cell["reason"]
    assert cell["prompts"] == "18 turns in 6 conversations"
    by_talk: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(requests.to_pylist(), key=lambda row: row["sent_s"]):
        by_talk.setdefault(row["conversation"], []).append(row)
    assert len(by_talk) == 6
    for talk in by_talk.values():
        assert [row["turn"] for row in talk] == [1, 2, 3]
        for row, earlier in zip(talk[1:], talk, strict=False):
            assert row["scheduled_s"] - earlier["ended_s"] == pytest.approx(0.3)
            assert row["sent_s"] >= row["scheduled_s"]
    assert len({row["request_id"] for row in requests.to_pylist()}) == 18
    asked = [entry["body"]["messages"] for entry in server.log()[before:] if len(entry["body"].get("messages", ())) > 3]
    spoken = [[(m["role"], m["content"]) for m in messages] for messages in asked if len(messages) == 6]
    assert len(spoken) == 6
    for messages in spoken:
        assert [role for role, _ in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
        assert [content for role, content in messages if role == "assistant"] == [" tok tok tok tok"] * 2
    assert [one["requests"] for one in cell["metrics"]["turns"]] == [6, 6, 6]
    assert not {"content", "text"} & set(requests.column_names)


@pytest.mark.slow
def test_conversations_arrive_and_their_turns_follow(
    tmp_path: Path, server: Golden, nbridge: Callable[..., Any]
) -> None:
    cell, requests = measured(tmp_path, server, nbridge, kind="open", rate_rps=10.0, arrival="constant", seconds=2.0,
                              concurrency=None, conversations=None, think_s=0.05, processes=2)  # fmt: skip
    rows = requests.to_pylist()
    first = sorted(row["scheduled_s"] for row in rows if row["turn"] == 1)
    assert first == pytest.approx([n / 10 for n in range(20)])
    assert cell["metrics"]["delivery"]["offered"] == 20
    # none begins after the load's end: of the last conversations some turns are never asked
    assert max(row["scheduled_s"] for row in rows) < 2.0
    assert {row["outcome"] for row in rows} == {"ok"}
    assert 40 < len(rows) <= 60


@pytest.mark.slow
def test_a_conversation_ends_with_an_answer_that_is_none(tmp_path: Path, nbridge: Callable[..., Any]) -> None:
    with golden(tmp_path, model="golden?then=cut&after=2") as server:
        cell, requests = measured(tmp_path, server, nbridge)
    assert cell["outcome"] == "failed"
    assert {row["turn"] for row in requests.to_pylist()} == {1}
    assert len(requests) == 6
