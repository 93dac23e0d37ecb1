"""The trained demo models on disk: their weights come with the application; another recipe is trained here."""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from checkpoints import tokenizer
from checkpoints.cache import MANIFEST, Progress, build_once, checkpoints_dir, file_sha256, key, read_manifest, silent
from checkpoints.catalog import TRAINED, models
from checkpoints.demo.training import RECIPE, recipe
from checkpoints.errors import MissingPackage, TrainingFailed

NAME = "demo-1m"
# As training left them on one machine in November 2026, without the tokenizer that lies beside. So everybody has the
# same model: with other matrix kernels the same recipe gives other weights, and without AVX-512 it takes minutes.
SHIPPED = Path(__file__).parents[1] / "data"


def trained_path(name: str = NAME) -> Path:
    """Return where a trained demo model of this version is or will be.

    For one that is trained here the Python version counts, because its standard library is the text to be learned.
    """
    config = dict(models()[name].config)
    origin = file_sha256(SHIPPED / name / MANIFEST) if _is_shipped(name) else platform.python_version()
    return checkpoints_dir() / f"{name}-none-{key(recipe(name), config, file_sha256(tokenizer.TOKENIZER_PATH), origin)}"


def trained_directory(progress: Progress = silent, *, name: str = NAME) -> Path:
    """Return a trained demo model's directory; of a recipe that is not shipped it is trained first (minutes).

    Beside the model lie `heldout.txt`, text it was not trained on, and nbridge.json with its measured held-out
    perplexity. Raises MissingPackage without torch and transformers, TrainingFailed when the training ends badly.
    """
    make = _copy if _is_shipped(name) else _train
    target = trained_path(name)
    build_once(target, lambda directory: make(name, directory, progress), progress)
    return target


def _is_shipped(name: str) -> bool:
    """Whether the weights that came with the application are of this recipe, configuration and tokenizer."""
    manifest = read_manifest(SHIPPED / name)
    if not manifest or manifest["recipe"] != recipe(name):
        return False
    config = json.loads((SHIPPED / name / "config.json").read_text(encoding="utf-8"))
    is_same_tokenizer = manifest["files"]["tokenizer.json"]["sha256"] == file_sha256(tokenizer.TOKENIZER_PATH)
    is_same_config: bool = config.items() >= dict(models()[name].config).items()
    return bool(is_same_tokenizer) and is_same_config


def _copy(name: str, directory: Path, _progress: Progress) -> dict[str, Any]:
    manifest = read_manifest(SHIPPED / name)
    for file in manifest["files"]:
        source = tokenizer.TOKENIZER_PATH if file == "tokenizer.json" else SHIPPED / name / file
        shutil.copyfile(source, directory / file)
    return {fact: value for fact, value in manifest.items() if fact not in ("format", "files")}


def _train(name: str, directory: Path, progress: Progress) -> dict[str, Any]:
    missing = [package for package in ("torch", "transformers") if importlib.util.find_spec(package) is None]
    if missing:
        raise MissingPackage(
            f"{name} is trained on this machine, which needs {' and '.join(missing)}. Install the `cpu` or `gpu` "
            "extra of this application, or use demo-100m, which has no weights and needs no training."
        )
    progress(f"training {name}: {RECIPE['steps']} steps, one to four minutes on two cores, done once")
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
