"""An adapter trained here, served by a real hooked vLLM: it answers by its name, with hidden states of its own."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import forks
import httpx
import numpy as np
import pytest

from bench.studies.hidden_truth import Reference, relative_error
from checkpoints.prepare import prepare
from gateway import adapters
from gateway.errors import AdapterRefused
from gateway.settings import Adapter, parse_server
from monitoring.scrape.canary import Canary
from serve.cli import with_adapters
from serve.engine.server import Server, start
from serve.engine.settings import parse

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[2]
LAYERS = ["embeddings", 0, 1, 2, 3, "final_norm"]
PROMPTS = [list(range(3, 40)), list(range(500, 700)), [7]]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model adapted to English prose by the command, as a user does it; perplexity on that prose falls."""
    folder = tmp_path_factory.mktemp("adapter")
    text = folder / "prose.txt"
    text.write_text("".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))))
    argv = [sys.executable, "-m", "nbridge", "finetune", "demo-1m", "--text", text, "--out", folder / "prose", "--json"]
    argv += ["--steps", "20", "--window-tokens", "64", "--learning-rate", "0.01"]
    done = forks.run(argv, cwd=ROOT, beside=forks.VLLM)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["perplexity"]
    assert found["high"] < 0.95, found
    return folder / "prose"


@pytest.fixture(scope="module")
def served(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = prepare("demo-1m").path
    values = {
        "model": path,
        "served_model_name": "demo-1m",
        "port": 0,
        "dtype": "float32",
        "max_num_seqs": 8,
        "lora_modules": {"prose": str(adapter)},
        "environment": {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"},
    }
    settings = with_adapters(parse(values, "the tests"), Path(path))
    with start(settings, log_path=tmp_path_factory.mktemp("lora") / "server.log") as server:
        yield server


@pytest.fixture
def client(served: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.base_url, timeout=300, trust_env=False) as opened:
        yield opened


def adapted(adapter: Path) -> Reference:
    """Hugging Face's and peft's own: the base with the adapter merged into its weights."""
    from peft import PeftModel

    reference = Reference(prepare("demo-1m").path)
    reference.model = PeftModel.from_pretrained(reference.model, adapter).merge_and_unload().eval()
    return reference


def test_base_and_adapter_answer_beside_each_other_each_as_hugging_face_does(
    client: httpx.Client, adapter: Path
) -> None:
    listed = {entry["id"]: entry for entry in client.get("/v1/models").json()["data"]}
    assert set(listed) == {"demo-1m", "prose"}
    references = {"demo-1m": Reference(prepare("demo-1m").path), "prose": adapted(adapter)}
    states = {}
    for pooling in ("last", "mean"):
        for model, reference in references.items():
            body = {"model": model, "prompts": PROMPTS, "layers": LAYERS, "pooling": pooling}
            answer = client.post("/v1/hidden_states", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == model
            found = states[model, pooling] = np.asarray(answer.json()["hidden_states"], np.float32)
            for position, ids in enumerate(PROMPTS):
                expected = reference.expected(ids, range(len(LAYERS)), pooling)
                assert relative_error(found[position], expected) <= 1e-5, (model, pooling, position)
    apart = states["prose", "last"] - states["demo-1m", "last"]
    share = np.linalg.norm(apart, axis=-1) / np.linalg.norm(states["demo-1m", "last"], axis=-1)
    assert (share[:, 0] == 0).all()  # the embeddings are the base's own
    assert (share[:2, 1:] > 0.01).all()  # from the first block on the adapter's are others


def text_of(client: httpx.Client, model: str) -> str:
    body = {"model": model, "prompt": "The server ", "max_tokens": 24, "temperature": 0}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    return str(answer.json()["choices"][0]["text"])


def test_the_adapter_generates_its_own_text_and_an_unknown_one_is_refused(client: httpx.Client) -> None:
    assert text_of(client, "prose") != text_of(client, "demo-1m")
    refused = client.post("/v1/hidden_states", json={"model": "poetry", "prompts": [[5, 6]]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (404, "model")


def test_an_adapter_is_loaded_and_unloaded_while_the_server_runs(
    served: Server, client: httpx.Client, adapter: Path, engine_server: Server
) -> None:
    """As the gateway does it at each of its servers."""
    one = parse_server({"name": "a", "url": served.base_url, "model": "demo-1m"}, "the tests")
    again = Adapter(name="again", model="demo-1m", path=str(adapter))
    assert client.post("/v1/completions", json={"model": "again", "prompt": "a"}).status_code == 404
    adapters.load(one, again)
    listed = {entry["id"]: entry["root"] for entry in client.get("/v1/models").json()["data"]}
    assert listed["again"] == str(adapter)
    assert Canary(served.base_url, model="again", deadline_s=60).ask().up
    assert text_of(client, "again") == text_of(client, "prose")
    with pytest.raises(AdapterRefused, match="has already been loaded"):
        adapters.load(one, again)
    with pytest.raises(AdapterRefused, match=r"a did not load the adapter gone: HTTP 404: .*No adapter found"):
        adapters.load(one, Adapter(name="gone", model="demo-1m", path=str(adapter / "nowhere")))
    adapters.unload(one, "again")
    assert client.post("/v1/completions", json={"model": "again", "prompt": "a"}).status_code == 404
    with pytest.raises(AdapterRefused, match="'again' cannot be found"):
        adapters.unload(one, "again")
    closed = parse_server({"name": "b", "url": engine_server.base_url, "model": "demo-1m"}, "the tests")
    with pytest.raises(AdapterRefused, match="b did not load the adapter again: it loads no adapters while it runs"):
        adapters.load(closed, again)
