"""True hidden states of other architectures, in the engine's own process, against Hugging Face."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_other_families_hooks_and_compiled_models(tmp_path: Path):
    """Qwen2 (biases) and Mistral by their own taps, GPT-2 by hooks, Mistral compiled, in one process of its own."""
    families = ["qwen2", "mistral", "gpt2", "mistral+compiled"]
    done = subprocess.run(
        [sys.executable, HERE / "hidden_families.py", tmp_path, *families],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["family"] for line in lines] == families, done.stderr[-3000:]
    assert [line["mode"] for line in lines] == ["dynamic", "dynamic", "eager_hooks", "compiled"]
    for line in lines:
        assert line["worst"] <= 1e-5, line
        assert line["refused"], line
