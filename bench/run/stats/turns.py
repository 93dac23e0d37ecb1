"""What became of each turn of a conversation."""

from typing import Any

import numpy as np
import pyarrow as pa

from bench.run.conversations import are_turns
from bench.run.stats.distributions import distribution
from bench.run.stats.latencies import column, latencies, ok_only

MOST_TURNS = 50  # of a conversation, that are told one by one


def by_turn(requests: pa.Table) -> list[dict[str, Any]] | None:
    """For each turn of a conversation (1 is the first) what became of it; None where requests are no turns.

    `requests` and `ok` count; latencies are distributions; prompt and cached tokens are means over the answers whose
    tokens the server counted, `cached_share` is the part of those prompts that it had in its prefix cache.
    """
    if not are_turns(requests):
        return None
    ok, found = ok_only(requests), []
    turn, of_ok = column(requests, "turn"), column(ok, "turn")
    values = latencies(ok)
    prompt, cached = column(ok, "prompt_tokens"), column(ok, "cached_tokens")
    for number in range(1, min(int(np.nanmax(turn)), MOST_TURNS) + 1):
        here = of_ok == number
        ttft, e2e = values["ttft_s"][here], values["e2e_s"][here]
        said = here & ~np.isnan(prompt)
        both = said & ~np.isnan(cached)
        found.append(
            {
                "turn": number,
                "requests": int((turn == number).sum()),
                "ok": int(here.sum()),
                "ttft_s": distribution(ttft[~np.isnan(ttft)]),
                "e2e_s": distribution(e2e[~np.isnan(e2e)]),
                "prompt_tokens_mean": float(prompt[said].mean()) if said.any() else None,
                "cached_tokens_mean": float(cached[both].mean()) if both.any() else None,
                "cached_share": float(cached[both].sum() / prompt[both].sum()) if prompt[both].sum() > 0 else None,
            }
        )
    return found
