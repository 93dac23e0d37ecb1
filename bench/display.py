"""How a sweep is shown while it goes on: a progress bar on a terminal, plain lines elsewhere."""

from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench.remaining import Remaining
from bench.run.stats.window import cut_by_time
from inputs.quantities import number, seconds


class Display:
    """Shows a sweep: a progress bar on a terminal, plain lines elsewhere. Everything goes to stderr."""

    def __init__(self, target: Console) -> None:
        self._console = target
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=target,
            transient=True,
            disable=not target.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, visible=False, left="")
        self._label = ""
        self._left: Remaining | None = None
        self._told_s = 0.0

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def cell_started(self, cell: dict[str, Any], number: int, total: int) -> None:
        self._label = f"cell {number}/{total} {cell['id']}"
        total_requests, left = cell["load"]["requests"], self._time_left()
        self._bar.reset(self._task, description=self._label, total=total_requests, visible=True, left=left)

    def requests_ended(self, done: int, total: int | None) -> None:
        self._bar.update(self._task, completed=done, total=total, left=self._time_left())

    def time_left(self, left: Remaining | None) -> None:
        """What the sweep will still take, as far as it is known now; said again only on a terminal, as it shrinks."""
        self._left, self._told_s = left, monotonic()
        if left is not None and not self._console.is_terminal:
            self.say(left.words())

    def _time_left(self) -> str:
        return "" if self._left is None else self._left.words(monotonic() - self._told_s)

    def cell_ended(self, cell: dict[str, Any]) -> None:
        self._bar.update(self._task, visible=False)
        if not cell.get("point"):  # what a point says has been said by its search
            self.say(f"{cell['id']}: {cell_line(cell)}")


def cell_line(cell: dict[str, Any]) -> str:
    """One cell in one line: its outcome and, where it was measured, throughput and median latencies."""
    metrics = cell["metrics"]
    if not metrics or not metrics["requests"]["ok"]:
        return f"{cell['outcome']}: {cell['reason']}"
    parts = []
    if (rate := metrics["output_throughput_tok_s"]) is not None:
        parts.append(f"{number(rate)} output tok/s")
    elif (rate := metrics["request_throughput_rps"]) is not None:
        parts.append(f"{number(rate)} requests/s")
    for name, label in (("ttft_s", "TTFT"), ("itl_s", "ITL"), ("e2e_s", "E2E")):
        if metrics[name] and "p50" in metrics[name]:
            parts.append(f"{label} p50 {seconds(metrics[name]['p50'])}")
    load, sent = cell["load"], metrics["requests"]["total"]
    if cut_by_time(load, sent):
        parts.append(f"{sent} of {load['requests']} requests in its {load['seconds']:g} s")
    reason = f" ({cell['reason']})" if cell["reason"] else ""
    return f"{cell['outcome']}{reason}: " + ", ".join(parts)
