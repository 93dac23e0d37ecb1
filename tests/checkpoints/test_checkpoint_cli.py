import json

import huggingface_hub.utils  # noqa: F401  # its log handler keeps the stderr that it is first imported under
import pytest
import typer
from fake_hub import running_hub
from made_models import LLAMA, make
from typer.testing import CliRunner

from checkpoints import cli
from checkpoints.errors import BadScheme
from checkpoints.tensors.headers import read_tensors


def run(command, *arguments: str):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_models_lists_every_known_name(own_cache):
    result = run(cli.models, "--json")
    rows = json.loads(result.stdout)["models"]
    assert [row["name"] for row in rows][:2] == ["demo-1m", "demo-100m"]
    llama = next(row for row in rows if row["name"] == "llama-3.1-8b")
    assert (llama["parameters"], llama["weights_bytes"], llama["path"]) == (8_030_261_248, 16_060_522_496, None)


def test_models_lists_what_is_cached(own_cache):
    from checkpoints.prepare import prepare

    found = prepare("demo-100m", "int4")
    (own_cache / "checkpoints" / "not-ours").mkdir()
    rows = json.loads(run(cli.models, "--json").stdout)["models"]
    own = [(row["scheme"], row["path"], row["weights_bytes"]) for row in rows if row["name"] == "demo-100m"]
    assert own == [("none", None, 192_972_800), ("w4a16", found.path, found.weights_bytes)]


def test_models_as_a_table(own_cache):
    result = run(cli.models)
    assert result.exit_code == 0
    assert "235,741,434,880" in result.stdout
    assert "67.5 KiB" in result.stdout


def test_quantize_writes_and_tells(own_cache, tmp_path):
    source = make(tmp_path / "model", LLAMA)
    result = run(cli.quantize, source, "--scheme", "int4", "--group-size", "32", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["scheme"], document["group_size"], document["quantized_tensors"]) == ("w4a16", 32, 14)
    stored = sum(tensor.stored.stored_bytes for tensor in read_tensors(tmp_path / "out").values())
    assert document["weights_bytes"] == stored
    assert "100 %" in result.stderr


def test_quantize_in_words(own_cache, tmp_path):
    source = make(tmp_path / "model", LLAMA)
    result = run(cli.quantize, source, "--scheme", "int8", "--out", tmp_path / "out")
    assert "14 weights quantized" in result.stdout


@pytest.mark.parametrize(("scheme", "said"), [("int2", "8-15 %"), ("w4a61", "Did you mean w4a16"), ("fp8", "Schemes:")])
def test_quantize_refuses_what_it_does_not_write(own_cache, tmp_path, scheme, said):
    source = make(tmp_path / "model", LLAMA)
    result = run(cli.quantize, source, "--scheme", scheme, "--out", tmp_path / "out")
    assert isinstance(result.exception, BadScheme)
    assert result.exception.exit_code == 2
    assert said in str(result.exception)


def test_fetch_prints_where_the_files_are(tmp_path, monkeypatch):
    model = make(tmp_path / "model", LLAMA)
    with running_hub() as hub:
        hub.repositories["org/good"] = {path.name: path.read_bytes() for path in model.iterdir()}
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        result = run(cli.fetch, "org/good", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["path"] == str(tmp_path / "out")
    assert document["files"] == ["config.json", "model.safetensors", "tokenizer.json"]
