"""The energy that the GPUs drew over exactly the measured window, by their own counters or by their sampled power."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.run.stats.distributions import Floats

# A sample is taken every second: by so much may the window reach beyond the samples (the power of the last interval
# then holds for what is left), and so long may a gap in sampled power be.
EDGE_S = 1.5
GAP_S = 5.0
COUNTER, POWER = "energy_joules_total", "power_watts"
SERVERS = "server_memory_bytes"  # of a GPU: what the measured server's processes hold there


def energy(samples: pa.Table | None, bounds: tuple[float, float] | None, output_tokens: float | None) -> Any:
    """Joules that the GPUs drew between `bounds` (the cell's window), all of it: idle power, memory, fans of the card.

    `method`: "counter" (NVML's energy counter, straight between samples), "power" (the integral of sampled power) or
    "both". `gpus`: whose; `of_server`: they are those that the server's processes held memory of, else all that the
    machine has. `joules_per_output_token`: over the output tokens that came in the window. None when no GPU was
    sampled; what cannot be told is None in it, and `unknown` says why.
    """
    found = _series(samples)
    if not found:
        return None
    names = dict.fromkeys(("joules", "mean_power_w", "joules_per_output_token", "method"))
    held = sorted({gpu for gpu, series in found.items() if SERVERS in series})
    gpus = held or sorted(found)
    told: dict[str, Any] = {**names, "gpus": gpus, "of_server": bool(held), "unknown": None}
    if bounds is None:
        return told | {"unknown": "the cell has no measurement window"}
    drawn: list[tuple[float, str]] = []
    for gpu in gpus:
        joules, said = _drawn(found[gpu], *bounds)
        if joules is None:
            return told | {"unknown": f"GPU {gpu}: {said}"}
        drawn.append((joules, said))
    total, methods = sum(joules for joules, _ in drawn), {method for _, method in drawn}
    return told | {
        "joules": total,
        "mean_power_w": total / (bounds[1] - bounds[0]),
        "joules_per_output_token": total / output_tokens if output_tokens else None,
        "method": methods.pop() if len(methods) == 1 else "both",
    }


def _series(samples: pa.Table | None) -> dict[str, dict[str, tuple[Floats, Floats]]]:
    """GPU → series → (instants in seconds from the cell's zero, values), in the order of time."""
    found: dict[str, dict[str, tuple[Floats, Floats]]] = {}
    if samples is None:
        return found
    of_gpus = samples.filter(pc.equal(samples["source"], "gpu")).sort_by("t_s")
    for name in (COUNTER, POWER, SERVERS):
        chosen = of_gpus.filter(pc.equal(of_gpus["name"], name))
        for labels in pc.unique(chosen["labels"]).to_pylist():
            rows = chosen.filter(pc.equal(chosen["labels"], labels))
            gpu = str(json.loads(labels).get("gpu", "0"))
            found.setdefault(gpu, {})[name] = (rows["t_s"].to_numpy(), rows["value"].to_numpy())
    return found


def _drawn(series: dict[str, tuple[Floats, Floats]], start_s: float, end_s: float) -> tuple[float | None, str]:
    """(joules, method) of one GPU; (None, why) where neither its counter nor its power tells."""
    if COUNTER in series:
        at_s, joules = series[COUNTER]
        if (np.diff(joules) < 0).any():
            return None, "its energy counter was set back during the load"
        method = "counter"
    elif POWER in series:
        at_s, watts = series[POWER]
        steps_s = np.diff(at_s)
        inside = (at_s[1:] > start_s) & (at_s[:-1] < end_s)
        if (steps_s[inside] > GAP_S).any():
            return None, f"its power was not sampled for more than {GAP_S:g} s"
        joules = np.concatenate([[0.0], np.cumsum(steps_s * (watts[1:] + watts[:-1]) / 2)])
        method = "power"
    else:
        return None, "it tells neither its energy nor its power"
    if at_s.size < 2:
        return None, "it was sampled only once"
    if at_s[0] - start_s > EDGE_S or end_s - at_s[-1] > EDGE_S:
        return None, "the samples do not span the window"
    return _at(at_s, joules, end_s) - _at(at_s, joules, start_s), method


def _at(at_s: Floats, joules: Floats, instant_s: float) -> float:
    """The energy at an instant, straight between two samples and on beyond the outermost."""
    place = int(np.clip(np.searchsorted(at_s, instant_s), 1, at_s.size - 1))
    share = (instant_s - at_s[place - 1]) / (at_s[place] - at_s[place - 1])
    return float(joules[place - 1] + share * (joules[place] - joules[place - 1]))
