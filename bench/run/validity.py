"""Is a cell's measurement worth believing? Each check has a value, a limit and a reason; one that fails invalidates.

A check that could not be made is `ok: null`: it is said, and does not count against the cell.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.run.stats.latencies import column, left_s
from bench.run.stats.reads import reads

LATENESS_P99_S = 0.020
LATENESS_SHARE_OF_GAP = 0.05
# What is less late than this is on time at any rate: it moves an arrival, and whether the arrivals are still the
# configured process is checked on the gaps themselves.
LATENESS_LEAST_S = 0.005
UNKNOWN_SHARE = 0.01
CLOCK_STEP_S = 0.0001
CLOCK_SLEW = 0.001  # NTP itself slews by half of that at most, and no crystal is as far off
ERROR_SHARE = 0.01
CONCURRENCY_SHARE = 0.95
RATE_SHARE = 0.02
LONGEST_PAUSE_S = 0.5
PAUSED_SHARE = 0.02
STOLEN_SHARE = 0.005  # no limit: from here on the host of a virtual machine is named as a cause
REQUESTS_FAILED = "requests failed"
ARRIVALS_NOT_SENT = "arrivals not sent"


def dispatch_lateness(requests: pa.Table) -> float | None:
    """99th percentile of sent − scheduled over all requests that were sent, in seconds: the client's own delay.

    Opening a connection is the network's and the server's time, so it does not count.
    """
    late = left_s(requests) - column(requests, "scheduled_s")
    late = late[~np.isnan(late)]
    return float(np.quantile(late, 0.99)) if late.size else None


def validity(
    requests: pa.Table,
    load: dict[str, Any],
    metrics: dict[str, Any],
    agreement: dict[str, Any],
    *,
    errors_count: bool = True,
) -> dict[str, Any]:
    """The `validity` of a cell: `valid`, the `reasons` it is not, and every check.

    Without `errors_count`, failed requests are not held against the measurement: they are what an SLO limits.
    """
    checks = [
        *_client_checks(requests, load, metrics),
        *_arrival_checks(requests, metrics),
        *_pulse_checks(metrics.get("client") or {}),
        *_machine_checks(load, (metrics.get("client") or {}).get("machines")),
        _delivery_check(load, metrics),
        *_process_checks(metrics.get("delivery")),
        *_server_checks(agreement),
    ]
    checks = [check for check in checks if errors_count or check["name"] != REQUESTS_FAILED]
    reasons = [check["detail"] for check in checks if check["ok"] is False]
    return {"valid": not reasons, "reasons": reasons, "checks": checks}


def _lateness_limit_s(load: dict[str, Any]) -> float:
    if load["kind"] != "open":
        return LATENESS_P99_S
    return min(LATENESS_P99_S, max(LATENESS_LEAST_S, LATENESS_SHARE_OF_GAP / float(load["rate_rps"])))


def _check(
    name: str, value: float | None, limit: float, unit: str, detail: str, *, at_least: bool = False
) -> dict[str, Any]:
    """One check; `detail` is the sentence that a reader gets when it fails, and is kept only then."""
    ok = None if value is None else bool(value >= limit if at_least else value <= limit)
    return {
        "name": name,
        "ok": ok,
        "value": value,
        "limit": limit,
        "unit": unit,
        "at_least": at_least,
        "detail": detail if ok is False else None,
    }


def _client_checks(requests: pa.Table, load: dict[str, Any], metrics: dict[str, Any]) -> list[dict[str, Any]]:
    counts = metrics["requests"]
    failed = counts["failed"] + counts.get("aborted", 0)
    errors = failed / counts["total"] if counts["total"] else 1.0
    lateness = dispatch_lateness(requests)
    limit = _lateness_limit_s(load)
    return [
        _check(REQUESTS_FAILED, errors, ERROR_SHARE, "share", f"{failed} of {counts['total']} requests failed."),
        _check(
            "dispatch lateness p99",
            lateness,
            limit,
            "s",
            "The client was saturated: requests left it "
            f"{(lateness or 0) * 1000:.1f} ms late (p99; limit {limit * 1000:.1f} ms).",
        ),
    ]


def _arrival_checks(requests: pa.Table, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Is it known when the chunks came? By the kernel's clock even from a client that was late, up to a point.

    A client that is late by less than the time between chunks still reads each by itself, and by less than
    LATENESS_P99_S its users are as punctual as dispatch has to be.
    """
    found = reads(requests) or {"late_share": None, "unknown_share": _coalesced_share(requests)}
    checks = []
    if found["late_share"] is not None:
        late_s = np.asarray(pc.list_flatten(requests["read_late_s"]), dtype=np.float64)
        p99 = float(np.quantile(late_s, 0.99))
        limit = max(LATENESS_P99_S, (metrics.get("chunk_gap_s") or {}).get("p50", 0.0))
        checks += [
            _check(
                "chunks read late",
                found["late_share"],
                UNKNOWN_SHARE,
                "share",
                f"{found['late_share']:.1%} of the reads held several chunks that had come one after the other while "
                "the client was late (limit 1 %), so when each arrived is not known.",
            ),
            _check(
                "read lateness p99",
                p99,
                limit,
                "s",
                f"The client was saturated: it read what had come {p99 * 1000:.1f} ms late (p99; limit "
                f"{limit * 1000:.1f} ms), and its users went on as late.",
            ),
        ]
    if found["unknown_share"] is not None:
        checks.append(
            _check(
                "coalesced reads",
                found["unknown_share"],
                UNKNOWN_SHARE,
                "share",
                f"{found['unknown_share']:.1%} of the reads without a time stamp of the kernel's held several chunks "
                "(limit 1 %), so when each arrived is not known. The client read late, or the server or a proxy before "
                "it held them back: nothing here tells which.",
            )
        )
    return checks


def _coalesced_share(requests: pa.Table) -> float | None:
    """Share of reads with several chunks, for runs from before the clock was recorded."""
    total = np.nansum(column(requests, "reads"))
    return float(np.nansum(column(requests, "coalesced_reads")) / total) if total else None


def _pulse_checks(client: dict[str, Any]) -> list[dict[str, Any]]:
    """Did the client stand still, or its clock jump? Then times are wrong, which no record shows."""
    longest, share = client.get("longest_pause_s"), client.get("paused_share")
    step, slew = client.get("clock_step_s"), client.get("clock_slew")
    stolen = client.get("stolen_share") or 0.0
    host = f" This machine's host kept {stolen:.1%} of the processors' time from it." if stolen >= STOLEN_SHARE else ""
    return [
        _check(
            "client's longest pause",
            longest,
            LONGEST_PAUSE_S,
            "s",
            f"The client stood still for {(longest or 0):.1f} s (stopped, starved or swapped out), so the times of "
            f"what arrived or fell due meanwhile are wrong.{host}",
        ),
        _check(
            "client paused",
            share,
            PAUSED_SHARE,
            "share",
            f"The client stood still for {(share or 0):.1%} of the time: it was starved by what else the machine does."
            f"{host}",
        ),
        _check(
            "clock step",
            step,
            CLOCK_STEP_S,
            "s",
            f"The client's clock was set by {(step or 0):.4g} s during the load, so times on it cannot be compared.",
        ),
        _check(
            "clock slew",
            slew,
            CLOCK_SLEW,
            "share",
            f"The client's clock ran {(slew or 0):.2%} too fast or too slow while it was being adjusted (limit "
            f"{CLOCK_SLEW:.1%}): every duration is wrong by as much.",
        ),
    ]


def _machine_checks(load: dict[str, Any], machines: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Are the clocks of several machines near enough to each other for one time line of all their requests?"""
    if not machines:
        return []
    limit = _lateness_limit_s(load)
    known = [one for one in machines if one.get("clock_drift_s") is not None]
    apart = {one["host"]: one["clock_within_s"] + one["clock_drift_s"] for one in known}
    host = max(apart, key=lambda name: apart[name], default="")
    return [
        _check(
            "clocks of machines apart",
            apart[host] if len(known) == len(machines) else None,
            limit,
            "s",
            f"The clock of {host} is known to {apart.get(host, 0) * 1000:.1f} ms only, drift included (limit "
            f"{limit * 1000:.1f} ms), so when its requests fell due among the others' is not known.",
        )
    ]


def _delivery_check(load: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """Was the load that the cell is named after really there?"""
    if load["kind"] == "closed":
        wanted = int(load["concurrency"])
        # no time at which all users were busy counts as none held; who thinks between two turns is busy, too
        held = metrics.get("mean_conversations", metrics["mean_in_flight"]) or 0.0
        what = "conversations were under way" if "mean_conversations" in metrics else "requests were in flight"
        share = held / wanted
        return _check(
            "concurrency held",
            share,
            CONCURRENCY_SHARE,
            "share",
            f"Only {held:.2f} {what} on average instead of {wanted}.",
            at_least=True,
        )
    counts = metrics["requests"]
    offered = (metrics.get("delivery") or {}).get("offered") or counts["total"]  # of conversations, their first turns
    missed = counts["dropped"] / offered if offered else 1.0
    return _check(
        ARRIVALS_NOT_SENT,
        missed,
        RATE_SHARE,
        "share",
        f"{counts['dropped']} of {offered} arrivals were not sent: more than max_in_flight = "
        f"{load.get('max_in_flight')} requests were under way. The server cannot carry {load['rate_rps']} requests/s.",
    )


def _process_checks(found: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Did the requests of an open load leave as the configured arrival process has them? The right rate is not all."""
    if found is None:
        return []
    checks = []
    for name, words in (("cv", "CV"), ("lag1", "lag-1")):
        value, wanted, limit = found[name], found[f"{name}_expected"], found[f"{name}_limit"]
        if limit is None:
            continue  # this process has no such figure
        off = None if value is None or wanted is None else abs(value - wanted)
        checks.append(
            _check(
                f"{words} of the gaps, off by",
                off,
                limit,
                "1",
                f"The arrivals that were delivered are not the {found['process']} process that was configured: the "
                f"{words} of the gaps between requests is {value or 0:.2f}, and {wanted or 0:.2f} ± {limit:.2f} is "
                "expected.",
            )
        )
    return checks


def _server_checks(agreement: dict[str, Any]) -> list[dict[str, Any]]:
    """Tokens and mean latencies by client and server: of the output, or of hidden states, which have none."""
    has_output = "output_tokens" in agreement or "prompt_tokens" not in agreement
    what, latencies = ("output", ("ttft", "e2e")) if has_output else ("prompt", ("e2e",))
    tokens = agreement.get(f"{what}_tokens") or {}
    apart = None
    if agreement.get("exact") is not None:
        apart = abs(tokens["client"] - tokens["server"])
    counts = _check(
        f"{what} tokens, client − server",
        apart,
        0,
        "tokens",
        f"Client and server disagree on {what} tokens: {tokens.get('client')} against {tokens.get('server')}. "
        "Did the server have other traffic?",
    )
    return [counts, *(_mean_check(name, agreement.get(f"{name}_mean_s") or {}) for name in latencies)]


def _mean_check(name: str, means: dict[str, Any]) -> dict[str, Any]:
    unexplained, tolerance = means.get("unexplained"), means.get("tolerance") or 0.0
    return _check(
        f"mean {name.upper()}, client − server, unexplained",
        unexplained,
        tolerance,
        "s",
        f"Client and server disagree on the mean {name.upper()} by {(unexplained or 0) * 1000:.1f} ms more than "
        f"the time to the response head explains (limit {tolerance * 1000:.1f} ms).",
    )
