"""Fine-tunes a model to a text: trains a LoRA adapter, and judges it by its perplexity on what was held out.

The text becomes windows of equal length; every tenth is held out and never trained on. Perplexity before and after is
that of the same held-out windows, so the two compare. The adapter is a directory that peft and vLLM both read.
"""

import errno
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.cache import Progress, directory_sha256, new_directory, silent, write_manifest
from checkpoints.errors import BadCheckpoint, BadRecipe, DiskFull, MissingPackage, TrainingFailed
from checkpoints.finetuning import adapters, corpus
from checkpoints.finetuning.corpus import Corpus
from checkpoints.finetuning.perplexity import Perplexity, compare
from checkpoints.tensors import headers, schemes

if TYPE_CHECKING:
    import torch

_PACKAGES = ("torch", "transformers", "peft")
_PASSES = 3
_WARM_UP_SHARE = 0.1
_REPORTS = 20
_LARGEST_LOSS = 500.0  # nats per token: e to the power of more is hardly a number any more


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained. Rank, alpha, dropout and targets are the deployment guide's.

    `steps` None: three passes over the training windows. `batch` is windows per step, `window_tokens` their length.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    steps: int | None = None
    batch: int = 8
    window_tokens: int = 256
    learning_rate: float = 2e-4
    seed: int = 0

    def check(self) -> None:
        """Raise BadRecipe naming the setting that cannot be, its value and what can."""
        ranges: list[tuple[str, float | None, bool, str]] = [
            ("rank", self.rank, 1 <= self.rank <= adapters.RANKS[-1], f"1 to {adapters.RANKS[-1]}"),
            ("alpha", self.alpha, 0 < self.alpha < math.inf, "a number above 0"),
            ("dropout", self.dropout, 0 <= self.dropout < 1, "0 up to, but not, 1"),
            ("steps", self.steps, self.steps is None or self.steps >= 1, "a whole number of at least 1"),
            ("batch", self.batch, self.batch >= 1, "a whole number of at least 1"),
            ("window-tokens", self.window_tokens, self.window_tokens >= 8, "a whole number of at least 8"),
            ("learning-rate", self.learning_rate, 0 < self.learning_rate < math.inf, "a number above 0"),
            ("seed", self.seed, 0 <= self.seed < 2**63, "0 to 2⁶³ − 1"),
        ]
        for name, value, fits, expected in ranges:
            if not fits:
                raise BadRecipe(f"--{name} {value}: expected {expected}.")
        if not self.targets or not all(self.targets):
            raise BadRecipe("--target: name at least one linear layer of the model, such as q_proj.")


@dataclass(frozen=True)
class FineTuned:
    """An adapter that was written, and what it took. `heldout_seen_share`: see `corpus.Corpus`."""

    path: str
    base: str
    base_sha256: str
    perplexity: Perplexity
    recipe: dict[str, Any]
    text_sha256: str
    text_tokens: int
    training_windows: int
    heldout_windows: int
    heldout_seen_share: float
    trained_parameters: int
    parameters: int
    device: str
    seconds: float
    versions: dict[str, str]


def finetune(
    model: str, text: Path, out: Path, recipe: Recipe | None = None, *, progress: Progress = silent
) -> FineTuned:
    """Train an adapter for a model on a text file, write it to `out`, and return what was measured.

    `model`: a trained demo model's name or a directory of unquantized weights. `out` must be empty or not exist, and
    appears only when it is whole; its nbridge.json holds what is returned. The same text, recipe, machine and versions
    give the same adapter on a CPU. Raises BadRecipe, BadText, UnknownModel, BadCheckpoint, OutputExists,
    MissingPackage, DiskFull or TrainingFailed.
    """
    recipe = recipe or Recipe()
    recipe.check()
    missing = [name for name in _PACKAGES if util.find_spec(name) is None]
    if missing:
        raise MissingPackage(
            f"Fine-tuning needs {' and '.join(missing)}. Install the `cpu` or `gpu` extra of this application."
        )
    content = corpus.read(text)
    with new_directory(out) as directory:
        source = adapters.base_directory(model, progress)
        _refuse_unsuitable(source, recipe)
        try:
            found = _train(model, source, content, directory, recipe, progress)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise DiskFull(f"The disk of {out} has no room for the adapter.") from error
        write_manifest(directory, {"kind": adapters.KIND, **{k: v for k, v in asdict(found).items() if k != "path"}})
    return FineTuned(**{**found.__dict__, "path": str(out)})


def _refuse_unsuitable(source: Path, recipe: Recipe) -> None:
    config = headers.read_json(source / "config.json")
    tensors = headers.read_weights(source)
    own = schemes.scheme_of(config)
    if own != schemes.NONE:
        raise BadCheckpoint(
            f"{source} is quantized ({own}), and an adapter is trained on unquantized weights. Fine-tune the model "
            "that it was made from."
        )
    names = {name: name.split(".") for name, each in tensors.items() if len(each.stored.shape) == 2}
    # Those of the numbered blocks: an embedding or output layer changes the vocabulary, which engines do not serve.
    layers = sorted({parts[-2] for parts in names.values() if any(part.isdigit() for part in parts)})
    unknown = [target for target in recipe.targets if target not in layers]
    if unknown:
        raise BadRecipe(f"--target {unknown[0]}: the model has no such layer. It has: {', '.join(layers)}.")


def _train(model: str, source: Path, text: str, directory: Path, recipe: Recipe, progress: Progress) -> FineTuned:
    begin_s = time.monotonic()
    tokenizer, base = _load(source, recipe)
    parts = corpus.windows(tokenizer, text, recipe.window_tokens)
    progress(f"{parts.tokens:,} tokens: {len(parts.training)} windows to train on, {len(parts.heldout)} held out")
    try:
        before = _window_losses(base, parts.heldout, recipe.batch)
        progress(f"held-out perplexity before: {math.exp(sum(before) / len(before)):.2f}")
        tuned = _with_adapter(base, recipe)
        _optimise(tuned, parts, recipe, progress)
        after = _window_losses(tuned, parts.heldout, recipe.batch)
        _refuse_diverged(after, recipe, "on the held-out windows")
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        raise TrainingFailed(
            f"The memory of the {base.device.type} was not enough to train with --batch {recipe.batch} and "
            f"--window-tokens {recipe.window_tokens}; make one of them smaller. Nothing was kept."
        ) from error
    perplexity = compare(before, after)
    progress(f"held-out perplexity after: {perplexity.after:.2f}")
    # By itself peft would look the base's vocabulary up on the hub; q_proj and its like leave it as it is.
    tuned.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)  # a form that nobody has filled in
    for path in directory.iterdir():
        path.chmod(0o644)  # safetensors makes its file private; a server may run as another user
    trained, total = tuned.get_nb_trainable_parameters()
    return FineTuned(
        path=str(directory),
        base=model,
        base_sha256=directory_sha256(source),
        perplexity=perplexity,
        recipe=asdict(recipe) | {"steps": steps_of(recipe, len(parts.training))},
        text_sha256=parts.sha256,
        text_tokens=parts.tokens,
        training_windows=len(parts.training),
        heldout_windows=len(parts.heldout),
        heldout_seen_share=parts.heldout_seen_share,
        trained_parameters=int(trained),
        parameters=int(total) - int(trained),
        device=base.device.type,
        seconds=round(time.monotonic() - begin_s, 1),
        versions={name: metadata.version(name) for name in _PACKAGES},
    )


def _load(source: Path, recipe: Recipe) -> tuple[Any, Any]:
    """The tokenizer, and the model on the GPU (in bfloat16) where there is one, else on the CPU (in 32 bit)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(recipe.seed)
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        base: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).to(device)
    except (OSError, ValueError, ImportError) as error:
        raise BadCheckpoint(f"{source} cannot be loaded by transformers: {error}") from error
    longest = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and recipe.window_tokens > longest:
        raise BadRecipe(f"--window-tokens {recipe.window_tokens}: the model's context is {longest} tokens.")
    return tokenizer, base


def _with_adapter(base: Any, recipe: Recipe) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        base,
        LoraConfig(
            r=recipe.rank,
            lora_alpha=int(recipe.alpha) if recipe.alpha.is_integer() else recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=list(recipe.targets),
            task_type="CAUSAL_LM",
        ),
    )


def steps_of(recipe: Recipe, training_windows: int) -> int:
    """Return how many steps are trained: as the recipe says, else three passes over the training windows."""
    return recipe.steps or math.ceil(_PASSES * training_windows / recipe.batch)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Return the rate at a 0-based step: linear warm-up over the first tenth, then linearly down towards 0."""
    warm_up = max(1, round(_WARM_UP_SHARE * steps))
    if step < warm_up:
        return recipe.learning_rate * (step + 1) / warm_up
    return recipe.learning_rate * (steps - step) / (steps - warm_up + 1)


def _optimise(model: Any, text: Corpus, recipe: Recipe, progress: Callable[[str], None]) -> None:
    import torch

    steps = steps_of(recipe, len(text.training))
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(recipe.seed)
    order: list[int] = []
    model.train()
    for step in range(steps):
        while len(order) < recipe.batch:
            order += torch.randperm(len(text.training), generator=generator).tolist()
        picked, order = order[: recipe.batch], order[recipe.batch :]
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step, steps)
        loss = _losses(model, [text.training[each] for each in picked]).mean()
        _refuse_diverged([loss.item()], recipe, f"at step {step + 1} of {steps}")
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if (step + 1) % max(1, steps // _REPORTS) == 0 or step + 1 == steps:
            progress(f"step {step + 1} of {steps}, loss {loss.item():.3f}")
    model.eval()


def _refuse_diverged(losses: list[float], recipe: Recipe, where: str) -> None:
    if not all(loss < _LARGEST_LOSS for loss in losses):  # nor is one that is not a number
        raise TrainingFailed(
            f"The loss was not finite {where}. A smaller --learning-rate than {recipe.learning_rate:g} may help. "
            "Nothing was kept."
        )


def _window_losses(model: Any, windows: list[list[int]], batch: int) -> list[float]:
    """Mean loss (nats per token) of each window, without dropout."""
    import torch

    model.eval()
    with torch.inference_mode():
        return [
            loss
            for first in range(0, len(windows), batch)
            for loss in _losses(model, windows[first : first + batch]).tolist()
        ]


def _losses(model: Any, windows: list[list[int]]) -> "torch.Tensor":
    import torch
    from torch.nn.functional import cross_entropy

    ids = torch.tensor(windows, device=model.device)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
    return cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(dim=1)
