"""What a report says of loads of hidden states, whose answers come in one piece. Pure."""

from inputs.quantities import number, seconds
from reports.measured.cells import Report
from reports.measured.repeats import metric_spread
from reports.names import listing

SCENARIO = "hidden_states"


def hidden_states(report: Report) -> str:
    """How many requests for states each engine answered, under the load where it answered the most; or nothing."""
    loads = [load for load in report.loads if load.scenario == SCENARIO]
    parts = []
    for engine in report.engines:
        found = [
            (load, spread)
            for load in loads
            if (spread := metric_spread(report.repeats(engine, load), "request_throughput_rps")) is not None
        ]
        if not found:
            continue
        load, best = max(found, key=lambda pair: pair[1].median)
        latency = metric_spread(report.repeats(engine, load), "e2e_s.p50")
        took = f" with a median E2E of {seconds(latency.median)}" if latency else ""
        parts.append(f"{engine} up to {number(best.median)} requests/s at {load.label}{took}")
    if not parts:
        return ""
    return (
        f"Requests for hidden states were answered by {listing(parts)}; such an answer comes in one piece, so it has "
        "an E2E latency, but no TTFT, ITL or output tokens."
    )
