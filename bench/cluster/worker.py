"""On a node: one unit measured in a run folder of its own, by the code that measures on one machine."""

import contextlib
import copy
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from bench.cluster.outbox import Message, Outbox
from bench.cluster.parcels import Files, files_below, pieces
from bench.errors import BenchError
from bench.execution import run_engine
from bench.plans.plan import validate
from bench.quality import passes
from bench.remaining import Remaining
from bench.run import store
from bench.sweep import Sweep
from monitoring.machine import describe

Json = dict[str, Any]


class Worker:
    """An actor that measures one unit after the other. `begin` starts one; `messages` is then asked for what it has to
    say, until it has said `ended`. Numbers of messages go on from one unit to the next."""

    def __init__(self) -> None:
        self._made_s: float | None = time.monotonic()
        self._outbox = Outbox()
        _as_the_node_had_it()

    def begin(self, document: Json, engine: str, repeat: int | None, files: dict[str, list[Any]]) -> None:
        """`document`: what of the run this unit needs (units.part). `files`: the pieces of each file that the plan
        names, as references."""
        since_s, self._made_s = self._made_s or time.monotonic(), None
        arguments = (since_s, document, engine, repeat, files)
        threading.Thread(target=self._work, args=arguments, daemon=True).start()

    def messages(self, seen: int) -> list[Message]:
        """Some of the messages after the one numbered `seen`; waits a second for the first."""
        return self._outbox.take(seen)

    def _work(
        self, since_s: float, document: Json, engine: str, repeat: int | None, files: dict[str, list[Any]]
    ) -> None:
        began_s, home_s, reason = time.monotonic(), 0.0, None
        try:
            environment = describe()
            age_s = time.monotonic() - since_s
            self._outbox.put("placed", environment=environment, node_id=_node_id(), age_s=age_s)
            with tempfile.TemporaryDirectory(prefix="nbridge-") as folder:
                here = Files(Path(folder) / "files")
                for name, parts in files.items():
                    here.write(name, _fetched(parts))
                report = _Report(Path(folder) / "run", document, here, self._outbox)
                began_s = time.monotonic()
                try:
                    _measure(report, engine, repeat)
                finally:
                    report.send(logs=True)
                    home_s = report.home_s
        except BenchError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - the driver has to hear of it: nobody else sees this thread
            reason = f"unexpected {type(error).__name__}: {error}"
        work_s = time.monotonic() - began_s - home_s
        self._outbox.put("ended", reason=reason, work_s=work_s, home_s=home_s)


def _measure(report: "_Report", engine: str, repeat: int | None) -> None:
    sweep = report.sweep
    one = next(found for found in sweep.plan.engines if found.name == engine)
    if repeat is None:
        passes.judge_elsewhere(sweep.run_dir, sweep.document, sweep.plan, one, report.say)
    else:
        run_engine(sweep, one, repeat)


class _Report:
    """The watcher of a unit's sweep: what it sees goes into the outbox, and so do the files of each cell that ended."""

    def __init__(self, run_dir: Path, document: Json, files: Files, outbox: Outbox) -> None:
        self._files, self._outbox = files, outbox
        self._sent = copy.deepcopy(document)
        self.home_s = 0.0
        run_dir.mkdir()
        plan = validate(self._with_files(document["plan"], files.here), source="the driver's plan")
        for cell in document["cells"]:
            cell["load"]["prompts_file"] = files.here(cell["load"].get("prompts_file"))
        self.sweep = Sweep(run_dir, document, plan, self)

    def _with_files(self, plan: Json, place: Callable[[str | None], str | None]) -> Json:
        loads = [{**load, "prompts_file": place(load.get("prompts_file"))} for load in plan["loads"]]
        quality = plan.get("quality")
        return {**plan, "loads": loads, "quality": quality and {**quality, "texts": place(quality.get("texts"))}}

    def say(self, text: str) -> None:
        self._outbox.put("said", text=text)

    def cell_started(self, cell: Json, number: int, total: int) -> None:  # noqa: ARG002 (a node knows only its part)
        self._outbox.put("began", cell=cell["id"])

    def requests_ended(self, done: int, total: int | None) -> None: ...

    def time_left(self, left: Remaining | None) -> None: ...  # of its part alone, which nobody asked for

    def cell_ended(self, cell: Json) -> None:  # noqa: ARG002 (whatever has changed is sent)
        self.send()

    def send(self, *, logs: bool = False) -> None:
        """Send what has changed, and return when the driver has it."""
        began_s = time.monotonic()
        run_dir, document = self.sweep.run_dir, self.sweep.document
        known = {cell["id"]: cell for cell in self._sent["cells"]}
        cells = [self._named(cell) for cell in document["cells"] if cell["outcome"] != "pending"]
        cells = [cell for cell in cells if cell != known.get(cell["id"])]
        for cell in cells:
            self._send_files(store.cell_dir(run_dir, cell["id"]))
        if judged := document["quality"] != self._sent["quality"]:
            self._send_files(run_dir / "quality")
        if logs:
            self._send_files(run_dir / "logs")
        state = {"cells": cells, "capacity": document.get("capacity"), "quality": document["quality"]}
        self._outbox.put("state", **copy.deepcopy({**state, "quality": document["quality"] if judged else None}))
        self._sent = copy.deepcopy({**document, "cells": [*map(self._named, document["cells"])]})
        self._outbox.wait_until_taken()
        self.home_s += time.monotonic() - began_s

    def _named(self, cell: Json) -> Json:
        """A cell whose load names its file as the driver knows it."""
        return {**cell, "load": {**cell["load"], "prompts_file": self._files.there(cell["load"].get("prompts_file"))}}

    def _send_files(self, folder: Path) -> None:
        for path in files_below(folder):
            name = path.relative_to(self.sweep.run_dir).as_posix()
            for number, piece in enumerate(pieces(path)):
                self._outbox.put("piece", name=name, first=number == 0, data=piece)


def _fetched(parts: list[Any]) -> Iterator[bytes]:
    import ray

    for part in parts:
        yield ray.get(part)


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _as_the_node_had_it() -> None:
    """Take back the number of threads that Ray gives its workers: an engine shall have those that it would have had
    without Ray. What the node itself was started with, its raylet has in its environment."""
    with contextlib.suppress(psutil.Error):
        if "OMP_NUM_THREADS" not in psutil.Process(os.getppid()).environ():
            os.environ.pop("OMP_NUM_THREADS", None)
