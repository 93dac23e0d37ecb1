"""Trains a demo model: a real Llama of 1 M parameters on the Python standard library's sources.

Run as `python -m checkpoints.demo.training NAME DIRECTORY`, in a process of its own: it needs torch and transformers,
fixes the number of threads, and prints one line of progress at a time. A fixed number of steps, not of seconds, so
the same machine and seed give the same weights.
"""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints import tokenizer
from checkpoints.catalog import models, write_config

if TYPE_CHECKING:
    import torch

HELD_OUT_FILE = "heldout.txt"
RECIPE: dict[str, Any] = {
    "version": 1,
    "seed": 0,
    "threads": 2,
    "steps": 750,
    "batch": 8,
    "sequence": 128,
    "peak_learning_rate": 4e-3,
    "warmup_steps": 50,
    "weight_decay": 0.05,
    "evaluated_windows": 256,
}


def recipe(name: str) -> dict[str, Any]:
    """Return how the demo model `name` is trained: the one recipe with that model's seed."""
    return RECIPE | {"seed": models()[name].seed}


def learning_rate(step: int) -> float:
    """Return the rate at a 0-based step: linear warm-up, flat to the middle, linear decay to 2 % at the end."""
    done = step / RECIPE["steps"]
    warm = min(1.0, (step + 1) / RECIPE["warmup_steps"])
    decay = 1.0 if done < 0.5 else max(0.02, (1 - done) / 0.5)
    return float(RECIPE["peak_learning_rate"] * warm * decay)


def train(directory: Path, name: str = "demo-1m") -> dict[str, Any]:
    """Train the model, write it into `directory`, and return what was measured on the held-out text.

    The perplexity is that of the stored (bfloat16) weights, computed in float32, over windows of 128 tokens
    spread evenly over the held-out text.
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(recipe(name)["seed"])
    torch.set_num_threads(RECIPE["threads"])
    training_texts, held_out_texts = tokenizer.standard_library_split()
    if len(training_texts) < 100 or not held_out_texts:
        raise SystemExit("the Python standard library's sources are not installed here: nothing to train on")
    encoder = Tokenizer.from_file(str(tokenizer.TOKENIZER_PATH))
    training, held_out = _tokens(encoder, training_texts), _tokens(encoder, held_out_texts)
    _report(f"training on {len(training):,} tokens, {len(held_out):,} held out")

    config = dict(models()[name].config)
    ids = {
        "bos_token_id": tokenizer.BOS_ID,
        "eos_token_id": tokenizer.EOS_ID,
        "pad_token_id": tokenizer.PAD_ID,
    }
    model = LlamaForCausalLM(LlamaConfig(**(config | ids | {"torch_dtype": "float32"})))
    _optimize(model, training)

    model.to(torch.bfloat16)
    model.save_pretrained(directory)
    nll, tokens = _mean_nll(model.float(), held_out)
    write_config(directory, config | ids)
    tokenizer.write(
        directory,
        vocab_size=tokenizer.VOCAB_SIZE,
        max_model_len=int(config["max_position_embeddings"]),
        special=True,
    )
    (directory / HELD_OUT_FILE).write_text("\n".join(held_out_texts), encoding="utf-8")
    return {
        "heldout_perplexity": round(math.exp(nll), 3),
        "heldout_nll": round(nll, 5),
        "heldout_tokens": tokens,
        "training_tokens_seen": RECIPE["steps"] * RECIPE["batch"] * RECIPE["sequence"],
    }


def _report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _tokens(encoder: Any, texts: list[str]) -> "torch.Tensor":
    import torch

    encoded = encoder.encode_batch(texts)
    return torch.tensor([token for item in encoded for token in (tokenizer.BOS_ID, *item.ids)])


def _optimize(model: Any, training: "torch.Tensor") -> None:
    import torch

    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim != 2 or "embed" in name or "lm_head" in name
        (others if plain else matrices).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": RECIPE["weight_decay"]},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RECIPE["peak_learning_rate"], betas=(0.9, 0.95), fused=True)
    model.train()
    for step in range(RECIPE["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        starts = torch.randint(0, len(training) - RECIPE["sequence"] - 1, (RECIPE["batch"],))
        loss = _loss(model, _windows(training, starts.tolist()))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            _report(f"step {step + 1} of {RECIPE['steps']}, loss {loss.item():.2f}")
    model.eval()


def _windows(tokens: "torch.Tensor", starts: list[int]) -> "torch.Tensor":
    import torch

    return torch.stack([tokens[start : start + RECIPE["sequence"] + 1] for start in starts])


def _loss(model: Any, windows: "torch.Tensor") -> "torch.Tensor":
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def _mean_nll(model: Any, held_out: "torch.Tensor") -> tuple[float, int]:
    import torch

    count = RECIPE["evaluated_windows"]
    last = len(held_out) - RECIPE["sequence"] - 1
    starts = [index * last // (count - 1) for index in range(count)]
    total = 0.0
    with torch.no_grad():
        for first in range(0, count, 32):
            batch = starts[first : first + 32]
            total += _loss(model, _windows(held_out, batch)).item() * len(batch)
    return total / count, count * RECIPE["sequence"]


if __name__ == "__main__":
    _name, _directory = sys.argv[1], Path(sys.argv[2])
    (_directory / "measured.json").write_text(json.dumps(train(_directory, _name)), encoding="utf-8")
