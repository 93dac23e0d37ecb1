"""The two commands as a user runs them, against scripted servers over loopback."""

import hashlib
import json

import numpy as np
import pytest
from fake_states_server import encoded, error, running, states_document
from made_states import rotation

from alignment import states, tensors, wmatrix

pytestmark = pytest.mark.slow

WIDTH = 4


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch):
    for name in ("VLLM_BASE_URL", "VLLM_MODEL_NAME", "VLLM_API_KEY", "USE_SELF_HOSTED_LLM", "NBRIDGE_DEBUG"):
        monkeypatch.delenv(name, raising=False)


def state(prompt, turn):
    """A made-up state that depends on the prompt alone, turned as the model likes."""
    seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8])
    return (np.random.default_rng(seed).standard_normal(WIDTH) + 1) @ turn


def model(name, turn):
    """Answers of a model whose states are the prompts' states, turned."""

    def answer(request):
        rows = [[state(prompt, turn).tolist()] for prompt in request["prompts"]]
        texts = [encoded(one) for one in rows]
        return states_document(request, hidden_states=texts, shapes=[[1, WIDTH]] * len(rows), model=name)

    return answer


@pytest.fixture
def servers():
    with running() as a, running() as b:
        a.answer, b.answer = model("a", np.eye(WIDTH)), model("b", 3 * rotation(WIDTH))
        yield a, b


def prompts_file(tmp_path, count=200):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"prompt number {index}" for index in range(count)))
    return path


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_hidden_writes_a_file_and_says_what_it_is_of(nbridge, tmp_path, suffix):
    out = tmp_path / f"states.{suffix}"
    with running() as server:
        words = ["hidden", "ab", "abc", "--url", server.base_url, "--layers", "-3,-2", "--out", out, "--json"]
        done = nbridge(*words)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["model"] == "fake" and document["layers"] == [1, 2] and document["pooling"] == "last"
    assert document["shape"] == [2, 2, 4] and document["prompts"] == 2 and document["prompt_tokens"] == 5
    assert document["server"]["vllm"] == "0.32.0" and document["num_layers"] == 4 and document["dtype"] == "float32"
    found = states.load(out)
    assert found.values[:, :, 0].tolist() == [[2, 2], [3, 3]] and found.values[:, :, 1].tolist() == [[1, 2], [1, 2]]
    assert found.prompt_sha256[0] == hashlib.sha256(b"ab").hexdigest()
    assert "ab" not in tensors.read(out)[1]
    again = nbridge(*words)
    assert again.returncode == 2 and "--force" in again.stderr and not again.stdout


def test_hidden_of_every_token_from_a_file(nbridge, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "ab"}\n"abc"\n')
    out = tmp_path / "states.npz"
    with running() as server:
        done = nbridge(
            "hidden", "--prompts", tmp_path / "p.jsonl", "--url", server.base_url, "--pooling", "all", "--out", out
        )
    assert done.returncode == 0 and "2 prompts (5 tokens) of fake" in done.stdout
    found = states.load(out)
    assert found.values.shape == (5, 1, 4) and found.prompt_tokens == (2, 3)


def test_hidden_failures_are_paragraphs_with_exit_codes(nbridge, tmp_path):
    out = tmp_path / "s.npz"
    with running() as server:
        server.script = [
            server.health,
            (200, {}, b"{}"),
            error(400, "layer 9 is out of range: the model has 4 layers."),
        ]
        wrong = nbridge("hidden", "x", "--url", server.base_url, "--layers", "9", "--out", out)
    assert wrong.returncode == 2 and "layer 9 is out of range" in wrong.stderr and "Traceback" not in wrong.stderr
    for words, said in (
        (["--out", out], "no prompts"),
        (["x", "--out", tmp_path / "s.bin"], ".npz or .safetensors"),
        (["x", "--out", out, "--pooling", "max"], "'last', 'mean', 'all'"),
        (["x", "--out", out, "--layers", "two", "--url", "http://127.0.0.1:9"], "'two' is no layer"),
    ):
        done = nbridge("hidden", *words)
        assert done.returncode == 2 and said in done.stderr and not out.exists()


def test_align_two_servers(nbridge, tmp_path, servers):
    a, b = servers
    folder = tmp_path / "run"
    done = nbridge(
        *("align", "--source", a.base_url, "--target", b.base_url, "--prompts", prompts_file(tmp_path)),
        *("--out", folder, "--keep-states", "--json"),
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {row["name"] for row in document["methods"]} == {"procrustes", "whitened", "cca", "ridge"}
    assert all(row["cosine"]["value"] > 0.999 and row["top1"]["value"] == 1 for row in document["methods"])
    assert [row["name"] for row in document["baselines"]] == ["mean vector", "random rotation"]
    assert document["prompts"] | {"train": 140, "validation": 20, "test": 40} == document["prompts"]
    assert "Procrustes" in done.stderr and "baseline: mean vector" in done.stderr
    names = {path.name for path in folder.iterdir()}
    assert {"report.html", "report.md", "alignment.json", "source-0.npz", "target.npz", *document["files"]} == names
    matrix = wmatrix.load(folder / "w-procrustes.safetensors")
    assert np.allclose(matrix.maps[0].matrix, 3 * rotation(WIDTH), atol=1e-5)
    # The saved states give the same result again.
    again = nbridge(
        *("align", "--source-states", folder / "source-0.npz", "--target-states", folder / "target.npz"),
        *("--out", tmp_path / "again", "--method", "ridge", "--json"),
    )
    assert again.returncode == 0, again.stderr
    (ridge,) = json.loads(again.stdout)["methods"]
    assert ridge == next(row for row in document["methods"] if row["name"] == "ridge")
    assert nbridge("align", "--source", a.base_url, "--target", b.base_url, "--out", folder).returncode == 2


def test_align_says_what_is_wrong(nbridge, tmp_path, servers):
    urls = ["--source", servers[0].base_url, "--target", servers[1].base_url]
    few = prompts_file(tmp_path, 30)
    for words, said in (
        ([], "--source URL or --source-states FILE"),
        ([*urls, "--method", "magic"], "procrustes"),
        ([*urls, "--prompts", few], "30 distinct prompts"),
        ([*urls, "--prompts", few, "--weights", "a,b"], "--weights 'a,b'"),
    ):
        done = nbridge("align", *words, "--out", tmp_path / "out")
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("setting", [None, "true", "false"])
def test_the_embeddings_api_only_when_asked_and_marked(nbridge, tmp_path, servers, monkeypatch, setting):
    a, b = servers
    a.health = (503, {}, b"")
    if setting:
        monkeypatch.setenv("USE_SELF_HOSTED_LLM", setting)
    words = ["align", "--source", a.base_url, "--target", b.base_url, "--prompts", prompts_file(tmp_path)]
    words += ["--method", "ridge", "--embeddings-key-env", "VLLM_API_KEY", "--json"]
    with running() as api:
        api.answer = lambda request: {
            "data": [
                {"index": index, "embedding": state(text, np.eye(WIDTH)).tolist()}
                for index, text in enumerate(request["input"])
            ]
        }
        words += ["--embeddings-url", api.base_url, "--embeddings-model", "embed-small"]
        unasked = nbridge(*words, "--out", tmp_path / "unasked")
        assert unasked.returncode == (2 if setting == "false" else 4)
        assert not api.requests
        asked = nbridge(*words, "--out", tmp_path / "asked", "--allow-embeddings-api")
        assert asked.returncode == 0, asked.stderr
    document = json.loads(asked.stdout)
    assert document["approximation"] and document["sources"][0]["model"] == "embed-small"
    assert "approximation" in asked.stderr and "An approximation" in (tmp_path / "asked" / "report.md").read_text()
    assert wmatrix.load(tmp_path / "asked" / "w-ridge.safetensors").is_approximation
    assert ("--allow-embeddings-api" if setting == "false" else "unhealthy") in unasked.stderr
