"""LoRA adapters as directories: which model one is for, and what an engine must know to serve it."""

from dataclasses import dataclass
from pathlib import Path

from checkpoints.cache import Progress, directory_sha256, read_manifest, silent
from checkpoints.catalog import WEIGHTLESS, models
from checkpoints.errors import BadAdapter, UnknownModel, WrongBase
from checkpoints.prepare import unknown_model
from checkpoints.tensors import headers

KIND = "adapter"
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's --max-lora-rank takes


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: its rank, the layers it changes, and its base model (as far as it says so, else None)."""

    path: Path
    rank: int
    targets: tuple[str, ...]
    base: str | None
    base_sha256: str | None


def read(path: Path) -> Adapter:
    """Return what an adapter's directory says. Raises BadAdapter when it cannot be served as one."""
    if not path.is_dir():
        raise BadAdapter(f"There is no adapter directory {str(path)!r}. `nbridge finetune` makes one.")
    if not (path / CONFIG_FILE).is_file():
        raise BadAdapter(f"{path} is not an adapter: it has no {CONFIG_FILE}. `nbridge finetune` makes adapters.")
    config = headers.read_json(path / CONFIG_FILE)
    if config.get("peft_type") != "LORA" or not isinstance(config.get("r"), int) or config["r"] < 1:
        raise BadAdapter(f"{path / CONFIG_FILE} describes no LoRA adapter (peft_type {config.get('peft_type')!r}).")
    if config["r"] > RANKS[-1]:
        raise BadAdapter(f"{path} has rank {config['r']}; an engine serves adapters up to rank {RANKS[-1]}.")
    if not (path / WEIGHTS_FILE).is_file():
        raise BadAdapter(f"{path} has no {WEIGHTS_FILE}; the adapter was not written to its end.")
    headers.read_header(path / WEIGHTS_FILE)
    targets = config.get("target_modules")
    manifest = read_manifest(path)
    return Adapter(
        path=path,
        rank=config["r"],
        targets=tuple(targets) if isinstance(targets, list) else (str(targets),),
        base=manifest.get("base") or config.get("base_model_name_or_path"),
        base_sha256=manifest.get("base_sha256"),
    )


def check_base(adapter: Adapter, model: Path) -> None:
    """Raise WrongBase when an adapter is known to be for another model than the one in this directory.

    Known are models that this application made or quantized, and adapters that it trained; of others nothing is said.
    """
    manifest = read_manifest(model)
    if adapter.base_sha256 is None or not manifest:
        return
    if adapter.base_sha256 not in (directory_sha256(model), manifest.get("source_sha256")):
        raise WrongBase(
            f"The adapter {adapter.path} was trained for {adapter.base}, whose weights are others than those of "
            f"{manifest.get('name', model)}. Serve it with the model that it was trained for, or train it anew."
        )


def rank_to_reserve(adapters: list[Adapter]) -> int:
    """Return the smallest rank that an engine can be told to reserve which holds all of these adapters."""
    needed = max(adapter.rank for adapter in adapters)
    return next(rank for rank in RANKS if rank >= needed)


def base_directory(model: str, progress: Progress = silent) -> Path:
    """Return the directory of weights that a model's name or path stands for, to be trained on.

    Raises UnknownModel, also for a model without weights and for one that has not been downloaded.
    """
    known = models().get(model)
    path = Path(model).expanduser()
    if (known is not None and known.kind == WEIGHTLESS) or read_manifest(path).get("kind") == WEIGHTLESS:
        raise UnknownModel(
            f"{model} has no weights here (it runs with random ones), so there is nothing to fine-tune. Take a "
            "trained model: demo-1m, or one that `nbridge fetch` has downloaded, by its directory."
        )
    if known is not None:
        from checkpoints.demo.trained import trained_directory

        return trained_directory(progress, name=model)
    if model and path.is_dir():
        return path
    hub = f"A model on the hub is downloaded first: `nbridge fetch {model} --out DIRECTORY`." if "/" in model else ""
    raise unknown_model(model, path, hint=hub)
