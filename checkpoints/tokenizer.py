"""The 1,024-entry byte-level BPE that every made checkpoint uses, and its padded form for larger vocabularies.

`data/tokenizer.json` is committed. It was trained on the Python standard library's sources by

    python -m checkpoints.tokenizer

and changes only when that is run again; checkpoints made with another one are then made anew.
"""

import hashlib
import json
import sysconfig
from pathlib import Path
from typing import Any

TOKENIZER_PATH = Path(__file__).parent / "data" / "tokenizer.json"
VOCAB_SIZE = 1024
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
BOS_ID, EOS_ID, PAD_ID = 0, 1, 2
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
HELD_OUT_ONE_IN = 20
_LEFT_OUT = ("site-packages", "/test", "encodings", "idlelib", "pydoc_data")


def standard_library_split(root: Path | None = None) -> tuple[list[str], list[str]]:
    """Return the texts of the standard library's modules as (training, held-out), in path order.

    A file is held out when the MD5 of its path is divisible by 20, so the split does not move when files
    are added. Tests, vendored packages and generated tables are left out.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    training: list[str] = []
    held_out: list[str] = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root).as_posix()
        if any(part in f"/{relative}" for part in _LEFT_OUT):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        digest = int(hashlib.md5(relative.encode(), usedforsecurity=False).hexdigest(), 16)
        (held_out if digest % HELD_OUT_ONE_IN == 0 else training).append(text)
    return training, held_out


def train(texts: list[str]) -> str:
    """Return tokenizer.json's text for a byte-level BPE of 1,024 entries learnt from `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str(pretty=True))


def is_ours(directory: Path) -> bool:
    """Say whether a directory's tokenizer is this one, padded or not, in place of a model's own."""
    try:
        theirs = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(theirs == json.loads(TOKENIZER_PATH.read_text(encoding="utf-8"))["model"]["merges"])


def padded(vocab_size: int) -> dict[str, Any]:
    """Return a tokenizer.json document of exactly `vocab_size` entries, each of which decodes to text on its own.

    A model without weights emits any id of its vocabulary, and a streaming client only sees a token that adds
    text. So here no entry is special (a special token decodes to nothing), a lone byte of a multi-byte character
    decodes to a printable stand-in (a byte-level decoder would hold it back until the character is complete), and
    filler entries fill the vocabulary. No merge leads to a filler, so no text encodes to one. ASCII text survives
    a round trip; other characters encode, but decode to the stand-ins.

    One exception is not ours to mend: transformers 5 loads every qwen2 directory with its own byte-level decoder,
    under which the 128 lone-byte entries wait for the next token to show their text.
    """
    document: dict[str, Any] = json.loads(TOKENIZER_PATH.read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = document["model"]["vocab"]
    if vocab_size < len(vocabulary):
        raise ValueError(f"vocab_size {vocab_size} is below the {len(vocabulary)} entries of the tokenizer")
    for token_id in range(len(vocabulary), vocab_size):
        vocabulary[f"Ġt{token_id}"] = token_id
    document["added_tokens"] = []
    document["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "Ġ"}, "content": " "},
            {"type": "Replace", "pattern": {"String": "Ċ"}, "content": "\n"},
            {"type": "Replace", "pattern": {"String": "ĉ"}, "content": "\t"},
            {"type": "Replace", "pattern": {"String": "č"}, "content": "\r"},
            {"type": "Fuse"},
        ],
    }
    return document


def write(directory: Path, *, vocab_size: int, max_model_len: int, special: bool) -> None:
    """Write tokenizer.json and tokenizer_config.json into `directory`.

    With `special`, the committed tokenizer with its begin, end and padding tokens (a trained model);
    without, the padded form (a model without weights).
    """
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_model_len,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    if special:
        text = TOKENIZER_PATH.read_text(encoding="utf-8")
        config |= {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    else:
        # Said outright, because a model type's own tokenizer class would add special tokens beyond the vocabulary.
        config |= {"bos_token": None, "eos_token": None, "pad_token": None, "unk_token": None}
        text = json.dumps(padded(vocab_size), ensure_ascii=False)
    (directory / "tokenizer.json").write_text(text, encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    TOKENIZER_PATH.write_text(train(standard_library_split()[0]) + "\n", encoding="utf-8")
