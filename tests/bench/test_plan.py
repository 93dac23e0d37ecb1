"""A plan means what it says, and a wrong one says what is wrong."""

from pathlib import Path
from typing import Any

import pytest

from bench.errors import PlanError
from bench.plans.loads import Lengths
from bench.plans.plan import PLANS, cell_id, expand, find_plan, load_plan, only_searching, validate
from reports.measured.loads import load_label

ENGINES = [{"model": "demo-1m"}]
LOADS = [{"concurrency": 2, "requests": 4}]


def test_the_default_plan_has_nine_cells() -> None:
    plan = load_plan(find_plan(None))
    assert [cell_id(e, load, 1) for e in plan.engines for load in plan.loads] == [
        f"{engine}-{load}-r1" for engine in ("bf16", "int8", "int4") for load in ("c1", "c4", "c16")
    ]


@pytest.mark.parametrize("path", sorted(PLANS.glob("*.toml")), ids=lambda path: path.stem)
def test_bundled_plans_are_valid(path: Path) -> None:
    assert load_plan(path).engines
    assert find_plan(path.stem) == path


def test_defaults_and_matrix_multiply() -> None:
    plan = expand(
        {
            "defaults": {"engine": {"model": "m"}, "load": {"requests": 64, "prompt_tokens": 100}},
            "matrix": {
                "engine": {"quantization": ["none", "int8"], "max_num_seqs": [8, 16]},
                "load": {"concurrency": [1, 4]},
            },
        },
        source="x.toml",
    )
    assert [engine.name for engine in plan.engines] == [
        f"{q}-max_num_seqs-{n}" for q in ("unquantized", "int8") for n in (8, 16)
    ]
    assert [(load.name, load.concurrency) for load in plan.loads] == [("c1", 1), ("c4", 4)]
    assert plan.loads[0].prompt_tokens == Lengths(kind="fixed", mean=100)
    assert plan.name == "x"


def test_an_engine_that_nothing_sets_apart_is_called_by_its_model() -> None:
    def names(*engines: dict[str, object], **matrix: object) -> list[str]:
        plan = {"engines": list(engines), "loads": [{"concurrency": 1, "requests": 8}], "matrix": {"engine": matrix}}
        return [engine.name for engine in expand(plan, source="x.toml").engines]

    assert names({"model": "demo-1m"}) == ["demo-1m"]
    assert names({"model": "meta-llama/Llama-3.1-8B"}, max_num_seqs=[8, 16]) == [
        "Llama-3.1-8B-max_num_seqs-8", "Llama-3.1-8B-max_num_seqs-16",
    ]  # fmt: skip
    assert names({"model": "demo-1m"}, quantization=["none", "int8"]) == ["unquantized", "int8"]
    assert names({"model": "demo-1m"}, model=["demo-1m", "demo-100m"]) == ["demo-1m", "demo-100m"]


def test_an_expanded_plan_reads_back_from_its_run() -> None:
    changing = expand({"engines": [{"model": "m"}], "loads": [RAMP]}, source="x.toml")
    for plan in (load_plan(find_plan(None)), changing):
        assert validate(plan.model_dump(mode="json"), source="run.json") == plan


def test_the_rate_of_a_changing_load_is_the_mean_of_its_rates() -> None:
    steps = {**RAMP, "arrival": "step", "rates_rps": [1, 2, 6], "name": "steps"}
    plan = expand({"engines": [{"model": "m"}], "loads": [RAMP, steps]}, source="x.toml")
    assert [load.rate_rps for load in plan.loads] == [6.0, 3.0]
    assert [load_label(load.model_dump(mode="json"))[0] for load in plan.loads] == [
        "6 requests/s (a ramp over 2, 10/s)", "3 requests/s (steps of 1, 2, 6/s)",
    ]  # fmt: skip


FILE = {"scenario": "file", "prompts_file": "a.jsonl"}
OPEN = {"kind": "open", "rate_rps": 2, "seconds": 9}
RAMP = {"kind": "open", "arrival": "ramp", "rates_rps": [2, 10], "seconds": 9}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"loads": [{"concurency": 1, "requests": 4}]}, ["concurency", "= 1", "Did you mean `concurrency`"]),
        ({"loads": [{"concurrency": 0, "requests": 4}]}, ["loads[c0].concurrency = 0", "greater than 0"]),
        ({"loads": [{"concurrency": 3, "requests": 4}]}, ["requests = 4 at concurrency = 3"]),
        ({"loads": [{"concurrency": 3}]}, ["set `requests` or `seconds`"]),
        ({"loads": [{**OPEN, "requests": 9}]}, ["either `requests` or `seconds`", 'not for kind = "open"']),
        ({"loads": [{"scenario": "conversation", "concurrency": 1, "conversations": 9, "seconds": 9}]},
         ["either `conversations` or `seconds`", "not for conversations"]),
        ({"loads": [{"kind": "open", "requests": 4}]}, ["needs `rate_rps`"]),
        ({"loads": [{"kind": "open", "rate_rps": 1, "concurrency": 4, "requests": 9}]}, ["max_in_flight"]),
        ({"loads": [{"rate_rps": 1, "concurrency": 4, "requests": 9}]}, ['kind = "open"']),
        ({"loads": [{"scenario": "file", "concurrency": 1, "requests": 9}]}, ["`prompts_file`"]),
        ({"loads": [{"concurrency": 1, "requests": 9, "arrival": "gamma", "burstiness": 1}]}, ['set kind = "open"']),
        ({"loads": [{**OPEN, "arrival": "gamma"}]}, ["`burstiness` go together"]),
        ({"loads": [{**OPEN, "burstiness": 0.5}]}, ["`burstiness` go together"]),
        ({"loads": [{**OPEN, "arrival": "gamma", "burstiness": -1}]}, ["burstiness = -1"]),
        ({"loads": [{**OPEN, "arrival": "ramp"}]}, ["`rates_rps` goes with"]),
        ({"loads": [{**OPEN, "rates_rps": [1, 2]}]}, ["`rates_rps` goes with"]),
        ({"loads": [{**RAMP, "rates_rps": [0, 0]}]}, ["nothing would arrive"]),
        ({"loads": [{**RAMP, "rates_rps": [5]}]}, ["rates_rps"]),
        ({"loads": [{**RAMP, "rates_rps": [1, -2]}]}, ["rates_rps"]),
        ({"loads": [{**RAMP, "rates_rps": ["a", 2]}]}, ["rates_rps"]),
        ({"loads": [{**RAMP, "rate_rps": 5}]}, ["the mean of rates_rps is 6: leave rate_rps out"]),
        ({"loads": [{**RAMP, "seconds": None, "requests": 9}]}, ["needs `seconds`"]),
        ({"loads": [{"kind": "open", "arrival": "trace"}]}, ['arrival = "trace" needs scenario = "file"']),
        ({"loads": [{**FILE, "arrival": "trace", "concurrency": 1}]}, ['set kind = "open"']),
        ({"loads": [{**FILE, "concurrency": 1, "requests": 9, "speed": 2}]}, ['`speed` belongs to arrival = "trace"']),
        ({"loads": [{"concurrency": 1, "requests": 9, "turns": "all"}]}, ['`turns` belongs to scenario = "file"']),
        ({"loads": [{**FILE, "concurrency": 1, "requests": 9, "too_long": "drop"}]}, ["too_long = 'drop'", "'skip'"]),
        ({"loads": [{**LOADS[0], "prompt_tokens": {"kind": "gauss"}}]}, ["prompt_tokens.kind = 'gauss'", "uniform"]),
        ({"loads": [{**LOADS[0], "prompt_tokens": {"kind": "uniform", "hi": 3}}]}, ["unknown key", "`high`"]),
        ({"loads": [{**LOADS[0], "prompt_tokens": {"kind": "uniform", "low": 5, "high": 3}}]}, ["3 is below low = 5"]),
        ({"loads": [{**LOADS[0], "prompt_tokens": -1}]}, ["prompt_tokens.mean = -1"]),
        ({"loads": 3}, ["[[loads]]"]),
        ({"engines": [{}]}, ["engines[engine].model", "missing"]),
        ({"engines": [{"model": "m", "quantization": "int2"}]}, ["engines[int2]", "8-15 %", "Use int4"]),
        ({"engines": [{"model": "m", "quantization": "INT8-g32"}]}, ["no groups"]),
        ({"engines": [{"model": "m", "quantization": "fp16", "dtype": "bfloat16"}]}, ["number format float16"]),
        ({"quality": {"token": 9}}, ["quality.token = 9", "Did you mean `tokens`"]),
        ({"quality": {"tokens": 900, "window_tokens": 100}}, ["at least 10 pieces"]),
        ({"quality": {"top": 0}}, ["quality.top = 0"]),
        ({"engines": [{"model": "m", "tensor_parallel": 2}]}, ["Did you mean `tensor_parallel_size`"]),
        ({"engines": ENGINES * 2}, ["two engines are called 'demo-1m'"]),
        ({"repeat": 3}, ["repeat = 3", "Did you mean `repeats`"]),
        ({"repeats": 0}, ["repeats = 0"]),
        ({"slo": {"ttft": 1}}, ["slo.ttft = 1", "Did you mean `ttft_s`"]),
        ({"matrix": {"load": {"concurrency": 3}}}, ["list of the values to try"]),
        ({"matrix": {"load": {"concurency": [3]}}}, ["[matrix.load]", "Did you mean `concurrency`"]),
        ({"matrix": {"loads": {}}}, ["[matrix.loads]"]),
    ],
)  # fmt: skip
def test_a_wrong_plan_names_the_key_the_value_and_the_way_out(document: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        expand({"engines": ENGINES, "loads": LOADS, **document}, source="plan.toml")
    message = str(caught.value)
    assert message.startswith("plan.toml: ")
    assert all(word in message for word in words), message
    assert "Tuple should have" not in message


@pytest.mark.parametrize(
    ("word", "given", "dtype"),
    [
        ("fp16", None, "float16"),
        ("half", "half", "half"),
        ("bf16", "auto", "bfloat16"),
        ("fp32", "float", "float"),
        ("none", None, None),
        ("int8", "bfloat16", "bfloat16"),
    ],
)
def test_a_number_format_as_quantization_is_the_dtype(word: str, given: str | None, dtype: str | None) -> None:
    engine = {"model": "m", "quantization": word} | ({"dtype": given} if given else {})
    assert expand({"engines": [engine], "loads": LOADS}, source="x").engines[0].dtype == dtype


def test_a_missing_plan_offers_the_bundled_ones(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"bundled plan: .*default"):
        load_plan(tmp_path / "nope.toml")
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(PlanError, match="not readable as TOML"):
        load_plan(tmp_path / "bad.toml")


def test_texts_and_a_baseline_are_sought_beside_the_plan(tmp_path: Path) -> None:
    text = 'loads = [{concurrency = 1, requests = 9}]\nengines = [{name = "a", model = "m"}]\n[quality]\n'
    for given, found in (("a", "a"), ("runs/1", str(tmp_path / "runs" / "1"))):
        (tmp_path / "plan.toml").write_text(f'{text}texts = "t.txt"\nbaseline = "{given}"\n')
        quality = load_plan(tmp_path / "plan.toml").quality
        assert quality is not None
        assert (quality.texts, quality.baseline) == (str(tmp_path / "t.txt"), found)


def test_a_prompts_file_is_sought_beside_the_plan_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of")
    text = (
        'loads = [{scenario = "file", concurrency = 1, requests = 9, prompts_file = "%s"}]\nengines = [{model = "m"}]\n'
    )
    for given, found in (("a.jsonl", str(tmp_path / "a.jsonl")), ("~/a.jsonl", "/home/of/a.jsonl"), ("/b", "/b")):
        (tmp_path / "plan.toml").write_text(text % given)
        assert load_plan(tmp_path / "plan.toml").loads[0].prompts_file == found


def test_a_search_without_a_plan_is_not_the_default_plans_short_one() -> None:
    default = load_plan(find_plan(None))
    assert default.capacity is not None and default.capacity.max_time_s < 60
    own = only_searching(default, {"slo": "ttft_p95<0.5"}, anew=True).capacity
    assert own is not None and (own.precision, own.max_time_s) == (0.05, 900.0)
    chosen = only_searching(default, {"precision": 0.1}).capacity  # of a plan that somebody named: what it says
    assert chosen is not None and (chosen.precision, chosen.max_time_s) == (0.1, default.capacity.max_time_s)
