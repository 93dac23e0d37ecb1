import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_models import LLAMA, make

from checkpoints.catalog import models
from checkpoints.errors import BadCheckpoint, BadScheme, UnknownModel
from checkpoints.prepare import prepare, unquantized_directory
from checkpoints.tensors.schemes import WRITTEN, scheme_of

FITTING = LLAMA | {"hidden_size": 128, "intermediate_size": 256}


def config_of(checkpoint) -> dict:
    return json.loads((Path(checkpoint.path) / "config.json").read_text())


def test_weightless_demo(own_cache):
    found = prepare("demo-100m")
    assert (found.name, found.load_format, found.scheme, found.vllm_quantization) == (
        "demo-100m",
        "dummy",
        "none",
        None,
    )
    assert found.parameters == 96_486_400
    assert found.weights_bytes == 2 * 96_486_400
    assert (found.hidden_size, found.num_layers, found.max_model_len) == (1024, 8, 4096)
    assert found.kv_bytes_per_token == 2 * 8 * 8 * 64 * 2
    assert own_cache in Path(found.path).parents
    assert not list(Path(found.path).glob("*.safetensors"))


def test_weightless_directory_is_reused(own_cache):
    assert prepare("demo-100m") == prepare("demo-100m", "bf16")


@pytest.mark.parametrize(
    ("word", "scheme"), [("int8", "w8a8-int8"), ("int4", "w4a16"), ("awq", "awq"), ("gptq", "gptq")]
)
def test_weightless_model_gets_only_the_quantization_config(own_cache, word, scheme):
    found = prepare("demo-100m", word)
    config = config_of(found)
    assert found.scheme == scheme == scheme_of(config)
    assert found.vllm_quantization is None
    assert found.load_format == "dummy"
    assert found.weights_bytes < 2 * 96_486_400
    assert found.parameters == 96_486_400
    assert config.pop("quantization_config")
    assert config == config_of(prepare("demo-100m"))


def test_engine_methods_pass_through(own_cache):
    found = prepare("demo-100m", "fp8")
    assert (found.scheme, found.vllm_quantization, found.weights_bytes) == ("fp8", "fp8", None)
    assert found.path == prepare("demo-100m").path


@pytest.mark.parametrize("name", [name for name, model in models().items() if model.kind == "weightless"])
def test_catalogued_configurations_keep_the_published_values(own_cache, name):
    found = prepare(name)
    config = config_of(found)
    published = models()[name].config
    assert {key: config[key] for key in published} == dict(published)
    tokenizer = json.loads((Path(found.path) / "tokenizer.json").read_text(encoding="utf-8"))
    assert len(tokenizer["model"]["vocab"]) == published["vocab_size"]


def test_routers_of_a_weightless_expert_model_are_ignored(own_cache):
    ignored = config_of(prepare("mixtral-8x7b", "int4"))["quantization_config"]["ignore"]
    assert len(ignored) == 1 + 32
    assert "model.layers.31.block_sparse_moe.gate" in ignored


def test_local_directory(own_cache, tmp_path):
    model = make(tmp_path / "mine", LLAMA)
    found = prepare(str(model))
    assert (found.path, found.load_format, found.scheme) == (str(model), "auto", "none")
    assert found.weights_bytes == 4 * found.parameters
    assert found.num_layers == 2


@pytest.mark.parametrize("scheme", WRITTEN)
def test_local_directory_is_really_quantized_once(own_cache, tmp_path, scheme):
    model = make(tmp_path / "mine", FITTING)
    plain = prepare(str(model))
    messages = []
    found = prepare(str(model), scheme, progress=messages.append)
    assert messages
    assert found.scheme == scheme == scheme_of(config_of(found))
    assert (found.name, found.load_format, found.vllm_quantization) == (str(model), "auto", None)
    assert found.parameters == plain.parameters
    assert found.weights_bytes < plain.weights_bytes
    again = []
    assert prepare(str(model), scheme, progress=again.append) == found
    assert again == []


def test_changed_weights_are_quantized_anew(own_cache, tmp_path):
    model = make(tmp_path / "mine", FITTING)
    before = prepare(str(model), "int8")
    raw = bytearray((model / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (model / "model.safetensors").write_bytes(raw)
    assert prepare(str(model), "int8").path != before.path


def test_quantized_directory_is_loaded_as_it_is_and_refused_again(own_cache, tmp_path):
    quantized = prepare(str(make(tmp_path / "mine", FITTING)), "awq")
    found = prepare(quantized.path)
    assert (found.scheme, found.vllm_quantization, found.parameters) == ("awq", None, quantized.parameters)
    with pytest.raises(BadScheme, match="already quantized"):
        prepare(quantized.path, "int8")


def test_group_that_does_not_fit_leaves_nothing_behind(own_cache, tmp_path):
    model = make(tmp_path / "mine", LLAMA)
    with pytest.raises(BadScheme, match="group_size=128"):
        prepare(str(model), "int4")
    assert [path.name for path in (own_cache / "checkpoints").iterdir() if path.is_dir()] == []


def test_hub_name_passes_through(own_cache):
    found = prepare("meta-llama/Llama-3.1-8B")
    assert (found.path, found.load_format, found.scheme) == ("meta-llama/Llama-3.1-8B", "auto", "none")
    assert found.weights_bytes is found.parameters is found.kv_bytes_per_token is None
    assert prepare("someone/Some-Model-AWQ", "awq").vllm_quantization == "awq"
    with pytest.raises(BadScheme, match="nbridge fetch"):
        prepare("meta-llama/Llama-3.1-8B", "int8")


@pytest.mark.parametrize(("word", "near"), [("lama-3.1-8b", "llama-3.1-8b"), ("demo100m", "demo-100m")])
def test_misspelt_names_get_the_nearest(word, near):
    with pytest.raises(UnknownModel, match=f"Did you mean .*{near}"):
        prepare(word)


@pytest.mark.parametrize("word", ["./nowhere", "/no/such/place", "a/b/c", ""])
def test_names_of_nothing_are_refused(word):
    with pytest.raises(UnknownModel, match="known name"):
        prepare(word)


def test_two_bits_are_refused():
    with pytest.raises(BadScheme, match="8-15 %"):
        prepare("demo-100m", "int2")


def test_directory_without_a_configuration(tmp_path):
    with pytest.raises(BadCheckpoint, match=r"no config\.json"):
        prepare(str(tmp_path))


def test_directory_without_weights_says_what_would_work(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(BadCheckpoint, match="nbridge fetch"):
        prepare(str(tmp_path))


def test_pickled_weights_are_refused_with_the_reason(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(BadCheckpoint, match="pickle"):
        prepare(str(tmp_path))


def test_truncated_weights_are_refused(tmp_path):
    model = make(tmp_path / "mine", LLAMA)
    raw = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(raw[:-10])
    with pytest.raises(BadCheckpoint, match="not a whole safetensors file"):
        prepare(str(model))


def test_own_weightless_directory_by_its_mark(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "nbridge.json").write_text('{"kind": "weightless"}')
    found = prepare(str(tmp_path))
    assert found.load_format == "dummy"
    assert found.weights_bytes == 2 * found.parameters


def test_own_weightless_directory_of_a_type_whose_size_is_not_known(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"model_type": "rwkv"}))
    (tmp_path / "nbridge.json").write_text('{"kind": "weightless"}')
    found = prepare(str(tmp_path))
    assert (found.load_format, found.weights_bytes, found.parameters) == ("dummy", None, None)


def test_what_can_be_quantized(own_cache, tmp_path):
    with pytest.raises(BadScheme, match="no weights"):
        unquantized_directory("demo-100m")
    with pytest.raises(UnknownModel, match="nbridge fetch org/name"):
        unquantized_directory("org/name")
    assert unquantized_directory(str(tmp_path)) == tmp_path


def test_base_functions_need_neither_torch_nor_transformers():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'safetensors', 'vllm')));"
        "import checkpoints.prepare, checkpoints.fetch, checkpoints.quantization.quantize, checkpoints.inventory;"
        "import checkpoints.cli;"
        "import checkpoints.demo.trained, checkpoints.demo.training"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_configuration_alone_is_served_with_random_weights_and_a_tokenizer_at_hand(own_cache, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    wide = LLAMA | {"vocab_size": 4096}
    (folder / "config.json").write_text(json.dumps(wide))
    messages = []
    found = prepare(str(folder), progress=messages.append)
    assert (found.load_format, found.weights_bytes) == ("dummy", 2 * found.parameters)
    assert "random ones" in messages[0]
    written = json.loads((Path(found.path) / "tokenizer.json").read_text())
    assert len(written["model"]["vocab"]) == 4096
    assert json.loads((Path(found.path) / "config.json").read_text())["hidden_size"] == wide["hidden_size"]
    assert [path.name for path in folder.iterdir()] == ["config.json"]  # the user's directory is left alone
    (folder / "tokenizer.json").write_text("{}")
    assert prepare(str(folder)).path == str(folder)  # its own tokenizer


def test_a_configuration_alone_is_served_quantized_too(own_cache, tmp_path):
    wide = LLAMA | {"vocab_size": 4096}
    (tmp_path / "config.json").write_text(json.dumps(wide))
    plain, int8 = prepare(str(tmp_path)), prepare(str(tmp_path), "int8")
    assert (int8.load_format, int8.scheme, int8.parameters) == ("dummy", "w8a8-int8", plain.parameters)
    assert int8.weights_bytes is not None and plain.weights_bytes is not None
    assert int8.weights_bytes < plain.weights_bytes
    assert config_of(int8)["quantization_config"]["quant_method"] == "compressed-tensors"
    (tmp_path / "tokenizer.json").write_text('{"mine": 1}')
    (tmp_path / "merges.txt").write_text("a b")
    own = Path(prepare(str(tmp_path), "int4-g32").path)
    assert [(own / name).read_text() for name in ("tokenizer.json", "merges.txt")] == ['{"mine": 1}', "a b"]
    with pytest.raises(BadScheme, match="already quantized"):
        prepare(int8.path, "int4")
    with pytest.raises(BadScheme, match="no weights to round"):
        prepare(str(tmp_path), "int4-rounded")
    (tmp_path / "config.json").write_text(json.dumps(wide | {"model_type": "rwkv"}))
    with pytest.raises(BadScheme, match="model_type 'rwkv'"):
        prepare(str(tmp_path), "int8")
    (tmp_path / "config.json").write_text(json.dumps(wide))
    (tmp_path / "hf_quant_config.json").write_text("{}")
    with pytest.raises(BadScheme, match="already quantized"):
        prepare(str(tmp_path), "int8")


def test_a_vocabulary_smaller_than_our_tokenizer_is_refused(own_cache, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"vocab_size": 100}))
    with pytest.raises(BadCheckpoint, match="vocab_size = 100"):
        prepare(str(tmp_path))
