"""What the client learns of and measures on servers of many dialects, beside the truth: `make bench-dialects`.

They are spoken by the golden server (bench.golden), in a process of its own that logs when each event left it and how
many tokens went out. Per dialect: what the probe learnt, or why it was refused; the error of the
measured TTFT (the client's sent → first content chunk, against the server's arrived → first content event); TPOT, whose
truth is the server's own pace; and the output tokens.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter as now
from typing import Annotated, Any
from uuid import UUID

import typer

from bench.client import dialect as dialects
from bench.client import stream
from bench.client.connection import Connection
from bench.client.dialect import Route
from bench.client.probe import Found, ProbeError, learn
from bench.client.target import target_of
from bench.client.verdict import plain
from bench.golden.dialects import DIALECTS
from bench.golden.running import golden

TOKENS = 20


@contextmanager
def speaking(folder: Path, pace: float = 1.0) -> Iterator[tuple[str, Path]]:
    """A server of all dialects: its URL, behind which a dialect's name goes, and its log."""
    log = folder / "dialects.jsonl"
    with golden(log, f"ttft_s={0.06 * pace}", f"gap_s={0.01 * pace}") as server:
        yield server.url, log


def truth(log: Path, dialect: str) -> list[dict[str, Any]]:
    """What the server says it did in a dialect, one entry per completion that it took."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [entry for entry in entries if entry.get("dialect") == dialect and entry["end"] != "refused"]


def ask(found: Found, url: str, endpoint: str, requests: int) -> list[dict[str, Any]]:
    """The records of some requests, one after the other, as a load would send them."""
    connection = Connection(target_of(url))
    records = []
    for number in range(requests):
        what = stream.request(
            connection.target,
            {"prompt": "Hello there", "max_tokens": TOKENS},
            request_id=str(UUID(int=number)),
            model=found.model,
            endpoint=endpoint,
            dialect=found.dialect,
        )
        records.append(stream.complete(connection, what, scheduled_s=now(), timeout_s=30))
    connection.close()
    return records


def measure(url: str, log: Path, mode: str, requests: int = 8) -> dict[str, Any]:
    """One row of the table: what was learnt and measured on one endpoint of one dialect, and the truth."""
    endpoint = "completions" if DIALECTS[mode].endpoints == ("completions",) or mode == "text-only" else "chat"
    row: dict[str, Any] = {"mode": mode, "what": DIALECTS[mode].what, "endpoint": endpoint}
    try:
        found = learn(target_of(f"{url}/{mode}"))
    except ProbeError as error:
        return row | {"refused": plain(str(error))}
    route = found.dialect.route(endpoint)
    if route is None:
        return row | {"refused": dialects.refused(found.dialect, endpoint, SCENARIO[endpoint])}
    probed = len(truth(log, mode))
    records = ask(found, f"{url}/{mode}", endpoint, requests)
    served = truth(log, mode)[probed:]
    ok = [(record, said) for record, said in zip(records, served, strict=True) if record["outcome"] == "ok"]
    errors = [
        (record["first_token"] - record["sent"]) - (said["events"][0][0] - said["received_s"]) for record, said in ok
    ]
    paces = [
        (last - first) / (said["tokens"] - first_tokens)
        for _, said in ok
        for (first, first_tokens), (last, _) in [(said["events"][0], said["events"][-1])]
    ]
    tpots = [(r["last_token"] - r["first_token"]) / r["tokens_after_first"] for r, _ in ok if r["tokens_after_first"]]
    return row | {
        "learnt": learnt(endpoint, route),
        "notes": sorted({note for record, _ in ok for note in record["notes"]}),
        "outcomes": sorted({record["outcome"] for record in records}),
        "ttft_error_s": median(errors) if errors else None,
        "tpot_s": median(tpots) if tpots else None,
        "tpot_truth_s": median(paces) if paces else None,
        "output_tokens": [record["output_tokens"] for record in records],
        "output_tokens_truth": [said["tokens"] for said in served],
        "chunks_counted": all(record["chunk_tokens"] for record, _ in ok),
    }


def learnt(endpoint: str, route: Route) -> str:
    """What was learnt, as far as it differs from a server that takes every field."""
    fields = ("ignore_eos", "min_tokens", "temperature", "stream_options", "continuous_usage_stats")
    without = [name for name in fields if not getattr(route, name)]
    without += ["token-id prompts"] if endpoint == "completions" and not route.token_ids else []
    parts = [endpoint, dialects.WHERE[route.usage], *([route.limit] if route.limit != "max_tokens" else [])]
    return "; ".join([*parts, *([f"without {', '.join(without)}"] if without else [])])


SCENARIO = {"chat": "chat", "completions": "completion"}


def milliseconds(value: float | None) -> str:
    return "absent" if value is None else f"{value * 1000:.2f}"


def tokens(row: dict[str, Any]) -> str:
    """The counts beside the truth, in a word where they are equal or absent."""
    told = [count for count in row["output_tokens"] if count is not None]
    if not told:
        return "absent"
    right = sum(count == true for count, true in zip(row["output_tokens"], row["output_tokens_truth"], strict=True))
    return (
        "exact"
        if right == len(row["output_tokens"])
        else f"{right} of {len(row['output_tokens'])} exact, others " + ("absent" if right == len(told) else "WRONG")
    )


def page(rows: list[dict[str, Any]]) -> str:
    """The table, as Markdown."""
    lines = [
        "| dialect | learnt or refused | TTFT error, ms | TPOT, ms (truth) | output tokens |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if "refused" in row:
            lines.append(f"| {row['what']} | refused: {row['refused']} | | | |")
            continue
        tpot = milliseconds(row["tpot_s"]) + (
            "" if row["tpot_s"] is None else f" ({milliseconds(row['tpot_truth_s'])})"
        )
        lines.append(
            f"| {row['what']} | {row['learnt']} | {milliseconds(row['ttft_error_s'])} | {tpot} | {tokens(row)} |"
        )
    return "\n".join(lines)


def main(
    requests: Annotated[int, typer.Option(min=2, help="Requests per dialect.")] = 8,
    only: Annotated[list[str] | None, typer.Option(help="Dialects to try; all by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Learn and measure every dialect; print what was found beside the truth."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, speaking(Path(folder)) as (url, log):
        for mode in only or DIALECTS:
            rows.append(measure(url, log, mode, requests))
            sys.stderr.write(f"{len(rows)} of {len(only or DIALECTS)}: {DIALECTS[mode].what}\n")
    sys.stdout.write((json.dumps(rows, indent=1) if as_json else page(rows)) + "\n")


if __name__ == "__main__":
    typer.run(main)
