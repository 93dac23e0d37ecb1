"""Our client as a user has it: `nbridge bench --target`, with Locust in its own process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.run.store import open_run
from bench.studies.clients.points import TOKENS
from bench.studies.clients.seen import Request, Seen

_PLAN = """
name = "clients"
[defaults.engine]
model = "golden"
[[loads]]
name = "load"
scenario = "completion"
prompt_tokens = 16
output_tokens = {tokens}
warmup_requests = 0
requests = {requests}
{kind}
"""


def command(url: str, folder: Path, requests: int, kind: str, tokens: int = TOKENS) -> list[str]:
    """The command that measures a load; `kind` is the plan's line about users or rate."""
    plan = folder / "plan.toml"
    plan.write_text(_PLAN.format(tokens=tokens, requests=requests, kind=kind), encoding="utf-8")
    bench = [sys.executable, "-m", "nbridge", "bench", str(plan), "--target", url, "--out", str(folder / "runs")]
    return [*bench, "--json", "--no-report"]


def read(stdout: str) -> tuple[Seen, dict[str, Any]]:
    """What it saw; its cell's outcome, and what it says of itself."""
    run = open_run(Path(json.loads(stdout)["path"]))
    (cell,) = run.cells
    rows = run.requests(cell["id"]).to_pylist()
    requests = tuple(
        Request(
            row["request_id"],
            ok=True,
            ttft_s=row["first_token_s"] - row["sent_s"],
            decode_s=row["last_token_s"] - row["first_token_s"],
            tokens_after_first=row["tokens_after_first"],
            reads=row["reads"],
            coalesced=row["coalesced_reads"],
        )
        if row["outcome"] == "ok" and row["first_token_s"] is not None
        else Request(row["request_id"], ok=False)
        for row in rows
    )
    metrics = cell["metrics"] or {}
    client, itl = metrics.get("client") or {}, metrics.get("itl_s") or {}
    own = {"outcome": cell["outcome"], "reason": cell["reason"], "says": client}
    return Seen(requests, itl.get("mean")), own
