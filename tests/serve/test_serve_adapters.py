"""LoRA adapters on the way from the command line to vLLM's options: checked before anything is started."""

import json
import struct
from pathlib import Path

import pytest

from checkpoints.errors import BadAdapter, WrongBase
from serve.cli import with_adapters
from serve.engine.command import build
from serve.engine.passed_on import adapters_named
from serve.engine.settings import EngineSettings
from serve.errors import SettingsError


def make_adapter(path: Path, *, rank: int = 16, base_sha256: str | None = None) -> Path:
    path.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": rank, "target_modules": ["q_proj"], "base_model_name_or_path": "base"}
    (path / "adapter_config.json").write_text(json.dumps(config))
    (path / "adapter_model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    if base_sha256:
        (path / "nbridge.json").write_text(json.dumps({"base": "demo-1m", "base_sha256": base_sha256}))
    return path


def test_names_and_directories_as_typed() -> None:
    assert adapters_named(["a=/x/a", "b=rel=ative"]) == {"a": "/x/a", "b": "rel=ative"}


@pytest.mark.parametrize(
    ("words", "said"),
    [(["legal"], "expected NAME=DIRECTORY"), (["=x"], "expected NAME"), (["a=1", "a=2"], "names 'a' twice")],
)
def test_what_is_no_adapter_flag(words: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        adapters_named(words)


def test_adapters_become_absolute_and_the_engine_has_room_for_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_adapter(tmp_path / "small", rank=8)
    make_adapter(tmp_path / "large", rank=20)
    monkeypatch.chdir(tmp_path)
    settings = EngineSettings(model="m", lora_modules={"s": "small", "l": "large"})
    found = with_adapters(settings, tmp_path)
    assert found.lora_modules == {"s": str(tmp_path / "small"), "l": str(tmp_path / "large")}
    assert (found.max_lora_rank, found.max_loras) == (32, 2)  # vLLM knows no rank between 16 and 32
    argv = build(found, device="cpu").argv
    assert argv[argv.index("--max-lora-rank") + 1] == "32"
    own = with_adapters(settings.model_copy(update={"max_lora_rank": 64, "max_loras": 1}), tmp_path)
    assert (own.max_lora_rank, own.max_loras) == (64, 1)
    assert with_adapters(EngineSettings(model="m"), tmp_path) == EngineSettings(model="m")


def test_what_cannot_be_served_is_refused_before_the_start(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", rank=20, base_sha256="of another model")
    settings = EngineSettings(model="m", served_model_name="served", lora_modules={"a": str(adapter)})
    with pytest.raises(SettingsError, match="max_lora_rank = 16: the adapters need 32"):
        with_adapters(settings.model_copy(update={"max_lora_rank": 16}), tmp_path)
    with pytest.raises(SettingsError, match="'served' is the served model's own name"):
        with_adapters(settings.model_copy(update={"lora_modules": {"served": str(adapter)}}), tmp_path)
    with pytest.raises(BadAdapter, match="no adapter directory"):
        with_adapters(settings.model_copy(update={"lora_modules": {"a": str(tmp_path / "none")}}), tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    (model / "nbridge.json").write_text(json.dumps({"format": 1, "name": "demo-1m-b", "files": {}}))
    with pytest.raises(WrongBase, match="trained for demo-1m, whose weights are others than those of demo-1m-b"):
        with_adapters(settings, model)
