import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import typer
from made_models import LLAMA, make
from typer.testing import CliRunner

from checkpoints import cli, tokenizer
from checkpoints.cache import directory_sha256, verify
from checkpoints.errors import (
    BadAdapter,
    BadCheckpoint,
    BadRecipe,
    BadText,
    CheckpointError,
    OutputExists,
    TrainingFailed,
    UnknownModel,
    WrongBase,
)
from checkpoints.finetuning import adapters, corpus, finetune, perplexity
from checkpoints.finetuning.finetune import Recipe

pytestmark = pytest.mark.slow

QUICK = Recipe(steps=6, batch=4, window_tokens=32, learning_rate=0.02, targets=("q_proj", "v_proj", "o_proj"))


@pytest.fixture(autouse=True)
def one_thread():
    """More threads than free cores make each step wait for the slowest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    path = make(tmp_path_factory.mktemp("models") / "base", LLAMA | {"vocab_size": 1024})
    tokenizer.write(path, vocab_size=1024, max_model_len=256, special=True)
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    lines = [f"Clause {n}: the tenant shall pay {n * 7} pounds by day {n % 28 + 1}.\n" for n in range(80)]
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def done(base, text, tmp_path_factory) -> finetune.FineTuned:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = finetune.finetune(str(base), text, tmp_path_factory.mktemp("out") / "adapter", QUICK)
    torch.set_num_threads(threads)
    return found


def mean_perplexity(model, windows: list[list[int]]) -> float:
    """The textbook's: exp of the mean negative log-likelihood of every token but the first."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for window in windows:
            logits = model(torch.tensor([window])).logits[0].double().log_softmax(-1)
            for position in range(len(window) - 1):
                total -= float(logits[position, window[position + 1]])
                count += 1
    return math.exp(total / count)


def test_perplexity_before_and_after_are_those_of_the_model_without_and_with_the_adapter(base, text, done):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    windows = corpus.windows(AutoTokenizer.from_pretrained(base), text.read_text(), 32).heldout
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    assert done.perplexity.before == pytest.approx(mean_perplexity(model, windows), rel=1e-4)
    tuned = PeftModel.from_pretrained(model, done.path).eval()
    assert done.perplexity.after == pytest.approx(mean_perplexity(tuned, windows), rel=1e-4)
    assert done.perplexity.after < done.perplexity.before
    assert done.perplexity.low <= done.perplexity.ratio <= done.perplexity.high


def test_the_adapter_is_whole_says_where_it_comes_from_and_is_made_alike_again(base, text, done, tmp_path):
    path = Path(done.path)
    assert verify(path) is None
    assert sorted(file.name for file in path.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "nbridge.json",
    ]  # fmt: skip
    manifest = json.loads((path / "nbridge.json").read_text())
    assert (manifest["kind"], manifest["base"], manifest["base_sha256"]) == (
        "adapter",
        str(base),
        directory_sha256(base),
    )
    assert manifest["recipe"] | {"steps": 6, "seed": 0, "rank": 16, "alpha": 32.0, "dropout": 0.1} == manifest["recipe"]
    # 64 x 16 + 16 x 64 for q and o, 64 x 16 + 16 x 32 for v, in two blocks
    assert done.trained_parameters == 2 * (2 * 2048 + 1536)
    again = finetune.finetune(str(base), text, tmp_path / "again", QUICK)
    weights = "adapter_model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (path / weights).read_bytes()
    assert again.perplexity == done.perplexity


def test_every_tenth_window_is_held_out_and_none_is_trained_on(base):
    from transformers import AutoTokenizer

    found = corpus.windows(AutoTokenizer.from_pretrained(base), " ".join(map(str, range(2000))), 32)
    count = found.tokens // 32
    assert (len(found.heldout), len(found.training)) == (count // 10, count - count // 10)
    assert {len(window) for window in found.heldout + found.training} == {33}
    assert {window[0] for window in found.heldout + found.training} == {tokenizer.BOS_ID}
    assert not {tuple(window) for window in found.heldout} & {tuple(window) for window in found.training}


def test_a_text_that_repeats_itself_is_told():
    # runs of 3 in [2, 3, 4, 9]: (2, 3, 4) is in the training window, (3, 4, 9) is not
    assert corpus.seen_share([[1, 2, 3, 4, 5]], [[2, 3, 4, 9]], run=3) == 0.5
    assert corpus.seen_share([[1, 2, 3]], [[4, 5, 6]], run=3) == 0.0
    assert corpus.seen_share([[1, 2]], [[1, 2]], run=3) == 0.0


def test_perplexities_are_compared_window_by_window():
    found = perplexity.compare([2.0, 4.0], [1.0, 3.0])
    assert (found.before, found.after) == pytest.approx((math.exp(3), math.exp(2)))
    # each window fell by one nat: no resampling of windows says anything else
    assert (found.ratio, found.low, found.high) == pytest.approx((math.exp(-1),) * 3)
    mixed = perplexity.compare([1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 2.0, 0.0])
    assert mixed.ratio == pytest.approx(1)
    assert mixed.low < 1 < mixed.high


def test_steps_and_rates():
    recipe = Recipe(batch=8, learning_rate=1.0)
    assert finetune.steps_of(recipe, 100) == 38  # 3 x 100 / 8, rounded up
    assert finetune.steps_of(Recipe(steps=5), 100) == 5
    assert [finetune.learning_rate(recipe, step, 20) for step in (0, 1, 2, 19)] == pytest.approx(
        [0.5, 1.0, 18 / 19, 1 / 19]
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n\t ", "is empty"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "is not text in UTF-8 (byte 0 is 0x89)"),
        (b"text\0more", "zero bytes"),
        (b"Too short.", "make 0 windows of 32; at least 20 are needed"),
        (b"word " * 200, "use --window-tokens 30 or less"),
        (None, "cannot be read"),
    ],
)
def test_bad_texts(base, tmp_path, content, said):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadText) as error:
        finetune.finetune(str(base), path, tmp_path / "out", QUICK)
    assert said in str(error.value)
    assert error.value.exit_code == 2
    assert [one.name for one in tmp_path.iterdir()] == (["text"] if content is not None else [])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rank": 0}, "--rank 0: expected 1 to 512"),
        ({"dropout": 1.0}, "--dropout 1.0"),
        ({"alpha": math.nan}, "--alpha nan"),
        ({"steps": 0}, "--steps 0"),
        ({"learning_rate": -1.0}, "--learning-rate -1.0"),
        ({"window_tokens": 512}, "the model's context is 256 tokens"),
        ({"targets": ("query",)}, "--target query: the model has no such layer. It has: down_proj,"),
        ({"targets": ("embed_tokens",)}, "no such layer"),
        ({"targets": ()}, "--target"),
    ],
)
def test_bad_recipes(base, text, tmp_path, changes, said):
    with pytest.raises(BadRecipe) as error:
        finetune.finetune(str(base), text, tmp_path / "out", Recipe(**{**QUICK.__dict__, **changes}))
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        ("llama-3.1-8b", UnknownModel, "has no weights here"),
        ("demo-1x", UnknownModel, "Did you mean demo-1m"),
        ("someone/model", UnknownModel, "nbridge fetch someone/model"),
        ("{tmp}/nothing", UnknownModel, "There is no model"),
        ("{tmp}/empty", BadCheckpoint, "no config.json"),
        ("{tmp}/bare", BadCheckpoint, "has no weights"),
        ("{tmp}/quantized", BadCheckpoint, "is quantized (gptq)"),
    ],
)
def test_bad_models(text, tmp_path, model, error, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text(json.dumps(LLAMA))
    make(tmp_path / "quantized", LLAMA)
    config = LLAMA | {"quantization_config": {"quant_method": "gptq"}}
    (tmp_path / "quantized" / "config.json").write_text(json.dumps(config))
    with pytest.raises(error) as found:
        finetune.finetune(model.format(tmp=tmp_path), text, tmp_path / "out", QUICK)
    assert said in str(found.value)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_there_is_kept(base, text, tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(OutputExists):
        finetune.finetune(str(base), text, tmp_path, QUICK)
    assert [one.name for one in tmp_path.iterdir()] == ["mine"]


def test_a_training_that_diverges_leaves_nothing(base, text, tmp_path, monkeypatch):
    losses = finetune._losses
    monkeypatch.setattr(finetune, "_losses", lambda model, windows: losses(model, windows) * float("inf"))
    with pytest.raises(TrainingFailed, match="smaller --learning-rate"):
        finetune.finetune(str(base), text, tmp_path / "out", QUICK)
    assert list(tmp_path.iterdir()) == []


def run(*arguments: object):
    app = typer.Typer()
    app.command()(cli.finetune)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command(base, text, tmp_path):
    flags = ("--steps", 2, "--batch", 2, "--window-tokens", 32, "--learning-rate", 0.02)
    result = run(base, "--text", text, "--out", tmp_path / "legal", *flags, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["recipe"]["targets"] == ["q_proj", "v_proj"]
    assert document["perplexity"]["after"] < document["perplexity"]["before"]
    assert "step 2 of 2, loss" in result.stderr
    words = run(base, "--text", text, "--out", tmp_path / "again", *flags).stdout
    assert "Held-out perplexity" in words
    assert f"nbridge serve --model {base} --lora-modules again={tmp_path / 'again'}" in words


@pytest.mark.parametrize(
    ("before", "after", "seen", "exit_code", "words"),
    [
        ([1.0, 2.0], [1.5, 2.5], 0.0, 1, "does not help"),
        ([1.0, 1.0, 1.0], [0.5, 0.5, 1.1], 0.0, 0, "too short to say"),
        ([1.0, 2.0], [0.5, 1.5], 0.25, 0, "25% of the held-out text also stands in the training text"),
    ],
)
def test_what_is_said_of_an_adapter(done, text, monkeypatch, before, after, seen, exit_code, words):
    judged = dataclasses.replace(done, perplexity=perplexity.compare(before, after), heldout_seen_share=seen)
    monkeypatch.setattr(finetune, "finetune", lambda *_, **__: judged)
    result = run("demo-1m", "--text", text, "--out", "anywhere")
    assert result.exit_code == exit_code, result.output
    assert words in result.stdout


def test_what_an_engine_must_know_of_an_adapter(done, base, tmp_path):
    found = adapters.read(Path(done.path))
    assert (found.rank, set(found.targets), found.base) == (16, {"q_proj", "v_proj", "o_proj"}, str(base))
    assert adapters.rank_to_reserve([found]) == 16
    assert adapters.rank_to_reserve([found, adapters.Adapter(tmp_path, 33, (), None, None)]) == 64
    adapters.check_base(found, base)  # says nothing of a directory that this application did not make
    (tmp_path / "nbridge.json").write_text(json.dumps({"format": 1, "name": "other", "files": {}}))
    with pytest.raises(WrongBase, match="those of other"):
        adapters.check_base(found, tmp_path)
    own = {"format": 1, "name": "other", "files": {}, "source_sha256": found.base_sha256}
    (tmp_path / "nbridge.json").write_text(json.dumps(own))
    adapters.check_base(found, tmp_path)  # a quantized copy of its base


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "There is no adapter directory"),
        ({}, "has no adapter_config.json"),
        ({"adapter_config.json": "{"}, "not valid JSON"),
        ({"adapter_config.json": '{"peft_type": "PREFIX_TUNING"}'}, "describes no LoRA adapter"),
        ({"adapter_config.json": '{"peft_type": "LORA", "r": 1024}'}, "up to rank 512"),
        ({"adapter_config.json": '{"peft_type": "LORA", "r": 8}'}, "not written to its end"),
        (
            {"adapter_config.json": '{"peft_type": "LORA", "r": 8}', "adapter_model.safetensors": "x"},
            "not a whole safetensors file",
        ),
    ],
)
def test_directories_that_are_no_adapter(tmp_path, files, said):
    path = tmp_path / "adapter"
    if files is not None:
        path.mkdir()
        for name, content in files.items():
            (path / name).write_text(content)
    with pytest.raises(CheckpointError) as error:
        adapters.read(path)
    assert said in str(error.value)
    assert isinstance(error.value, BadAdapter | BadCheckpoint)
