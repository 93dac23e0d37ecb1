import json
import shutil
import socket

import huggingface_hub.constants
import numpy as np
import pytest
from fake_hub import COMMIT, running_hub
from made_models import LLAMA, make, write_safetensors

from checkpoints import hub_headers
from checkpoints.errors import (
    AccessDenied,
    BadCheckpoint,
    DiskFull,
    HubUnreachable,
    OutputExists,
    RepositoryNotFound,
    UnknownModel,
)
from checkpoints.fetch import choose_files, fetch
from checkpoints.prepare import prepare
from checkpoints.tensors.architecture import tensor_shapes

SECRET = "hf_not_to_be_seen_anywhere"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    model = make(tmp_path_factory.mktemp("hub") / "model", LLAMA)
    return {path.name: path.read_bytes() for path in model.iterdir()} | {"README.md": b"# A model"}


def test_a_good_repository_arrives_and_can_be_prepared(hub, files, tmp_path):
    hub.repositories["org/good"] = files | {"pytorch_model.bin": b"x" * 1000, "onnx/model.onnx": b"y"}
    messages = []
    done = fetch("org/good", out=tmp_path / "out", progress=messages.append)
    assert (done.revision, done.total_bytes) == (COMMIT, sum(map(len, files.values())))
    assert set(done.files) == set(files)
    arrived = {path.name for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert arrived == set(files)
    assert messages
    assert prepare(str(tmp_path / "out")).num_layers == 2


def test_a_token_goes_to_the_hub_and_nowhere_else(hub, files, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    hub.repositories["org/good"] = files
    fetch("org/good", out=tmp_path / "out")
    assert f"Bearer {SECRET}" in hub.tokens
    hub.refused["org/gated"] = (403, "GatedRepo")
    with pytest.raises(AccessDenied) as caught:
        fetch("org/gated", out=tmp_path / "other")
    assert SECRET not in str(caught.value)


def test_unauthorized_without_a_token(hub, tmp_path):
    hub.refused["org/private"] = (401, None)
    with pytest.raises(AccessDenied, match="No token is set") as caught:
        fetch("org/private", out=tmp_path / "out")
    assert "HF_TOKEN" in str(caught.value)
    assert "licence" in str(caught.value)


def test_unauthorized_with_a_token(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    hub.refused["org/private"] = (401, None)
    with pytest.raises(AccessDenied, match="not accepted"):
        fetch("org/private", out=tmp_path / "out")


def test_gated_names_the_licence_page(hub, tmp_path):
    hub.refused["org/gated"] = (403, "GatedRepo")
    with pytest.raises(AccessDenied, match="gated") as caught:
        fetch("org/gated", out=tmp_path / "out")
    assert f"{hub.url}/org/gated" in str(caught.value)
    assert "Set HF_TOKEN" in str(caught.value)


def test_unknown_repository_offers_the_nearest_known(hub, tmp_path):
    with pytest.raises(RepositoryNotFound, match=r"Did you mean meta-llama/Llama-3\.1-8B\?"):
        fetch("meta-lama/Llama-3.1-8B", out=tmp_path / "out")


def test_unknown_revision(hub, files, tmp_path):
    hub.repositories["org/good"] = files
    with pytest.raises(RepositoryNotFound, match="no revision 'v9'"):
        fetch("org/good", revision="v9", out=tmp_path / "out")


def test_hub_with_a_problem_of_its_own(hub, tmp_path):
    hub.refused["org/good"] = (500, None)
    with pytest.raises(HubUnreachable, match="HTTP 500"):
        fetch("org/good", out=tmp_path / "out")


def test_no_network_points_to_a_mirror_and_resuming(monkeypatch, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(HubUnreachable, match="HF_ENDPOINT") as caught:
        fetch("org/good", out=tmp_path / "out")
    assert "again" in str(caught.value)


@pytest.fixture
def large(tmp_path):
    # 25 MB, cut in the middle: the hub's client keeps what has arrived in whole pieces of 10 MiB.
    model = make(tmp_path / "large", LLAMA | {"vocab_size": 50_000})
    return {path.name: path.read_bytes() for path in model.iterdir()}


def test_a_cut_connection_goes_on_in_the_middle_of_the_file(hub, large, tmp_path):
    hub.repositories["org/cut"] = large
    hub.cuts = 1
    fetch("org/cut", out=tmp_path / "out")
    ranges = [asked for path, asked in hub.downloads if path == "model.safetensors"]
    assert ranges == [None, f"bytes={10 * 2**20}-"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == large["model.safetensors"]


def test_a_second_run_fetches_only_what_the_first_did_not_finish(hub, large, tmp_path):
    hub.repositories["org/cut"] = large
    hub.cuts, hub.down = 1, True
    with pytest.raises(HubUnreachable, match="run the same command again"):
        fetch("org/cut", out=tmp_path / "out")
    hub.down = False
    hub.downloads.clear()
    fetch("org/cut", out=tmp_path / "out")
    assert [path for path, _ in hub.downloads] == ["model.safetensors"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == large["model.safetensors"]


def test_a_full_disk_is_told_before_downloading(hub, files, tmp_path, monkeypatch):
    hub.repositories["org/good"] = files
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr("checkpoints.fetch.shutil.disk_usage", lambda _path: usage)
    with pytest.raises(DiskFull, match="--out"):
        fetch("org/good", out=tmp_path / "out")
    assert hub.downloads == []


def test_a_disk_that_fills_up_is_explained(hub, files, tmp_path, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    hub.repositories["org/good"] = files
    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(DiskFull, match="filled up"):
        fetch("org/good", out=tmp_path / "out")


def test_what_arrives_broken_is_told(hub, files, tmp_path):
    hub.repositories["org/broken"] = files | {"model.safetensors": b"not safetensors at all"}
    with pytest.raises(BadCheckpoint, match="not a whole safetensors file"):
        fetch("org/broken", out=tmp_path / "out")


def test_someone_elses_directory_is_left_alone(hub, files, tmp_path):
    hub.repositories["org/good"] = files
    (tmp_path / "mine").touch()
    with pytest.raises(OutputExists):
        fetch("org/good", out=tmp_path)


def test_catalogued_name_means_its_repository(hub, tmp_path):
    with pytest.raises(RepositoryNotFound, match=r"meta-llama/Llama-3\.1-8B"):
        fetch("llama-3.1-8b", out=tmp_path / "out")


@pytest.mark.parametrize("name", ["demo-1m", "a/b/c", "spaces are not"])
def test_names_that_cannot_be_downloaded(hub, name, tmp_path):
    with pytest.raises(UnknownModel):
        fetch(name, out=tmp_path / "out")


def test_pickle_only_repository_is_refused_with_the_reason():
    with pytest.raises(RepositoryNotFound, match=r"pickle files \(pytorch_model\.bin\)"):
        choose_files("org/old", ["config.json", "pytorch_model.bin"])


def test_no_weights_at_all():
    with pytest.raises(RepositoryNotFound, match=r"no \*\.safetensors"):
        choose_files("org/data", ["README.md", "gguf/model.gguf"])


def test_second_copy_of_the_weights_is_left_out():
    held = [
        "consolidated.safetensors",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.model",
        "LICENSE",
        ".gitattributes",
        "original/params.json",
    ]
    assert choose_files("org/m", held) == [
        "LICENSE",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.model",
    ]


def test_shards_are_those_that_the_index_names():
    held = ["mtp.safetensors", "model-00001-of-00001.safetensors", "extra/part.safetensors", "consolidated.safetensors"]
    shards = {"mtp.safetensors", "model-00001-of-00001.safetensors", "extra/part.safetensors"}
    assert choose_files("org/m", [*held, "model.safetensors.index.json"], shards) == sorted(
        [*shards, "model.safetensors.index.json"]
    )


def test_a_shard_of_another_name_is_downloaded(hub, tmp_path):
    parts = {"model-00001-of-00001.safetensors": "model.norm.weight", "mtp.safetensors": "mtp.norm.weight"}
    files = {"config.json": b'{"model_type": "qwen3"}'}
    for file, name in parts.items():
        write_safetensors(tmp_path / file, {name: ("F32", np.ones(8, np.float32))})
        files[file] = (tmp_path / file).read_bytes()
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {v: k for k, v in parts.items()}}).encode()
    hub.repositories["org/with-mtp"] = files
    done = fetch("org/with-mtp", out=tmp_path / "out")
    assert set(parts) <= set(done.files)
    assert all((tmp_path / "out" / file).is_file() for file in parts)


def test_the_headers_of_a_repository_are_read_without_its_weights(hub, tmp_path):
    made = make(tmp_path / "m", LLAMA)
    hub.repositories["org/llama"] = {path.name: path.read_bytes() for path in made.iterdir()}
    config, beside, tensors = hub_headers.read("org/llama")
    assert (config["model_type"], beside) == ("llama", None)
    assert {name: one.shape for name, one in tensors.items()} == tensor_shapes(LLAMA)
    with pytest.raises(RepositoryNotFound, match="org/none"):
        hub_headers.read("org/none")
