"""Asks the installed transformers for the tensors of a configuration: run as a program, in a process of its own.

    python -m checkpoints.tensors.meta_shapes DIRECTORY…

The model is built on torch's meta device: no weight is read and no memory taken. Its class is one of transformers' own,
by `model_type`: code that lies in the directory is never run. Prints one JSON line for each, name → shape of every
parameter, or ends with a reason on the last line of stderr.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

MARK = "nbridge-meta-shapes "
_TEXT, _TOWERS = ("AutoModelForCausalLM",), ("AutoModelForMultimodalLM", "AutoModelForImageTextToText")


def main(directory: str) -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    import torch
    import transformers

    document = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
    model_type = document.get("model_type")
    if model_type not in transformers.CONFIG_MAPPING:
        sys.exit(f"transformers {transformers.__version__} has no model type {model_type!r}")
    config = transformers.CONFIG_MAPPING[model_type].from_dict(_plain(document))
    # A type with towers may have a class of its text part alone; an engine loads the towers too.
    towers = any(document.get(f"{tower}_config") for tower in ("vision", "audio"))
    for name in (*_TOWERS, *_TEXT) if towers else (*_TEXT, *_TOWERS):
        auto = getattr(transformers, name, None)
        if auto is None or type(config) not in auto._model_mapping:
            continue
        with torch.device("meta"):
            model = auto.from_config(config, trust_remote_code=False)
        shapes = {key: list(parameter.shape) for key, parameter in model.named_parameters()}
        sys.stdout.write(MARK + json.dumps({"class": type(model).__name__, "shapes": shapes}) + "\n")
        return
    sys.exit(f"transformers {transformers.__version__} has no language model for model type {model_type!r}")


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    """The configuration without its quantization, whose classes would want packages and devices of their own."""
    left_out = ("quantization_config", "compression_config", "auto_map")
    return {
        key: _plain(value) if isinstance(value, dict) else value
        for key, value in document.items()
        if key not in left_out
    }


if __name__ == "__main__":
    try:
        for one in sys.argv[1:]:
            main(one)
    except Exception as error:  # noqa: BLE001 (whatever a class raises on a configuration is the answer)
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
