"""The whole way once: two real servers, their states over HTTP, W-matrices, the report."""

import json

import numpy as np
import pytest

from alignment import states, wmatrix
from checkpoints.prepare import prepare
from serve.client import Client
from serve.engine.server import start
from serve.engine.settings import parse


@pytest.mark.engine
def test_align_two_demo_models(engine_server, nbridge, tmp_path):
    checkpoint = prepare("demo-1m-b")
    settings = parse(
        {"model": checkpoint.path, "served_model_name": "demo-1m-b", "port": 0, "max_num_seqs": 16}, "the test"
    )
    with start(settings, log_path=tmp_path / "server.log") as other:
        done = nbridge(
            *("align", "--source", engine_server.base_url, "--target", other.base_url, "--count", "1000"),
            *("--keep-states", "--out", tmp_path / "run", "--json"),
        )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    rows = {row["name"]: row for row in document["methods"] + document["baselines"]}
    # Measured: 0.80 and 0.88 with 2,400 fitted prompts, here 800.
    assert rows["procrustes"]["cosine"]["value"] > 0.7 and rows["ridge"]["cosine"]["value"] > 0.8
    assert rows["ridge"]["top1"]["value"] > 0.4 and document["chance_top1"] == pytest.approx(0.005)
    assert rows["random rotation"]["cosine"]["value"] < 0.2 and rows["mean vector"]["top1"]["value"] == pytest.approx(
        0.005
    )
    assert document["sources"][0]["hidden_size"] == 128 and document["target"]["hidden_size"] == 96

    matrix = wmatrix.load(tmp_path / "run" / "w-ridge.safetensors")
    source = states.load(tmp_path / "run" / "source-0.npz")
    assert matrix.apply(source).shape == (1000, 96)
    # The client by itself: one text, its tokens, and the same state beside a completion.
    with Client(base_url=engine_server.base_url) as client:
        one = client.hidden_states("import os\n", layer=-2)
        every = client.hidden_states("import os\n", layer=-2, pooling="all")
        completed = client.completions("import os\n", max_tokens=1, temperature=0, hidden_state_layer=-2)
    assert np.allclose(every.states[0][-1], one.states[0], rtol=0.05, atol=0.05)
    assert np.allclose(completed.hidden_states[0], one.states[0], rtol=0.05, atol=0.05)
