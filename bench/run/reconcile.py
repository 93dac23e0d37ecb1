"""Does the server's own account of a cell agree with the client's? Compared on sums and counts, never on buckets.

`before` and `after` are the `/metrics` pages at the measured phase's start (all warm-up requests have ended) and after
its last request has ended, so a counter's difference covers the measured requests and what others asked of the server
meanwhile. An aborted or failed request's tokens are known to the server alone: with one of those, the counts cannot be
compared exactly. Other traffic is a disagreement, but for requests of one token each (canaries): see `beside`.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.run.stats.distributions import Floats
from bench.run.stats.growth import Grown, Total, delta
from bench.run.stats.latencies import column, latencies, ok_only

# The server's clock starts when its API process has taken the request up, which is at the latest when it sends the
# response head, and stops when a token leaves the engine. Many requests at once wait some milliseconds each for being
# taken up (25 to 40 ms for 16 on two cores): the client sees that time, the server's histogram does not. So the
# difference may be as large as the time to the head; what goes beyond, either way, is a disagreement.
TTFT_TOLERANCE_S = 0.005
TTFT_TOLERANCE_SHARE = 0.03
# Canaries may take so much of the server's tokens: what they ask disturbs the load no more than that.
BESIDE_SHARE = 0.01


def reconcile(requests: pa.Table, before: Total | None, after: Total | None) -> dict[str, Any]:
    """The `reconciliation` of a cell. `before(name)` and `after(name)` give a series' sum on the two pages.

    `exact` is True when the token counts are equal, False when they are not, None when they cannot be compared.
    """
    if before is None or after is None:
        return {"exact": None, "notes": ["The server shows no /metrics page: client and server were not compared."]}

    def grown(name: str, **labels: str) -> float | None:
        return delta(before, after, name, **labels)

    ok = ok_only(requests)
    unfinished = (
        len(requests) - len(ok) - pc.sum(pc.equal(requests["outcome"], "dropped")).as_py() if len(requests) else 0
    )
    notes = []
    if grown("vllm:generation_tokens_total") is None:
        notes.append("The server's /metrics page has no vLLM counters: tokens were not compared.")
    others = None if unfinished else beside(ok, grown)
    if others:
        notes.append(_told(others))
    less = others or dict.fromkeys(("requests", "output_tokens", "prompt_tokens"), 0)
    result: dict[str, Any] = {
        name: _count(client, grown(series), less[name])
        for name, client, series in (
            ("output_tokens", _sum(ok, "output_tokens"), "vllm:generation_tokens_total"),
            ("prompt_tokens", _sum(ok, "prompt_tokens"), "vllm:prompt_tokens_total"),
            ("requests", len(ok), "vllm:e2e_request_latency_seconds_count"),
        )
    }
    exact = result["output_tokens"]["equal"]
    if result["output_tokens"]["client"] is None:
        notes.append("The server did not count the tokens of every answer, so the counts cannot be compared.")
    if unfinished:
        notes.append(
            f"{unfinished} requests did not end well; what the server generated for them is unknown to the client, "
            "so the counts cannot be compared exactly."
        )
        exact = None
    values, to_head = latencies(ok), column(ok, "headers_s") - column(ok, "sent_s")
    for name, series in (("ttft", "time_to_first_token"), ("e2e", "e2e_request_latency")):
        total, count = grown(f"vllm:{series}_seconds_sum"), grown(f"vllm:{series}_seconds_count")
        if unfinished and count is not None and round(count) - less["requests"] != len(ok):
            total = None  # the server's mean is over other requests than the client's
        result[f"{name}_mean_s"] = _means(
            values[f"{name}_s"], _without(total, count, less["requests"], values["ttft_s"]), to_head
        )
    queries, hits = grown("vllm:prefix_cache_queries_total"), grown("vllm:prefix_cache_hits_total")
    return {
        "exact": exact,
        **result,
        "beside": others,
        "unfinished_requests": unfinished,
        "preemptions": _whole(grown("vllm:num_preemptions_total")),
        "server_queue_mean_s": _mean(
            grown("vllm:request_queue_time_seconds_sum"), grown("vllm:request_queue_time_seconds_count")
        ),
        "prefix_cache_hit_share": None if hits is None else _mean(hits, queries),
        "notes": notes,
    }


def beside(ok: pa.Table, grown: Grown) -> dict[str, int] | None:
    """What others asked of the server during the load, when all of it was requests of one token: canaries, probes.

    By the server's own account (its histogram of output tokens per request), so it holds for any vLLM, whoever asked.
    None when there were no such requests, when anything else is unaccounted for, or when they took more than
    BESIDE_SHARE of the server's tokens: that is other traffic, and the counts are left to disagree.
    """
    answered = grown("vllm:e2e_request_latency_seconds_count")
    output, prompt = grown("vllm:generation_tokens_total"), grown("vllm:prompt_tokens_total")
    short = grown("vllm:request_generation_tokens_bucket", le="1.0")
    if answered is None or output is None or prompt is None or short is None:
        return None
    own_short = pc.sum(pc.equal(ok["output_tokens"], 1)).as_py() or 0
    requests = round(answered) - len(ok)
    more_output = round(output) - (pc.sum(ok["output_tokens"]).as_py() or 0)
    more_prompt = round(prompt) - (pc.sum(ok["prompt_tokens"]).as_py() or 0)
    of_one_token = round(short) - own_short == more_output == requests > 0
    few = requests <= more_prompt and more_output + more_prompt <= BESIDE_SHARE * (output + prompt)
    if not (of_one_token and few):
        return None
    return {"requests": requests, "output_tokens": more_output, "prompt_tokens": more_prompt}


def _told(others: dict[str, int]) -> str:
    many = others["requests"] > 1
    return (
        f"The server also answered {others['requests']} {'requests' if many else 'request'} of one token"
        f"{' each' if many else ''} ({others['prompt_tokens']} prompt tokens), as canaries ask them; "
        f"{'they are' if many else 'it is'} left out."
    )


def reconcile_states(requests: pa.Table, before: Total | None, after: Total | None) -> dict[str, Any]:
    """The `reconciliation` of a cell of hidden-state requests, by the plugin's own counters; shaped as `reconcile`'s.

    `exact` compares prompt tokens: there are no output tokens, though the engine generates one per prompt. The
    server's clock runs from a request's arrival in its handler to its answer.
    """
    if before is None or after is None:
        return {"exact": None, "notes": ["The server shows no /metrics page: client and server were not compared."]}

    def grown(name: str) -> float | None:
        return delta(before, after, f"nbridge_hidden_states_{name}")

    ok = ok_only(requests)
    dropped = pc.sum(pc.equal(requests["outcome"], "dropped")).as_py() if len(requests) else 0
    unfinished = len(requests) - len(ok) - dropped
    tokens = _count(_sum(ok, "prompt_tokens"), grown("prompt_tokens_total"))
    answered = _count(len(ok), grown("request_latency_seconds_count"))
    exact, notes = tokens["equal"], []
    if exact is None:
        notes.append("The server's /metrics page has no nbridge_hidden_states_ counters: tokens were not compared.")
    elif unfinished:
        notes.append(f"{unfinished} requests did not end well, so the counts cannot be compared exactly.")
        exact = None
    else:
        exact = bool(exact and answered["equal"])
    mean = _mean(grown("request_latency_seconds_sum"), grown("request_latency_seconds_count"))
    server = None if mean is None else (mean, mean)
    return {
        "exact": exact,
        "prompt_tokens": tokens,
        "requests": answered,
        "e2e_mean_s": _means(latencies(ok)["e2e_s"], server, column(ok, "headers_s") - column(ok, "sent_s")),
        "unfinished_requests": unfinished,
        "preemptions": _whole(delta(before, after, "vllm:num_preemptions_total")),
        "notes": notes,
    }


def _sum(ok: pa.Table, name: str) -> int | None:
    """The total over all these answers; None when one of them has no count."""
    return None if ok[name].null_count else int(pc.sum(ok[name]).as_py() or 0)


def _count(client: int | None, server: float | None, less: int = 0) -> dict[str, Any]:
    """A count by the client and by the server; `less` of the server's are not the load's."""
    said = _whole(server)
    said = None if said is None else said - less
    return {"client": client, "server": said, "equal": None if said is None or client is None else client == said}


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _mean(total: float | None, count: float | None) -> float | None:
    return None if total is None or not count else total / count


def _without(total: float | None, count: float | None, others: int, longest: Floats) -> tuple[float, float] | None:
    """The lowest and the highest mean that the server's sum leaves for the load's own requests.

    How long each of `others` took is not known: from nothing to the longest time that the load's own waited for one
    token. Without others both are the server's mean.
    """
    if total is None or count is None or count <= others:
        return None
    own, known = count - others, longest[~np.isnan(longest)]
    least = total - others * float(known.max()) if others and known.size else total
    return max(0.0, least) / own, total / own


def _means(client_values: Floats, server: tuple[float, float] | None, to_head: Floats) -> dict[str, Any]:
    client = _nanmean(client_values)
    head = _nanmean(to_head)
    if client is None or server is None:
        said = None if server is None else sum(server) / 2
        absent = dict.fromkeys(("difference", "to_head", "unexplained", "tolerance", "agree"))
        return {"client": client, "server": said, **absent}
    low, high = server
    middle = (low + high) / 2
    tolerance = max(TTFT_TOLERANCE_S, TTFT_TOLERANCE_SHARE * middle)
    unexplained = max(0.0, low - client, client - high - (head or 0.0))
    return {
        "client": client,
        "server": middle,
        "difference": client - middle,
        "to_head": head,
        "unexplained": unexplained,
        "tolerance": tolerance,
        "agree": unexplained <= tolerance,
    }


def _nanmean(values: Floats) -> float | None:
    seconds = values[~np.isnan(values)]
    return float(seconds.mean()) if seconds.size else None
