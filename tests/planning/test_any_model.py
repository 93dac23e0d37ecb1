"""Sizes of models as people have them, held against transformers' counts and against vLLM's own parameters and caches.

`tests/configs` holds published configurations, `planning/catalog/vllm_models.json` what vLLM 0.32 made of them on 1, 2
and 8 GPUs on torch's meta device (`planning.memory.engine_model` asks it; towers need torchvision, sparse attention a
GPU's backend). A name "catalog:MODEL SCHEME" in it is a known architecture in a quantization.
"""

import json
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import pytest

from checkpoints.catalog import models as catalogued
from checkpoints.tensors import architecture, entries, layers, meta, schemes
from checkpoints.tensors.meta_shapes import MARK
from planning.catalogs import GIB, load
from planning.memory import asking, held, kv, table, vram
from planning.memory.models import read
from planning.memory.placement import is_tower
from planning.memory.shapes import Shape
from planning.memory.sharding import Setting, stages

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("any model")]  # transformers is asked once for all

CONFIGS = Path(__file__).parents[1] / "configs"
RECORD = held.record()
PUBLISHED = tomllib.loads((CONFIGS / "published.toml").read_text(encoding="utf-8"))
# transformers 5.19 on the meta device; Kimi K2 and MiMo (unknown to it) by formula.
PARAMETERS = {
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b-fp8": 30_532_122_624,
    "deepseek-v3": 671_026_404_352,
    "llama-4-scout-17b-16e-instruct": 107_769_861_120,
    "mixtral-8x22b-v0.1": 140_620_634_112,
    "meta-llama-3.1-405b": 405_853_388_800,
    "gpt-oss-120b": 116_829_156_672,
    "minimax-m2.5": 228_689_748_992,
    "gemma-2-9b": 9_241_705_984,
    "phi-3-mini": 3_821_079_552,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.1-70b-instruct-fp8": 70_553_706_496,
    "kimi-k2-instruct": 1_026_408_209_408,
    "mimo-7b-base": 7_622_619_136,
}
# Asked of transformers: (all parameters, of them in towers).
ASKED = {
    "qwen3-vl-8b-instruct": (8_767_123_696, 576_388_336),
    "qwen3.5-35b-a3b": (34_660_610_688 + 446_571_248, 446_571_248),
    "deepseek-v4-flash": (284_332_230_231, 0),
    "gemma-4-26b-a4b": (25_805_933_872, 572_792_112),
    "nvidia-nemotron-3-nano-30b-a3b-nvfp4": (31_577_937_344, 0),
    "step-3.7-flash": (197_824_847_872, 1_981_014_784),
    "glm-5.1-fp8": (743_911_199_232, 0),
}


def directory(name: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    shutil.copy(CONFIGS / f"{name}.json", folder / "config.json")
    if (beside := CONFIGS / f"{name}.hf_quant.json").exists():
        shutil.copy(beside, folder / "hf_quant_config.json")
    return folder


def shape_of(name: str, folder: Path) -> Shape:
    if name.startswith("catalog:"):
        known, _, scheme = name.removeprefix("catalog:").partition(" ")
        return read(known, scheme or "none")
    return read(name if name in catalogued() else str(directory(name, folder)))


def is_formula(name: str) -> bool:
    if name.startswith("catalog:"):
        return True
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    towers = any(config.get(f"{tower}_config") for tower in ("vision", "audio"))
    return architecture.is_known(entries.text_of(config)) and not towers


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple[int, ...]]]:
    """Name → shapes that transformers gives: in one process, where a user's `nbridge vram` starts one for each."""
    names = sorted({*ASKED, *(name for name in (*RECORD, *PUBLISHED) if not is_formula(name))})
    folder = tmp_path_factory.mktemp("asked")
    folders = [str(directory(name, folder / name)) for name in names]
    command = [sys.executable, "-m", "checkpoints.tensors.meta_shapes", *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=CONFIGS.parents[1])
    answers = [json.loads(line.removeprefix(MARK)) for line in done.stdout.splitlines() if line.startswith(MARK)]
    return {
        name: {key: tuple(shape) for key, shape in answer["shapes"].items()}
        for name, answer in zip(names, answers, strict=True)
    }


@pytest.fixture
def shape(
    name: str, asked: dict[str, dict[str, tuple[int, ...]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shape:
    """The shape of the model `name`, of which transformers was asked before."""
    if not is_formula(name):
        monkeypatch.setattr(meta, "ask", lambda _: asked[name])
    return shape_of(name, tmp_path)


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_parameters_by_formula_are_those_of_transformers(name: str, parameters: int, tmp_path: Path) -> None:
    shape = shape_of(name, tmp_path)
    assert (shape.parameters, shape.source) == (parameters, "configuration")


def test_parameters_of_other_architectures_are_asked_of_transformers(
    asked: dict[str, dict[str, tuple[int, ...]]],
) -> None:
    found = {}
    for name in ASKED:
        towers = sum(prod(shape) for key, shape in asked[name].items() if is_tower(key))
        found[name] = (sum(prod(shape) for shape in asked[name].values()), towers)
    assert found == ASKED


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_that_makers_publish(name: str, shape: Shape) -> None:
    assert table.agrees(shape, PUBLISHED[name]) == ("why" not in PUBLISHED[name])
    assert PUBLISHED[name]["billions"] in table.row(name, shape, PUBLISHED[name])


def test_what_transformers_filled_in_itself_is_said(tmp_path: Path) -> None:
    # Its class takes a nested configuration; the published flat one leaves it at its defaults.
    shape = shape_of("step-3.7-flash", tmp_path)
    assert (shape.parameters, shape.source) == (ASKED["step-3.7-flash"][0], "transformers")
    assert "vocabulary of 128,815 where config.json says 128,896" in shape.notes[0]
    assert not shape.held


@pytest.mark.parametrize("name", RECORD)
def test_exact_is_said_of_what_was_recorded_and_agrees(name: str, shape: Shape) -> None:
    one = RECORD[name]
    assert (one["model_type"], one["form"]) == (shape.text["model_type"], shape.form)
    assert one["cache_bits"] == (shape.cache_bits or 16)
    # Eight GPUs do not divide Qwen2.5 7B's heads; all others were asked on one, two and eight.
    assert set(one["gpus"]) == {"1", "2"} | ({"8"} if "qwen2.5-7b" not in name else set())
    # The file says what agrees; here it is computed anew.
    assert one["agrees"] == agrees(shape, one["gpus"])
    if not one["agrees"]:
        assert not shape.held
        assert not shape.cache_held(one["cache_bits"])
    # Another model of the same kind must not say more than this one bears out.
    assert shape.held <= ("weights" in one["agrees"])
    assert shape.cache_held(one["cache_bits"]) <= ("cache" in one["agrees"])


def agrees(shape: Shape, gpus: dict[str, Any]) -> list[str]:
    """What of our arithmetic is vLLM's on each number of GPUs: the weights within 1 %, the caches to the byte."""
    weights = all(
        stages(shape, Setting(tensor_parallel=int(count)))[0].weights_bytes
        == pytest.approx(theirs["weights_bytes"], rel=0.01)
        for count, theirs in gpus.items()
    )
    cache = all(_caches(shape, int(count)) == _recorded(theirs) for count, theirs in gpus.items())
    # What a GPU's kernels pad, a record made on a CPU does not show: `test_padding_of_mxfp4_is_what_was_printed`.
    padded = shape.scheme == "mxfp4"
    return ["weights"] * (weights and not padded) + ["cache"] * cache


def _caches(shape: Shape, tensor_parallel: int) -> Counter[tuple[tuple[float, int | None, float], ...]]:
    assert shape.caches is not None
    per_value = 1 if shape.cache_bits else 2
    return Counter(
        tuple(
            (
                one.token_bytes(tensor_parallel=tensor_parallel, bytes_per_value=per_value),
                one.window,
                one.sequence_bytes(tensor_parallel),
            )
            for one in layer
        )
        for layer in shape.caches
    )


def _recorded(theirs: dict[str, Any]) -> Counter[tuple[tuple[float, int | None, float], ...]]:
    return Counter({tuple(tuple(one) for one in kinds): count for count, kinds in theirs["layers"]})


@pytest.mark.parametrize(
    ("name", "scheme", "weights", "cache"),
    [
        ("llama-3.1-8b", "none", True, True),
        ("llama-3.1-8b", "bitsandbytes", False, True),  # never recorded
        ("mixtral-8x7b", "fp8", False, True),  # converted while loading: never recorded of a mixture of experts
        ("qwen2.5-14b", "none", True, True),
        ("gpt-oss-120b", "none", False, True),  # padded by a GPU's kernels
        ("llama-3_3-nemotron-super-49b-v1", "none", False, False),  # its caches were worked out, not recorded
        ("nvidia-nemotron-3-nano-30b-a3b-nvfp4", "none", False, False),
    ],
)
def test_exact_is_not_said_of_anything_else(
    name: str, scheme: str, weights: bool, cache: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What transformers says of the sizes is not the question here.
    monkeypatch.setattr(meta, "ask", lambda _: {"model.norm.weight": (64,)})
    shape = shape_of(name, tmp_path)
    if scheme != "none":
        shape = read(name, scheme)
    assert (shape.held, shape.cache_held()) == (weights, cache)


@pytest.mark.parametrize("quantization", ["fp8", "bitsandbytes", "int8", "int4", "awq", "gptq"])
def test_asked_vllm_says_the_weights_before_they_are_converted(quantization: str) -> None:
    # On the meta device vLLM 0.32 makes 16 bit of Llama 3.1 8B with --quantization fp8, too: 16,060,522,496 bytes.
    plain = read("qwen2.5-14b")
    held_bytes = tuple((place, size) for place, size in plain.portions.items())
    engine = asking.EngineModel("0.32.0", "cpu", 1, held_bytes, ())
    converted = read("qwen2.5-14b", quantization)
    assert not engine.weights_differ(plain, plain.weights_bytes)
    assert engine.weights_differ(converted, converted.weights_bytes)
    made = vram.estimate(converted, load().gpu("h100-80gb"), engine=engine)
    assert made.weights_bytes == converted.weights_bytes
    assert not made.exact_weights


def test_exact_is_not_said_of_other_groups_than_recorded(tmp_path: Path) -> None:
    config = dict(catalogued()["llama-3.1-8b"].config)
    found = {}
    for group in (128, 32):
        written = {**config, "quantization_config": schemes.quantization_config("awq", group, ["lm_head"])}
        (tmp_path / "config.json").write_text(json.dumps(written))
        found[group] = read(str(tmp_path)).held
    assert found == {128: True, 32: False}


def test_a_cache_of_8_bits_is_exact_where_that_was_recorded() -> None:
    gpu = load().gpu("h100-80gb")
    by_name = {
        name: vram.estimate(read(name), gpu, Setting(kv_cache_dtype="fp8")).exact_cache
        for name in ("llama-3.1-8b", "deepseek-v2")
    }
    assert by_name == {"llama-3.1-8b": True, "deepseek-v2": False}


@pytest.mark.parametrize(
    ("name", "kv_bytes_per_token"),
    [
        ("nvidia-nemotron-3-nano-30b-a3b-bf16", 6 * 1024),  # six '*' in the pattern, two heads of 128
        ("llama-3_3-nemotron-super-49b-v1", 49 * 4096),  # 49 of 80 blocks have attention
        ("deepseek-v3.2", 61 * (1152 + 132)),  # and the indexer's keys
        ("glm-5.1-fp8", 78 * (1152 + 132)),
        ("falcon-40b", 60 * 2048),  # num_kv_heads, not num_attention_heads
        ("qwen3.5-35b-a3b", 10 * 2048),  # 30 layers keep a fixed state
        ("gemma-4-31b-it-nvfp4", 10 * 8192 + 50 * 16384),
        ("step-3.7-flash", 45 * 4096),
    ],
)
def test_the_cache_of_a_token_by_kind_of_layer(name: str, kv_bytes_per_token: int) -> None:
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    assert architecture.kv_bytes_per_token(config) == kv_bytes_per_token


def test_gemma_3_with_long_contexts_does_not_fit_one_h100() -> None:
    # Every sixth layer sees all tokens, though the file says neither layer_types nor the pattern.
    found = layers.layers(json.loads((CONFIGS / "gemma-3-27b-it.json").read_text()))
    assert found is not None
    need = 8 * kv.sequence_bytes(found, 131_072)
    assert need == 8 * 8192 * (10 * 131_072 + 52 * 1024) == pytest.approx(83.25 * GIB)


def test_padding_of_mxfp4_is_what_was_printed(tmp_path: Path) -> None:
    # 64.38 GiB with Triton's kernels, 65.97 GiB with Marlin's, were printed for gpt-oss-120b on one GPU.
    made = vram.estimate(shape_of("gpt-oss-120b", tmp_path), load().gpu("h100-80gb"))
    assert made.weights.low / GIB == pytest.approx(60.77, abs=0.01)  # as stored
    assert made.weights.high / GIB == pytest.approx(65.97, abs=0.1)
    assert not made.exact_weights
    assert made.exact_cache


def test_an_unknown_kind_of_layer_is_named_and_the_rest_answered(tmp_path: Path) -> None:
    config = {**catalogued()["llama-3.1-8b"].config, "layer_types": ["full_attention"] * 30 + ["wavelet"] * 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = vram.estimate(read(str(tmp_path)), load().gpu("h100-80gb"))
    assert made.verdict == "unknown"
    assert made.unknown_layers == {"wavelet": 2}
    assert "2 of kind wavelet" in made.reason
    assert "the other 30 layers need" in made.reason
    assert made.kv_bytes_per_token == 30 * 4096
    assert json.loads(json.dumps(made.as_dict()))["unknown_layers"] == {"wavelet": 2}


@pytest.mark.parametrize("key", ["num_key_value_heads", "head_dim", "hidden_size", "sliding_window"])
def test_a_text_where_a_number_belongs_is_a_sentence(key: str, tmp_path: Path) -> None:
    config = {**catalogued()["llama-3.1-8b"].config, "head_dim": 128, key: "many"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Exception, match=r"config\.json") as caught:
        vram.estimate(read(str(tmp_path)), load().gpu("h100-80gb"))
    assert caught.value.exit_code == 2  # type: ignore[attr-defined]


@pytest.mark.engine
def test_vllm_is_asked_and_says_what_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBRIDGE_CACHE", str(tmp_path / "cache"))
    shape = shape_of("qwen3-0.6b", tmp_path / "m")
    made_by_vllm = asking.ask(tmp_path / "m", tensor_parallel=2)
    record = RECORD["qwen3-0.6b"]["gpus"]["2"]
    assert made_by_vllm.weights_bytes == record["weights_bytes"]
    made = vram.estimate(shape, load().gpu("l4"), Setting(tensor_parallel=2), engine=made_by_vllm)
    assert made.weights_bytes == stages(shape, Setting(tensor_parallel=2))[0].weights_bytes
    assert made.kv_bytes_per_token == 28 * 2048
    told: list[str] = []
    assert asking.ask(tmp_path / "m", tensor_parallel=2, waiting=told.append) == made_by_vllm
    assert told == []  # kept from the first time
