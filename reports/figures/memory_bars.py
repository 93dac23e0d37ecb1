"""What an engine's memory goes to: weights, KV cache, and the rest of the sampled peak. Pure."""

from dataclasses import dataclass

from inputs.quantities import byte_size
from reports.measured.cells import Report
from reports.tables import startup_value


@dataclass(frozen=True)
class Stack:
    """The memory of one engine in bytes; parts that are not known are None, never 0."""

    engine: str
    weights_bytes: float | None
    kv_cache_bytes: float | None
    peak_bytes: float | None
    kind: str

    @property
    def rest_bytes(self) -> float | None:
        """Peak − weights − KV cache; None when one is unknown or the peak lies below their sum."""
        if self.weights_bytes is None or self.kv_cache_bytes is None or self.peak_bytes is None:
            return None
        rest = self.peak_bytes - self.weights_bytes - self.kv_cache_bytes
        return rest if rest >= 0 else None

    @property
    def parts(self) -> tuple[float | None, float | None, float | None]:
        return self.weights_bytes, self.kv_cache_bytes, self.rest_bytes

    @property
    def extent_bytes(self) -> float:
        """How far the bar and its marks reach."""
        return max(sum(part for part in self.parts if part is not None), self.peak_bytes or 0.0)

    @property
    def reserved_only(self) -> bool:
        """The sampled peak is below what the engine states to have reserved."""
        known = (self.weights_bytes, self.kv_cache_bytes, self.peak_bytes)
        return None not in known and self.rest_bytes is None

    @property
    def unknown(self) -> list[str]:
        names = (("weights", self.weights_bytes), ("KV cache", self.kv_cache_bytes), ("peak", self.peak_bytes))
        return [name for name, value in names if value is None]

    def words(self) -> str:
        """The parts as text, for readers who do not see the figure."""
        names = ("weights", "KV cache", "rest of the peak")
        said = [f"{n} {byte_size(part)}" for n, part in zip(names, self.parts, strict=True) if part is not None]
        if self.peak_bytes is not None:
            said.append(f"sampled peak {byte_size(self.peak_bytes)}")
        return ", ".join(said)


def stacks(report: Report) -> list[Stack]:
    """The memory of every engine of which something is known, in plan order; all on the GPU or all resident memory."""
    gpu = any(cell.value("memory.gpu_used_peak_bytes") is not None for cell in report.cells)
    name = "memory.gpu_used_peak_bytes" if gpu else "memory.server_peak_bytes"
    kind = "GPU memory in use" if gpu else "Server memory"
    found = []
    for engine in report.engines:
        cells = report.of_engine(engine)
        peaks = [value for cell in cells if (value := cell.value(name)) is not None]
        stack = Stack(
            engine,
            startup_value(cells, "weights_bytes"),
            startup_value(cells, "kv_cache_bytes"),
            max(peaks, default=None),
            kind,
        )
        if stack.extent_bytes > 0:
            found.append(stack)
    return found


def byte_ticks(highest_bytes: float) -> list[float]:
    """At most eight ticks from 0, a power of two apart."""
    step = 2.0**10
    while highest_bytes / step > 7:
        step *= 2
    return [index * step for index in range(int(highest_bytes / step) + 1)]
