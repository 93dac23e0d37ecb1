"""Prompt files that tests write, and what is read of them."""

import csv
import json
from pathlib import Path
from typing import Any

from bench.prompts.entry import Entry
from bench.prompts.reading import PromptFile


def read(path: Path, **options: Any) -> list[Entry]:
    return list(PromptFile(path, **options))


def lines(path: Path, *items: Any) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def table(path: Path, *rows: Any, delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out, delimiter=delimiter).writerows(rows)
    return path
