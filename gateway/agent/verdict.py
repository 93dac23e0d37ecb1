"""Who is in and who is out: from what was seen of a server to where it stands. Pure.

Busy is not dead: a late canary counts only while nothing else of the server moves, neither its engine's steps nor bytes
of answers. One missed canary moves nothing. The last server of a model stays in whatever it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.settings import Health

FEW = 5  # fewer attempts than this say nothing about a share
WINDOW_S = 2.0  # over which attempts are counted
SILENT_CANARIES = 2.0  # deadlines without any progress
HANGS = "hangs"
FIRST_PERCENT = 10  # of the weight, with which a slow start begins
_TELLING = ("401", "403", "404")  # a canary so refused is refused as a user's request would be


@dataclass(frozen=True)
class Probe:
    """One canary: sent and ended by our clock; `failed` as in monitoring.scrape.canary.Beat, None when a token came."""

    started_s: float
    ended_s: float
    failed: str | None = None
    reason: str | None = None
    latency_s: float | None = None

    @property
    def counts(self) -> bool:
        """Whether it failed in a way that speaks against the server."""
        if self.failed == "refused":
            return (self.reason or "").removeprefix("HTTP ")[:3] in _TELLING
        return self.failed in ("down", "late", "error", "bad", "other")


@dataclass(frozen=True)
class Signs:
    """What was seen of a server lately: its last two canaries, its attempts in the window.

    `silent_s`: for how long it was asked and nothing of it moved; `others_silent`: nor of the model's other servers,
    which says more of the machine or the network than of this one; `unconnected`: why HAProxy's own check fails.
    """

    probes: tuple[Probe, ...] = ()
    silent_s: float = 0.0
    others_silent: bool = False
    unconnected: str | None = None
    attempts: int = 0
    failures: int = 0


@dataclass(frozen=True)
class Standing:
    """Where a server stands. `ejections` counts those that have not been forgiven; `kept`: why it would be out."""

    out: bool = False
    reason: str | None = None
    since_s: float | None = None
    until_s: float = 0.0
    ejections: int = 0
    returned_s: float | None = None
    kept: str | None = None

    @property
    def hangs(self) -> bool:
        """Whether it is out because nothing of it moves."""
        return self.out and (self.reason or "").startswith(HANGS)


def fault(signs: Signs, rules: Health) -> str | None:
    """Why a server should take no requests; None while it should."""
    if signs.attempts >= FEW and signs.failures / signs.attempts > rules.failing_share:
        return f"{signs.failures} of {signs.attempts} requests failed in {WINDOW_S:g} s"
    if signs.unconnected is not None:
        return f"HAProxy's check fails: {signs.unconnected}"
    if signs.probes and signs.probes[-1].failed == "late":
        if signs.silent_s < silence_s(rules) * (1 + signs.others_silent):
            return None
        return f"{HANGS}: no canary answered and no progress for {signs.silent_s:.1f} s"
    if len(signs.probes) < 2 or not all(probe.counts for probe in signs.probes[-2:]):
        return None
    return f"two canaries failed: {signs.probes[-1].reason or signs.probes[-1].failed}"


def silence_s(rules: Health) -> float:
    """Without any progress for so long a server hangs."""
    return SILENT_CANARIES * rules.canary_deadline_s


def is_busy(signs: Signs) -> bool:
    """Whether canaries wait although the server works."""
    return bool(signs.probes) and signs.probes[-1].failed == "late" and fault(signs, Health()) is None


def is_well(signs: Signs, since_s: float) -> bool:
    """Whether a server that is out got two canaries in a row answered since then."""
    last = signs.probes[-2:]
    return (
        signs.unconnected is None
        and len(last) == 2
        and all(not probe.counts and probe.started_s >= since_s for probe in last)
    )


def step(now: Standing, signs: Signs, at_s: float, rules: Health, *, is_last: bool, is_alone: bool = False) -> Standing:
    """Where a server stands after another look.

    `is_last`: no other server of its model takes requests and is well; `is_alone`: none takes any.
    """
    if now.out:
        if is_alone or (at_s >= now.until_s and is_well(signs, now.since_s or 0.0)):
            return replace(now, out=False, reason=None, since_s=at_s, returned_s=at_s)
        return now
    if now.ejections and now.since_s is not None and at_s - now.since_s >= rules.backoff_max_s:
        now = replace(now, ejections=0)
    found = fault(signs, rules)
    if found is None or is_last:
        return replace(now, kept=found)
    wait_s = min(rules.backoff_s * 2**now.ejections, rules.backoff_max_s)
    return Standing(True, found, at_s, at_s + wait_s, now.ejections + 1)


def percent(now: Standing, at_s: float, rules: Health, share: float = 1.0) -> int:
    """The share of its weight that a server has: less after a return, growing to all of it; at least 1."""
    grown = 1.0
    if now.returned_s is not None and rules.slow_start_s:
        grown = min(1.0, FIRST_PERCENT / 100 + (1 - FIRST_PERCENT / 100) * (at_s - now.returned_s) / rules.slow_start_s)
    return max(1, round(100 * grown * share))


def answer(now: Standing, at_s: float, rules: Health, *, drained: bool = False, share: float = 1.0) -> str:
    """The words for HAProxy's agent check."""
    if drained:
        return "drain up"
    if now.out:
        words = "".join(one if one.isascii() and one.isprintable() and one != "#" else "?" for one in now.reason or "")
        return f"ready down #{words[:120]}"
    return f"ready up {percent(now, at_s, rules, share)}%"


def budget_is_spent(halves: Sequence[tuple[int, int]], share: float) -> bool:
    """Whether no request may be repeated for now.

    `halves`: (retries, attempts) of the last seconds and of those before them, each longer than an ejection takes. Of
    the first attempts more than a share was repeated in both: this is no server that is just being ejected.
    """
    return len(halves) == 2 and all(retries > share * max(0, attempts - retries) for retries, attempts in halves)
