"""Lists what is known by name and what lies in the cache."""

from dataclasses import dataclass
from pathlib import Path

from checkpoints.cache import checkpoints_dir, read_manifest
from checkpoints.catalog import WEIGHTLESS, models
from checkpoints.errors import BadCheckpoint
from checkpoints.tensors import architecture, headers, schemes


@dataclass(frozen=True)
class Row:
    """One model: `weights_bytes` is what its tensors take in `scheme` ("none": at 16 bit).

    `path` is its directory in the cache, None while it has not been made.
    """

    name: str
    kind: str
    scheme: str
    parameters: int | None
    weights_bytes: int | None
    kv_bytes_per_token: int | None
    max_model_len: int | None
    hub_name: str | None
    about: str
    path: str | None


def inventory() -> list[Row]:
    """Return the known models in the catalog's order, each followed by its copies in the cache, then other copies."""
    cached = _cached()
    rows = []
    for model in models().values():
        plain = Row(
            name=model.name,
            kind=model.kind,
            scheme=schemes.NONE,
            parameters=architecture.parameters(model.config),
            weights_bytes=schemes.weights_bytes(model.stored()),
            kv_bytes_per_token=architecture.kv_bytes_per_token(model.config),
            max_model_len=model.config.get("max_position_embeddings"),
            hub_name=model.hub_name,
            about=model.about,
            path=None,
        )
        own = [row for row in cached if row.name == model.name]
        rows += own if any(row.scheme == schemes.NONE for row in own) else [plain, *own]
    return rows + [row for row in cached if row.name not in models()]


def _cached() -> list[Row]:
    found = []
    for directory in sorted(checkpoints_dir().glob("[!.]*/")):
        manifest = read_manifest(directory)
        if "name" not in manifest:
            continue
        try:
            found.append(_row(directory, manifest))
        except BadCheckpoint:
            continue  # damaged: it is made again when it is used
    return sorted(found, key=lambda row: (row.name, row.scheme != schemes.NONE, row.scheme))


def _row(directory: Path, manifest: dict[str, str]) -> Row:
    config = headers.read_json(directory / "config.json")
    known = models().get(manifest["name"])
    if manifest["kind"] == WEIGHTLESS and known is not None:
        weights_bytes = schemes.weights_bytes(known.stored(), manifest["scheme"])
    else:
        weights_bytes = sum(tensor.stored.stored_bytes for tensor in headers.read_tensors(directory).values())
    counted = config.get("model_type") in architecture.KNOWN_TYPES
    return Row(
        name=manifest["name"],
        kind=manifest["kind"],
        scheme=manifest["scheme"],
        parameters=architecture.parameters(config) if counted else None,
        weights_bytes=weights_bytes,
        kv_bytes_per_token=architecture.kv_bytes_per_token(config),
        max_model_len=config.get("max_position_embeddings"),
        hub_name=known.hub_name if known else None,
        about=known.about if known else "",
        path=str(directory),
    )
