"""The trained demo models on disk: trained once on this machine, cached, and verified each time it is used."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from checkpoints import tokenizer
from checkpoints.cache import Progress, build_once, checkpoints_dir, file_sha256, key, silent
from checkpoints.catalog import TRAINED, models
from checkpoints.demo.training import RECIPE, recipe
from checkpoints.errors import MissingPackage, TrainingFailed

NAME = "demo-1m"


def trained_path(name: str = NAME) -> Path:
    """Return where a trained demo model of this version, Python and tokenizer is or will be.

    The Python version counts because its standard library is the text that the model is trained on.
    """
    config = dict(models()[name].config)
    made_of = key(recipe(name), config, file_sha256(tokenizer.TOKENIZER_PATH), platform.python_version())
    return checkpoints_dir() / f"{name}-none-{made_of}"


def trained_directory(progress: Progress = silent, *, name: str = NAME) -> Path:
    """Return a trained demo model's directory, training it first (about a minute on two cores) when need be.

    Beside the model lie `heldout.txt`, text it was not trained on, and nbridge.json with its measured held-out
    perplexity. Raises MissingPackage without torch and transformers, TrainingFailed when the training ends badly.
    """
    target = trained_path(name)
    build_once(target, lambda directory: _train(name, directory, progress), progress)
    return target


def _train(name: str, directory: Path, progress: Progress) -> dict[str, Any]:
    missing = [package for package in ("torch", "transformers") if importlib.util.find_spec(package) is None]
    if missing:
        raise MissingPackage(
            f"{name} is trained on this machine, which needs {' and '.join(missing)}. Install the `cpu` or `gpu` "
            "extra of this application, or use demo-100m, which has no weights and needs no training."
        )
    progress(f"training {name}: {RECIPE['steps']} steps, about a minute on two cores, done once")
    threads = str(RECIPE["threads"])
    source_root = str(Path(__file__).resolve().parents[2])
    search_path = os.pathsep.join(filter(None, (source_root, os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": search_path}
    command = [sys.executable, "-m", "checkpoints.demo.training", name, str(directory)]
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process:
            try:
                for line in process.stdout or ():
                    progress(f"{name}: {line.strip()}")
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            errors.seek(0)
            last = [line.strip() for line in errors.read().splitlines() if line.strip()][-1:]
            raise TrainingFailed(
                f"Training {name} ended with exit status {process.returncode}: {''.join(last) or 'no message'}. "
                "Nothing was kept; run the command again, or use demo-100m, which needs no training."
            )
    measured_path = directory / "measured.json"
    measured: dict[str, Any] = json.loads(measured_path.read_text(encoding="utf-8"))
    measured_path.unlink()
    progress(f"{name}: held-out perplexity {measured['heldout_perplexity']:.1f}")
    return {"name": name, "kind": TRAINED, "scheme": "none", **measured, "recipe": recipe(name)}
