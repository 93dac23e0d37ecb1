"""`nbridge prompts`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.errors import PlanError
from bench.plans.workload import Vocabulary
from bench.prompts.messages import Turns
from bench.prompts.reading import PromptFile
from bench.prompts.summary import PERCENTILES, summarise
from inputs.quantities import trimmed


def prompts(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON, JSON lines, CSV, Parquet or plain text.")],
    column: Annotated[str | None, typer.Option(help="The column (or key) that holds the prompt.")] = None,
    turns: Annotated[Turns, typer.Option(help="Which turns of a recorded conversation are asked.")] = "first",
    model: Annotated[str | None, typer.Option(help="Count tokens, and see what fits, as this model does.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Count tokens with this tokenizer.json, or the one in this directory.")
    ] = None,
    context: Annotated[int | None, typer.Option(min=2, help="The context that entries have to fit, in tokens.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """What a prompt file is and holds: entries, lengths, turns, shared prefixes, arrivals; what is skipped and why."""
    vocabulary, limit, stands_in = _measure(model, tokenizer)
    found = summarise(PromptFile(file.expanduser(), column, turns), vocabulary, context=context or limit)
    found["tokens_counted_by"] = None if vocabulary is None else "a stand-in" if stands_in else "its tokenizer"
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        _show(found)
        if stands_in:
            Console(highlight=False).print(
                f"Counted by this program's own tokenizer of 1,024 entries, with which {model} is served here without "
                "weights: its makers' makes far fewer tokens of the same text. Name that one with --tokenizer.",
                markup=False,
                soft_wrap=True,
            )


def _measure(model: str | None, tokenizer: Path | None) -> tuple[Vocabulary | None, int | None, bool]:
    """What counts tokens, the model's context, and whether the tokenizer only stands in for the model's own."""
    if tokenizer is not None:
        place = tokenizer.expanduser()
        return Vocabulary.load(place.parent if place.name == "tokenizer.json" else place), None, False
    if model is None:
        return None, None, False
    from bench.target import vocabulary_of
    from checkpoints.prepare import prepare
    from checkpoints.tokenizer import is_ours

    checkpoint = prepare(model)
    vocabulary = vocabulary_of(checkpoint)
    if vocabulary is None:
        raise PlanError(f"--model {model}: its tokenizer is not at hand; name a tokenizer.json with --tokenizer.")
    stands_in = checkpoint.load_format == "dummy" and is_ours(Path(checkpoint.path))
    return vocabulary, checkpoint.max_model_len, stands_in


def _show(found: dict[str, Any]) -> None:
    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    say(f"{found['file']}: {found['format']} ({found['container']}), {found['entries']:,} entries")
    if found["requests"] != found["entries"]:
        say(f"{found['requests']:,} requests")
    console.print(_lengths(found))
    if found["tokens_counted_of"] and found["tokens_counted_of"] < (found["prompt_bytes"] or {"n": 0})["n"]:
        say(f"Tokens are counted of a random sample of {found['tokens_counted_of']:,} entries.")
    if not found["prompt_tokens"]:
        say("Tokens are not counted: name a --model or a --tokenizer.")
    if found["output_tokens_from"] == "recorded answers":
        say("Answers become as long as the recorded ones, unless the load has `output_tokens`.")
    for name, what in (("with_media", "pictures, sound or files"), ("with_tools", "tools")):
        if found[name]:
            say(f"With {what}: {found[name]:,}")
    if (share := found["shared_prefix_share"]) is not None:
        of = found["shared_prefix_of"]
        part = "" if of == found["requests"] else f" (looked for in the first {of:,})"
        say(
            f"Shared prefixes: {share:.1%} of the prompts' length is a beginning that an earlier prompt has, too{part}."
        )
    if arrivals := found["arrivals"]:
        say(_arrivals(arrivals))
    if found["too_long"] is not None:
        say(
            f"Context of {found['context']:,} tokens: {found['too_long']:,} of {found['too_long_of']:,} do not fit "
            'together with their answers; they are skipped, or cut with too_long = "cut".'
        )
    for one in found["skipped"]:
        say(f"Skipped: {one['count']:,}: {one['reason']} (first at {one['first']})")


def _lengths(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    columns = ["min", *(f"p{p}" for p in PERCENTILES), "max", "sum"]
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    rows = [("prompt tokens", "prompt_tokens"), ("answer tokens", "output_tokens"), ("prompt bytes", "prompt_bytes")]
    if (found["turns"] or {"max": 1})["max"] > 1:
        rows.append(("user turns", "turns"))
    for label, name in rows:
        if spread := found[name]:
            table.add_row(label, *(f"{spread[column]:,}" for column in columns))
    return table


def _arrivals(arrivals: dict[str, Any]) -> str:
    if arrivals["problem"]:
        return f"Arrival times: not usable as a trace: {arrivals['problem']}."
    parts = [f"Arrivals: over {arrivals['duration_s']:,.1f} s"]
    if arrivals["mean_rps"] is not None:
        parts.append(f"{trimmed(arrivals['mean_rps'])} requests/s on average")
    if arrivals["busiest_minute_rps"] is not None:
        parts.append(f"{trimmed(arrivals['busiest_minute_rps'])} in the busiest minute")
    return ", ".join(parts)
