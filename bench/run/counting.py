"""Output tokens counted here, by a named tokenizer, where a server does not count them (`tokens = "client"`)."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bench.errors import PlanError
from bench.run.records import Amend


def load(name: str) -> Tokenizer:
    """A tokenizer.json, the one of a directory, or the one of a model on the hub. Raises PlanError."""
    path = Path(name).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        return Tokenizer.from_file(str(path)) if path.exists() else Tokenizer.from_pretrained(name)
    except Exception as error:  # the library raises plain Exception
        raise PlanError(
            f"tokenizer = {name!r}: cannot be loaded ({error}); name a tokenizer.json, a directory with one, or "
            "a model on the hub."
        ) from error


def counter(name: str) -> Amend:
    """What gives a record's generated text its tokens: `output_tokens`, and per chunk where each carries one."""
    tokenizer = load(name)

    def count(record: dict[str, Any]) -> dict[str, Any]:
        text, chunk_s = record.pop("text", None), record.get("chunk_s") or []
        chunks = len(chunk_s)
        if not isinstance(text, str) or not chunks:
            return record
        tokens = len(tokenizer.encode(text, add_special_tokens=False).ids)
        return record | {
            "output_tokens": tokens,
            "chunk_tokens": [1] * chunks if tokens == chunks else None,
            "tokens_after_first": tokens - tokens * chunk_s.count(chunk_s[0]) / chunks,
        }

    return count
