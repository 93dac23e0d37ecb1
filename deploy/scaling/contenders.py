"""The autoscalers that are set beside each other: as rendered, by the queue alone, and as the guide has it. Pure."""

from deploy.scaling.autoscaler import Autoscaler, Direction, Metric, Policy
from deploy.scaling.thresholds import Scaling

GUIDE_RPS = 100.0
GUIDE_CPU = 0.7
# The guide's §7.4.
_GUIDE_UP = Direction(0, (Policy("Percent", 100, 30), Policy("Pods", 2, 30)))
_GUIDE_DOWN = Direction(300, (Policy("Percent", 50, 60),))


def rendered(found: Scaling, *, least: int, most: int, drain_s: float) -> Autoscaler:
    """As `nbridge render kubernetes` writes it for KEDA; the KV cache is left out: no run says how full it gets."""
    return Autoscaler(
        (
            Metric("waiting", "total", found.waiting),
            Metric("in_work", "total", found.in_work),
            Metric("total_rps", "total", found.rate_rps),
        ),
        least,
        most,
        up=Direction(0, (Policy("Pods", 2, 60),)),
        down=Direction(found.down_window_s, (Policy("Pods", 1, drain_s + 60),)),
    )


def contenders(found: Scaling, *, least: int, most: int, drain_s: float) -> dict[str, Autoscaler]:
    """Name → autoscaler, the rendered one first."""
    own = rendered(found, least=least, most=most, drain_s=drain_s)
    queue = Metric("waiting", "total", 5)
    rate, cpu = Metric("rate_rps", "per_pod", GUIDE_RPS), Metric("cpu", "per_pod", GUIDE_CPU)
    return {
        "rendered": own,
        "queue alone, threshold 5": Autoscaler((queue,), least, most),
        "guide: 100 requests/s": Autoscaler((rate,), least, most, _GUIDE_UP, _GUIDE_DOWN),
        "guide: 70 % CPU": Autoscaler((cpu,), least, most, _GUIDE_UP, _GUIDE_DOWN),
        "guide: both": Autoscaler((cpu, rate), least, most, _GUIDE_UP, _GUIDE_DOWN),
    }
