"""Cells that cannot be, or shall not, are said before a server is started."""

import struct
from pathlib import Path
from typing import Any

import pytest

from bench import sweep
from bench.errors import PlanError
from bench.plans import constraints
from bench.plans.loads import Load
from bench.plans.plan import Plan, expand
from bench.plans.tables import Engine
from bench.run.outcome import exit_code
from bench.target import CannotServe, engine_settings, own_server
from checkpoints.errors import CheckpointError
from checkpoints.prepare import Checkpoint
from monitoring.machine import cpu
from serve.engine import command
from serve.errors import SettingsError

AVX512 = ["avx2", "avx512f"]


def engine(**settings: Any) -> Engine:
    return Engine.model_validate({"name": "e", "model": "demo-1m", **settings})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_num_batched_tokens": 8, "max_num_seqs": 16}, "below max_num_seqs = 16"),
        ({"max_num_batched_tokens": 64, "max_model_len": 128, "chunked_prefill": False}, "below max_model_len = 128"),
        ({"max_num_batched_tokens": 64, "max_model_len": 128}, None),  # prompts come in chunks
        ({"max_num_batched_tokens": 128, "max_model_len": 128, "chunked_prefill": False}, None),
        ({}, None),
    ],
)
def test_settings_that_vllm_refuses(settings: dict[str, Any], words: str | None) -> None:
    found = constraints.of_settings(engine(**settings))
    assert found is None if words is None else words in str(found)


def test_a_model_that_cannot_be_divided() -> None:
    config = {"num_attention_heads": 12, "num_hidden_layers": 4}
    assert "does not divide the model's 12 attention heads" in str(
        constraints.of_model(engine(tensor_parallel_size=8), config)
    )
    assert constraints.of_model(engine(tensor_parallel_size=4), config) is None
    assert "more than the model's 4 layers" in str(constraints.of_model(engine(pipeline_parallel_size=5), config))
    nested = {"text_config": config}
    assert constraints.of_model(engine(tensor_parallel_size=8), nested) is not None
    assert constraints.of_model(engine(tensor_parallel_size=8), {}) is None  # not on this machine: not known


def test_what_a_machine_lacks() -> None:
    assert "2 GPUs, and this machine has 1" in str(constraints.of_machine(engine(tensor_parallel_size=2), "gpu", 1, []))
    assert constraints.of_machine(engine(tensor_parallel_size=2), "gpu", 0, []) is None  # a driver that does not tell
    assert "needs a GPU" in str(constraints.of_machine(engine(kv_cache_dtype="nvfp4"), "cpu", 0, AVX512))
    assert constraints.of_machine(engine(kv_cache_dtype="nvfp4"), "gpu", 1, []) is None
    assert "needs a CPU with AVX-512" in str(constraints.of_machine(engine(kv_cache_dtype="fp8"), "cpu", 0, ["avx2"]))
    assert constraints.of_machine(engine(kv_cache_dtype="fp8"), "cpu", 0, AVX512) is None


def test_a_load_that_does_not_fit_the_context() -> None:
    load = Load(concurrency=1, requests=4, prompt_tokens=100, output_tokens=50)  # type: ignore[arg-type]
    assert "100 prompt tokens and 50 output tokens are more" in str(
        constraints.of_load(engine(max_model_len=128), load)
    )
    assert constraints.of_load(engine(max_model_len=150), load) is None
    assert constraints.of_load(engine(), load) is None


def plan(**more: Any) -> Plan:
    document = {
        "name": "rules",
        "engines": [{"name": "a", "model": "m"}, {"name": "b", "model": "m", "quantization": "int8"}],
        "loads": [{"concurrency": 1, "requests": 4}, {"concurrency": 4, "requests": 8}],
        **more,
    }
    return expand(document, source="the test")


def test_a_plan_skips_what_its_rules_name(tmp_path: Path) -> None:
    rule = {"engine": {"quantization": ["int8", "int4"]}, "load": {"concurrency": 1}, "reason": "too small a batch"}
    made = sweep.new(plan(skip=[rule]), tmp_path, _Silent(), command_line="nbridge bench")
    found = {cell["id"]: (cell["outcome"], cell["reason"]) for cell in made.document["cells"]}
    assert found["b-c1-r1"] == ("skipped", "too small a batch")
    assert [outcome for outcome, _ in found.values()].count("pending") == 3
    assert constraints.skipped(made.plan.skip, made.plan.engines[1]) is None  # the engine itself is measured
    for cell in made.pending:
        cell.update(outcome="ok", metrics={})
    assert exit_code(made.document) == (0, [])


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"engine": {"quantisation": "int8"}, "reason": "x"}, "unknown key `quantisation`"),
        ({"reason": "x"}, "needs `engine` or `load`"),
        ({"engine": {"quantization": "int8"}}, "reason: is missing"),
    ],
)
def test_a_rule_that_is_none_is_refused(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        plan(skip=[rule])


def test_speculation_is_checked_with_the_plan_and_names_its_engine() -> None:
    with pytest.raises(PlanError, match="num_speculative_tokens"):
        plan(engines=[{"name": "a", "model": "m", "speculative": {"method": "ngram"}}])
    document = {
        "matrix": {
            "engine": {
                "speculative": [
                    {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4},
                    {"model": "demo-1m", "num_speculative_tokens": 2},
                ],
                "prefix_caching": [True, False],
            }
        },
        "defaults": {"engine": {"model": "m"}},
        "loads": [{"concurrency": 1, "requests": 4}],
    }
    names = [one.name for one in expand(document, source="x.toml").engines]
    assert names[0] == "m-ngram-3-prefix_caching-True"
    assert len(set(names)) == 4


def test_an_impossible_engine_is_known_before_a_server_starts(tmp_path: Path) -> None:
    said: list[str] = []
    impossible = [engine(max_num_batched_tokens=8, max_num_seqs=16), engine(tensor_parallel_size=3)]
    if command.detect_device() == "cpu":
        impossible.append(engine(kv_cache_dtype="nvfp4"))
        impossible += [engine(kv_cache_dtype="fp8")] if "avx512f" not in cpu()["flags"] else []
    for one in impossible:
        with (
            pytest.raises(CannotServe) as caught,
            own_server(one, tmp_path / "log", start_timeout_s=1, say=said.append),
        ):
            pass
        assert (caught.value.outcome, caught.value.beforehand) == ("skipped", True)
        assert str(caught.value).startswith("Not started: ")
    assert not (tmp_path / "log").exists()
    assert not said


def checkpoint(load_format: str) -> Checkpoint:
    unknown = dict.fromkeys(("weights_bytes", "parameters", "hidden_size", "num_layers", "max_model_len"))
    return Checkpoint("/models/m", "m", load_format, None, "none", **unknown, kv_bytes_per_token=None)


def test_an_adapter_is_served_under_a_name_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 9, "target_modules": ["q_proj"]}')
    (tmp_path / "adapter_model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    settings = engine_settings(engine(lora=str(tmp_path)), checkpoint("auto"), print)
    assert settings.lora_modules == {"m-e-adapter": str(tmp_path)}
    assert settings.max_lora_rank == 16  # the least that vLLM takes for rank 9
    with pytest.raises(CheckpointError, match="no adapter directory"):
        engine_settings(engine(lora=str(tmp_path / "none")), checkpoint("auto"), print)


def test_a_draft_model_has_weights_where_the_model_has() -> None:
    asked = engine(speculative={"model": "demo-1m", "num_speculative_tokens": 2})
    found = engine_settings(asked, checkpoint("auto"), lambda _: None).speculative
    assert found is not None
    assert (Path(str(found.model)) / "config.json").is_file()  # a known name became its directory
    with pytest.raises(SettingsError, match="m has random weights and demo-1m has not"):
        engine_settings(asked, checkpoint("dummy"), lambda _: None)


class _Silent:
    def say(self, text: str) -> None: ...
    def cell_started(self, cell: dict[str, Any], number: int, total: int) -> None: ...
    def requests_ended(self, done: int, total: int | None) -> None: ...
    def cell_ended(self, cell: dict[str, Any]) -> None: ...
    def time_left(self, left: Any) -> None: ...
