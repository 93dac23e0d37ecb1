"""True hidden states of other architectures, in the engine's own process, against Hugging Face; or none."""

import json
import sys
from pathlib import Path

import forks
import pytest

HERE = Path(__file__).parent
# The four hand on a finished stream beside an old residual; Qwen 2 and Mistral have taps of their own.
FAMILIES = {
    "cohere": "eager_hooks",
    "stablelm": "eager_hooks",
    "exaone4": "eager_hooks",
    "granitemoehybrid": "eager_hooks",
    "gpt2": "eager_hooks",
    "qwen2": "dynamic",
    "mistral+compiled": "compiled",
    "crooked": "off",
}


@pytest.mark.engine
@pytest.mark.timeout(1200)
def test_families_are_right_at_every_place_or_refused():
    argv = [sys.executable, HERE / "crooked_families.py", *FAMILIES]
    done = forks.run(argv, timeout_s=1100, beside=forks.VLLM)
    lines = {line["family"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert {name: line.get("mode") for name, line in lines.items()} == FAMILIES, (lines, done.stderr[-3000:])
    for name, line in lines.items():
        if name == "crooked":
            assert "block 1 of CrookedForCausalLM depends on more of block 0" in line["reason"]
            continue
        assert max(line["worst"].values()) <= 1e-5, line
        assert line["unknown_refused"], line
    assert done.returncode == 0
