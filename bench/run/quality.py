"""How well an engine predicts held-out tokens, alone and against a baseline on the same tokens. Pure.

One row per token that was scored. All figures are means over tokens, in nats, each with its standard error:

- ΔNLL: the engine's negative log-likelihood of the token that stands there, less the baseline's (paired by token).
- KL: the divergence of the engine's next-token distribution from the baseline's, KL(baseline ‖ engine), from the tokens
  whose probability both said; all other tokens are one class, so it is a lower bound (`divergence` says why).
- Agreement: the share of tokens at which both put the same token first.

Tokens of one text hang together, so the standard error is taken over blocks (texts, or pieces of fewer texts).
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

LEAST_BLOCKS = 10  # below so many texts, pieces are the blocks
SCHEMA = pa.schema(
    [
        ("text", pa.int32()),
        ("piece", pa.int32()),
        ("place", pa.int32()),
        ("token", pa.int32()),
        ("logprob", pa.float32()),
        ("top_tokens", pa.list_(pa.string())),
        ("top_logprobs", pa.list_(pa.float32())),
    ]
)
BASELINE_RUN = "baseline"  # whose rows those of another run's baseline are kept as
_UNTOLD = 1e-6  # probability below which the rest of a distribution is only the rounding of its parts
Json = dict[str, Any]
Distribution = Mapping[str, float]  # token → log-probability, of the tokens that a server told


def results(document: Json, rows_of: Callable[[str], pa.Table | None]) -> list[Json]:
    """The `quality.engines` of a run.json with their figures computed anew from their rows.

    `rows_of` yields an engine's rows by its name, None where there are none. Each entry that was scored gets `figures`
    (`alone`), and beside the baseline `against`, or `unpaired`, why the two cannot be held together; `applied` is False
    where another number format than the baseline's was asked for and made no difference.
    """
    judged = document.get("quality") or {}
    entries: list[Json] = judged.get("engines") or []
    external: Json | None = judged.get("baseline_run")
    name = judged.get("baseline")
    base = external or next((one for one in entries if one["engine"] == name), None)
    base_rows = rows_of(BASELINE_RUN if external else str(name)) if base and base["outcome"] == "ok" else None
    found = []
    for entry in entries:
        rows = rows_of(entry["engine"]) if entry["outcome"] == "ok" else None
        more: Json = dict.fromkeys(("figures", "against", "unpaired", "applied"))
        if rows is not None:
            more["figures"] = alone(rows)
        if rows is not None and entry is not base:
            more["unpaired"] = _unpaired(entry, base, base_rows)
            if base is not None and base_rows is not None and not more["unpaired"]:
                more["against"] = against(rows, base_rows)
                more["applied"] = _applied(entry, base, more["against"])
        found.append(entry | more)
    return found


def _unpaired(entry: Json, base: Json | None, base_rows: pa.Table | None) -> str | None:
    """Why an engine and the baseline cannot be held together token by token."""
    if base is None or base_rows is None:
        return "the baseline has no quality"
    if entry["tokens_sha256"] != base["tokens_sha256"]:
        return "its tokens are not the baseline's: another tokenizer, or other texts"
    if entry["form"] != base["form"]:
        return f"it was asked by {entry['form']}, the baseline by {base['form']}, which name tokens in two ways"
    return None


def _applied(entry: Json, base: Json, found: Json) -> bool | None:
    """Whether another number format made a difference larger than asking twice does; None if none was asked for."""
    if all(entry[name] == base[name] for name in ("scheme", "kv_cache_dtype")):
        return None
    least = max(entry["repeat_kl"], base["repeat_kl"])
    return not found["identical"] and bool(found["kl"] > least)


def tokens_sha256(rows: pa.Table) -> str:
    """The SHA-256 of which tokens were scored, and where: two engines are paired only when theirs are equal."""
    places = [rows[name].to_numpy().astype("<i4") for name in ("text", "piece", "place", "token")]
    return hashlib.sha256(np.stack(places).tobytes()).hexdigest()


def alone(rows: pa.Table) -> Json:
    """The figures of one engine: tokens, blocks, `nll` ± `nll_se` in nats a token, perplexity."""
    blocks = _blocks(rows)
    nll, error = clustered(-rows["logprob"].to_numpy().astype(np.float64), blocks)
    return {
        "tokens": rows.num_rows,
        "blocks": len(np.unique(blocks)),
        "nll": nll,
        "nll_se": error,
        "perplexity": math.exp(nll),
    }


def against(rows: pa.Table, baseline: pa.Table) -> Json:
    """The figures of one engine beside a baseline's, both of the same tokens in the same order.

    `delta_nll_95`: the interval that covers the true ΔNLL with 95 % (Student's t over the blocks). `kl_told_share`: how
    much of the baseline's probability lies on tokens that both told. `identical`: nothing that was recorded differs,
    not even in the last digit.
    """
    blocks = _blocks(baseline)
    ours, theirs = distributions(rows), distributions(baseline)
    pairs = list(zip(theirs, ours, strict=True))
    found: Json = {"identical": rows.select(["logprob"]).equals(baseline.select(["logprob"])) and ours == theirs}
    logprobs = [table["logprob"].to_numpy().astype(np.float64) for table in (rows, baseline)]
    figures = {
        "delta_nll": logprobs[1] - logprobs[0],
        "kl": np.array([divergence(p, q) for p, q in pairs]),
        "agreement": np.array([first(p) == first(q) for p, q in pairs], dtype=np.float64),
    }
    for name, values in figures.items():
        found[name], found[f"{name}_se"] = clustered(values, blocks)
    found["delta_nll_95"] = _interval(found["delta_nll"], found["delta_nll_se"], len(np.unique(blocks)))
    found["kl_told_share"] = float(np.mean([sum(math.exp(p[t]) for t in p.keys() & q.keys()) for p, q in pairs]))
    return found


def distributions(rows: pa.Table) -> list[Distribution]:
    """What was told of the next token's distribution, row by row."""
    tokens, logprobs = rows["top_tokens"].to_pylist(), rows["top_logprobs"].to_pylist()
    return [dict(zip(*pair, strict=True)) for pair in zip(tokens, logprobs, strict=True)]


def divergence(p: Distribution, q: Distribution) -> float:
    """A lower bound in nats of KL(p ‖ q) from the tokens that both name.

    What the two say of all other tokens together is taken as one class. Merging classes never raises a divergence
    (the log-sum inequality), so the value is a lower bound, and exact when both name all tokens that they can give.
    Where q leaves nothing but rounding to the rest, x·ln(x/y) ≥ x − y bounds its part.
    """
    both = sorted(p.keys() & q.keys())
    told = [(math.exp(p[token]), math.exp(q[token])) for token in both]
    total = math.fsum(mass * (p[token] - q[token]) for token, (mass, _) in zip(both, told, strict=True))
    rest_p, rest_q = (max(0.0, 1.0 - math.fsum(side)) for side in (zip(*told, strict=True) if told else ((), ())))
    if rest_q <= _UNTOLD:
        return total + (rest_p - rest_q)
    return total + (rest_p * math.log(rest_p / rest_q) if rest_p else 0.0)


def first(distribution: Distribution) -> str | None:
    """The token with the highest log-probability; of several the one with the lowest id, as an argmax takes it."""
    if not distribution:
        return None
    highest = max(distribution.values())
    return min((token for token, value in distribution.items() if value == highest), key=lambda t: (len(t), t))


def clustered(values: npt.NDArray[np.float64], blocks: npt.NDArray[np.int32]) -> tuple[float, float | None]:
    """The mean of `values` and its standard error when values of one block hang together; None with one block.

    The error of a ratio estimator over blocks (cluster-robust, with the correction for few blocks): blocks, not values,
    are what was drawn.
    """
    mean = float(values.mean())
    _, index = np.unique(blocks, return_inverse=True)
    sums = np.bincount(index, weights=values - mean)
    if len(sums) < 2:
        return mean, None
    return mean, float(math.sqrt(len(sums) / (len(sums) - 1) * float(sums @ sums)) / len(values))


def _interval(mean: float, error: float | None, blocks: int) -> list[float] | None:
    from scipy.stats import t  # a report without quality shall not wait for it

    if error is None:
        return None
    half = float(t.ppf(0.975, blocks - 1)) * error
    return [mean - half, mean + half]


def _blocks(rows: pa.Table) -> npt.NDArray[np.int32]:
    """The block of each row: its text, or its piece where there are fewer than ten texts."""
    texts: npt.NDArray[np.int32] = rows["text"].to_numpy()
    pieces: npt.NDArray[np.int32] = rows["piece"].to_numpy()
    return texts if len(np.unique(texts)) >= LEAST_BLOCKS else pieces
