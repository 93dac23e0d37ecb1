import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import mean

import forks
import pytest

from checkpoints import cache
from checkpoints.demo import trained, training
from checkpoints.errors import MissingPackage, TrainingFailed
from checkpoints.prepare import prepare
from monitoring import machine

# Most quantizations of vLLM for the CPU need AVX-512; without it the same weights are served rounded, at 16 bit.
KERNELS = "avx512f" in machine.cpu()["flags"] or bool(machine.gpus())
FORMATS = ["w8a8-int8", *(scheme if KERNELS else f"{scheme}-rounded" for scheme in ("w4a16", "awq", "gptq"))]


def test_learning_rate_warms_up_holds_and_decays():
    steps, peak = training.RECIPE["steps"], training.RECIPE["peak_learning_rate"]
    assert training.learning_rate(0) == pytest.approx(peak / 50)
    assert training.learning_rate(49) == pytest.approx(peak)
    assert training.learning_rate(steps // 2) == pytest.approx(peak)
    assert training.learning_rate(steps * 3 // 4) == pytest.approx(peak / 2, rel=0.01)
    assert training.learning_rate(steps - 1) == pytest.approx(peak * 0.02)


@pytest.mark.parametrize("name", ["demo-1m", "demo-1m-b"])
def test_the_weights_of_the_recipe_come_with_the_application(own_cache, monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)  # neither torch nor transformers is needed
    directory = trained.trained_directory(name=name)
    shipped = cache.read_manifest(trained.SHIPPED / name)
    assert cache.read_manifest(directory) == shipped
    assert cache.verify(directory) is None
    assert shipped["recipe"] == training.recipe(name)
    assert 20 < shipped["heldout_perplexity"] < 60


def test_another_recipe_is_another_directory_and_is_trained_here(own_cache, monkeypatch):
    before = trained.trained_path()
    monkeypatch.setitem(training.RECIPE, "steps", 10)
    assert trained.trained_path() != before
    fake_training(monkeypatch, "raise SystemExit('it was trained')")
    with pytest.raises(TrainingFailed, match="it was trained"):
        trained.trained_directory()


def test_missing_packages_are_named(own_cache, monkeypatch):
    monkeypatch.setitem(training.RECIPE, "steps", 10)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingPackage, match="torch and transformers") as caught:
        trained.trained_directory()
    assert caught.value.exit_code == 3


def fake_training(monkeypatch, program: str) -> None:
    """Run `program` in place of the training, with the directory as its first argument."""
    popen = subprocess.Popen
    monkeypatch.setitem(training.RECIPE, "steps", 10)  # no recipe whose weights come with the application

    def start(command, **options):
        return popen([sys.executable, "-c", program, command[-1]], **options)

    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: True)
    monkeypatch.setattr(trained.subprocess, "Popen", start)


def test_progress_and_measurements_of_the_training_process(own_cache, monkeypatch):
    fake_training(
        monkeypatch,
        "import pathlib, sys; d = pathlib.Path(sys.argv[1]); print('step 1 of 2');"
        "(d / 'config.json').write_text('{}');"
        "(d / 'measured.json').write_text('{\"heldout_perplexity\": 30.25}')",
    )
    messages = []
    directory = trained.trained_directory(messages.append)
    assert "demo-1m: step 1 of 2" in messages
    assert cache.read_manifest(directory)["heldout_perplexity"] == 30.25
    assert {path.name for path in directory.iterdir()} == {"config.json", cache.MANIFEST}


def test_failed_training_leaves_nothing_and_says_why(own_cache, monkeypatch):
    fake_training(monkeypatch, "raise SystemExit('out of paper')")
    with pytest.raises(TrainingFailed, match="out of paper"):
        trained.trained_directory()
    assert not trained.trained_path().exists()


SHORT = """
import sys
from pathlib import Path
from checkpoints import tokenizer
from checkpoints.demo import training
training.RECIPE |= {"steps": 3, "evaluated_windows": 4}
texts = [f"def f{i}(x):\\n    return x + {i}\\n" * 40 for i in range(120)]
tokenizer.standard_library_split = lambda: (texts, texts[:20])
print(training.train(Path(sys.argv[1])))
"""


@pytest.mark.engine
def test_same_seed_same_weights(tmp_path):
    digests, said = set(), set()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-c", SHORT, str(tmp_path / name)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        said.add(done.stdout)
        digests.add(cache.file_sha256(tmp_path / name / "model.safetensors"))
    assert len(digests) == len(said) == 1


@pytest.mark.engine
@pytest.mark.timeout(1200)
def test_four_formats_in_the_engine_against_the_unquantized_model(tmp_path):
    """The engine loads each format, applies it, and scores held-out text nearly as well as without it."""
    plain = prepare("demo-1m")
    manifest = cache.read_manifest(Path(plain.path))
    copies = [prepare("demo-1m", scheme) for scheme in FORMATS]
    command = [
        sys.executable,
        str(Path(__file__).with_name("score_in_engine.py")),
        str(Path(plain.path) / training.HELD_OUT_FILE),
        str(tmp_path / "scores.json"),
        plain.path,
        *(copy.path for copy in copies),
    ]
    done = forks.run(command, timeout_s=1100, beside=forks.VLLM)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    baseline, *scores = json.loads((tmp_path / "scores.json").read_text())

    # Trained, not random (1,024 for a uniform guess), and what the manifest says, though other windows are scored.
    nll = -mean(baseline["logprobs"])
    assert abs(nll - math.log(manifest["heldout_perplexity"])) < 0.2
    assert 20 < manifest["heldout_perplexity"] < 60

    for scheme, found in zip(FORMATS, scores, strict=True):
        worse_by = nll + mean(found["logprobs"])
        agreement = mean(a == b for a, b in zip(found["choices"], baseline["choices"], strict=True))
        assert found["logprobs"] != baseline["logprobs"], f"{scheme} was not applied"
        assert abs(worse_by) < (0.01 if scheme == "w8a8-int8" else 0.05), (scheme, worse_by)
        assert agreement > (0.95 if scheme == "w8a8-int8" else 0.88), (scheme, agreement)
        assert all(len(tokens) == 32 for tokens in found["continued"])
