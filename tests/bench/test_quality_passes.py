"""Which engines of a run are judged, on which model, and what becomes of one that cannot be."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from logprob_server import prompt_logprobs, serving, vllm

from bench.errors import PlanError
from bench.order import quality_of_server
from bench.plans.plan import Plan, expand, find_plan, load_plan
from bench.plans.tables import Engine
from bench.quality import passes
from bench.run import store
from bench.target import CannotServe, Served

LOADS = [{"name": "c1", "concurrency": 1, "requests": 4}]


def plan(tmp_path: Path, *engines: dict[str, Any], **quality: Any) -> Plan:
    (tmp_path / "text.txt").write_text("abcdefgh " * 200)
    asked = {"texts": "text.txt", "tokens": 80, "window_tokens": 8, "top": 3} | quality
    given = {key: value for key, value in asked.items() if value is not None}
    named = [{"name": f"e{number}", "model": "demo-1m", **engine} for number, engine in enumerate(engines)]
    return expand({"engines": named, "loads": LOADS, "quality": given}, source="the test", base=tmp_path)


def document(made: Plan, *, remote: bool = False) -> dict[str, Any]:
    cells = [{"engine": {"name": engine.name}, "outcome": "ok", "reason": None} for engine in made.engines]
    found = {"plan": made.model_dump(mode="json"), "cells": cells, "quality": passes.start(made, remote=remote)}
    return found | {"format": store.FORMAT, "run_id": "r1"}


def silent(_text: str) -> None: ...


def test_random_weights_are_refused_before_anything_starts(tmp_path: Path) -> None:
    run = document(plan(tmp_path, {"model": "demo-100m"}, {"model": "demo-1m"}))
    first, second = run["quality"]["engines"]
    assert (first["outcome"], first["known_beforehand"], first["figures"]) == ("unsupported", True, None)
    assert "demo-100m has random weights" in first["reason"]
    assert [entry["engine"] for entry in passes.pending(run)] == ["e1"] == [second["engine"]]


def test_speed_and_quality_may_be_of_two_models(tmp_path: Path) -> None:
    made = plan(tmp_path, {"model": "demo-100m"}, {"model": "demo-1m"}, model="demo-1m")
    run = document(made)
    assert [entry["model"] for entry in run["quality"]["engines"]] == ["demo-1m"] * 2
    assert passes.pending(run, made.engines[0]) == []  # not on the server of its cells
    assert len(passes.pending(run, made.engines[1])) == 1
    assert run["quality"]["baseline"] == "e0"


def test_a_directory_without_weights_has_none(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
    (entry,) = document(plan(tmp_path, {"model": str(tmp_path / "bare")}))["quality"]["engines"]
    assert "has random weights" in entry["reason"]


@pytest.mark.parametrize(
    ("engine", "quality", "words"),
    [
        ({"model": "org/name"}, {"texts": None}, "comes without text that it was not trained on"),
        ({}, {"texts": "absent.txt"}, "no such file"),
        ({}, {"tokens": 8000, "window_tokens": 800}, "enough for 0 pieces"),
        ({}, {"baseline": "bf61"}, "neither an engine of the plan .e0. nor a run folder"),
    ],
)
def test_what_cannot_be_judged_is_said_before_a_run_begins(
    tmp_path: Path, engine: dict[str, Any], quality: dict[str, Any], words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        passes.start(plan(tmp_path, engine, **quality), remote=False)


def test_a_demo_model_brings_its_own_text(tmp_path: Path) -> None:
    run = document(plan(tmp_path, {}, texts=None))
    assert (run["quality"]["texts"], len(passes.pending(run))) == (None, 1)


def test_a_pass_is_written_down_and_not_repeated(tmp_path: Path) -> None:
    made = plan(tmp_path, {}, {"quantization": "int8"})
    run, said = document(made), list[str]()
    with serving() as (target, asked):
        for engine in made.engines:
            passes.judge(tmp_path, run, made, engine, target, said.append)
        before = len(asked)
        passes.judge(tmp_path, run, made, made.engines[0], target, said.append)
        assert len(asked) == before
    first, second = passes.engines(run)
    assert (first["outcome"], first["figures"]["tokens"], first["figures"]["perplexity"]) == (
        "ok",
        80,
        pytest.approx(2),
    )
    assert (second["applied"], second["against"]["identical"]) == (False, True)
    assert said[-1].endswith("same first token 100.0%; not applied")
    assert store.Run(tmp_path, run).scored("e1").num_rows == 80  # type: ignore[union-attr]
    json.dumps(run, allow_nan=False)


def test_an_interrupt_leaves_the_engine_to_be_judged(tmp_path: Path) -> None:
    made = plan(tmp_path, {})
    run = document(made)

    def interrupted(_text: str) -> None:
        raise KeyboardInterrupt

    with serving() as (target, _), pytest.raises(KeyboardInterrupt):
        passes.judge(tmp_path, run, made, made.engines[0], target, interrupted)
    assert len(passes.pending(run)) == 1


def test_what_failed_can_be_tried_again(tmp_path: Path) -> None:
    made = plan(tmp_path, {})
    run = document(made)
    with serving(lambda *_: (503, {"error": "later"})) as (target, _):
        passes.judge(tmp_path, run, made, made.engines[0], target, silent)
    (entry,) = passes.engines(run)
    assert entry["outcome"] == "failed"
    assert "tokenizer does not answer: HTTP 503" in entry["reason"]
    passes.retry(run, ("failed",))
    with serving() as (target, _):
        passes.judge(tmp_path, run, made, made.engines[0], target, silent)
    assert [(one["outcome"], one["reason"]) for one in passes.engines(run)] == [("ok", None)]


def test_a_text_that_changed_meanwhile_is_not_the_runs_text(tmp_path: Path) -> None:
    made = plan(tmp_path, {}, {})
    run = document(made)
    (tmp_path / "text.txt").write_text("another! " * 200)
    with serving() as (target, _):
        passes.judge(tmp_path, run, made, made.engines[1], target, silent)
    assert "text.txt is not the text that the run began with" in passes.engines(run)[1]["reason"]


def test_an_engine_that_cannot_be_served_is_given_up_unless_it_rounds_weights_alone(tmp_path: Path) -> None:
    made = plan(tmp_path, {"quantization": "int8"}, {"quantization": "int4"}, {"quantization": "fp8"})
    run = document(made)
    for engine in made.engines:
        passes.give_up(run, engine, CannotServe("unsupported", "The engine said: no kernel."))
    assert [entry["engine"] for entry in passes.pending(run)] == ["e1"]
    passes.give_up(run, made.engines[1], CannotServe("oom", "Too large."))
    assert [entry["outcome"] for entry in passes.engines(run)] == ["unsupported", "oom", "unsupported"]


def elsewhere(
    tmp_path: Path, made: Plan, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch, problem: CannotServe | None = None
) -> list[Engine]:
    """Judge every engine of `made` on another model, whose servers are the fake; the engines that were to be served."""
    asked: list[Engine] = []

    @contextlib.contextmanager
    def fake(engine: Engine, _log_path: Path, **_settings: Any) -> Iterator[Served]:
        asked.append(engine)
        if problem is not None:
            raise problem
        with serving() as (target, _):
            yield Served(target, None, None)

    monkeypatch.setattr(passes, "own_server", fake)
    for engine in made.engines:
        passes.judge_elsewhere(tmp_path, run, made, engine, silent)
    return asked


def test_settings_are_judged_on_another_model_by_a_server_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = {"model": "demo-100m", "max_model_len": 4096, "dtype": "bfloat16"}
    made = plan(tmp_path, big, {**big, "quantization": "int8", "kv_cache_dtype": "fp8"}, model="demo-1m")
    run = document(made)
    asked = elsewhere(tmp_path, made, run, monkeypatch)
    assert [(one.model, one.quantization, one.dtype, one.kv_cache_dtype) for one in asked] == [
        ("demo-1m", "none", "bfloat16", None), ("demo-1m", "int8", "bfloat16", "fp8"),
    ]  # fmt: skip
    assert [one.max_model_len for one in asked] == [8 + 64] * 2  # room for a piece, whatever the plan's own model needs
    assert [(one["outcome"], one["model"], one["rounded"]) for one in passes.engines(run)] == [
        ("ok", "demo-1m", False)
    ] * 2
    assert elsewhere(tmp_path, made, run, monkeypatch) == []  # done once


def test_what_no_kernel_runs_is_judged_rounded_where_weights_alone_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(tmp_path, {}, {"quantization": "int4"}, {"quantization": "awq-g32"}, {"quantization": "fp8"})
    run = document(made)
    for cell in run["cells"][1:]:
        cell |= {"outcome": "unsupported", "reason": "The engine said: no kernel."}
    asked = elsewhere(tmp_path, made, run, monkeypatch)
    assert [one.quantization for one in asked] == ["none", "w4a16-rounded", "awq-g32-rounded"]
    found = passes.engines(run)
    assert [(one["outcome"], one["rounded"]) for one in found] == [
        ("ok", False), ("ok", True), ("ok", True), ("unsupported", False),
    ]  # fmt: skip
    assert found[3]["reason"] == "The engine said: no kernel."


def test_a_server_that_does_not_start_elsewhere_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(tmp_path, {"model": "demo-100m"}, model="demo-1m")
    run = document(made)
    elsewhere(tmp_path, made, run, monkeypatch, CannotServe("oom", "Too large."))
    assert [(one["outcome"], one["reason"]) for one in passes.engines(run)] == [("oom", "Too large.")]


def test_a_baseline_of_another_run_comes_along(tmp_path: Path) -> None:
    old = plan(tmp_path, {})
    run = document(old)
    with serving() as (target, _):
        passes.judge(tmp_path / "old", run, old, old.engines[0], target, silent)
    store.write_json(tmp_path / "old" / "run.json", run)
    made = plan(tmp_path, {"quantization": "int8"}, baseline="old")
    new = document(made)
    passes.keep_baseline(tmp_path / "new", new)
    store.quality_file(tmp_path / "old", "e0").unlink()  # the new run stands by itself
    passes.keep_baseline(tmp_path / "new", new)

    def worse(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return vllm(path, body) if path == "/tokenize" else (200, prompt_logprobs(body["prompt"], {"0": -3.0}))

    with serving(worse) as (target, _):
        passes.judge(tmp_path / "new", new, made, made.engines[0], target, silent)
    (entry,) = passes.engines(new)
    assert (entry["applied"], entry["against"]["kl"] > 0.05) == (True, True)
    with pytest.raises(PlanError, match="has no quality of a baseline"):
        passes.start(made, remote=False)  # whose rows are gone from the old run


def test_a_target_is_judged_on_texts_that_are_named_alone() -> None:
    default = load_plan(find_plan(None))
    said: list[str] = []
    assert quality_of_server(default, said.append) is None
    assert "has to name `texts`" in said[-1]
    named = default.model_copy(update={"quality": default.quality and default.quality.model_copy(
        update={"texts": "t", "baseline": "int8"})})  # fmt: skip
    kept = quality_of_server(named, said.append)
    assert kept is not None
    assert (kept.model, kept.baseline, kept.texts) == (None, None, "t")
