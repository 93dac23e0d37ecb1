"""Reads what a repository on the hub says of its model: config.json and the headers of its safetensors files.

No weight is downloaded. Token and mirror as for `fetch`: HF_TOKEN and HF_ENDPOINT.
"""

import json
import re
from pathlib import Path
from typing import Any

from checkpoints.errors import BadCheckpoint, RepositoryNotFound
from checkpoints.tensors import headers
from checkpoints.tensors.prequantized import QUANT_FILE
from checkpoints.tensors.schemes import DTYPE_BYTES, Stored

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repository(name: str) -> bool:
    """Say whether a name is written as a repository's is: organisation/name."""
    return _NAME.fullmatch(name) is not None


def read(name: str) -> tuple[dict[str, Any], dict[str, Any] | None, dict[str, Stored]]:
    """Return (config.json, hf_quant_config.json or None, name → tensor) of a repository.

    Raises as `fetch.fetch`; BadCheckpoint when the repository holds no safetensors.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, NotASafetensorsRepoError  # type: ignore[attr-defined]

    from checkpoints import fetch

    endpoint = fetch.endpoint()
    try:
        config = _json(name, "config.json", endpoint)
        if config is None:
            raise RepositoryNotFound(f"{name} has no config.json, so what model it holds cannot be told.")
        beside = _json(name, QUANT_FILE, endpoint)
        found = HfApi(endpoint=endpoint).get_safetensors_metadata(name)
    except NotASafetensorsRepoError as error:
        raise BadCheckpoint(
            f"{name} holds no model.safetensors and no index of them, so the sizes of its weights cannot be read "
            f"without downloading it. `nbridge fetch {name} --out DIRECTORY` says what it holds."
        ) from error
    except (HTTPError, OSError) as error:
        fetch.explain(error, name, None, endpoint or fetch.DEFAULT_ENDPOINT)
    tensors: dict[str, Stored] = {}
    for file in found.files_metadata.values():
        for tensor, info in file.tensors.items():
            if info.dtype not in DTYPE_BYTES:
                raise BadCheckpoint(f"{name}: tensor {tensor} has the unknown type {info.dtype}.")
            tensors[tensor] = Stored(info.dtype, tuple(info.shape))
    return config, beside, tensors


def _json(name: str, file: str, endpoint: str | None) -> dict[str, Any] | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = Path(hf_hub_download(name, file, endpoint=endpoint))
    except EntryNotFoundError:
        return None
    try:
        return headers.read_json(path)
    except json.JSONDecodeError as error:
        raise BadCheckpoint(f"{file} of {name} is not valid JSON: {error}.") from error
