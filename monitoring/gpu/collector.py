"""GPU readings, kept current by threads of their own, so that whoever asks for them never waits for a driver.

One thread keeps the rounds; each GPU is read by another, because an NVML call can hang for minutes or for good: then it
holds up only its own GPU. What is older than a round and its deadline is withheld: the GPU counts as down.
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

import pynvml as nvml

from monitoring.gpu.device import Device
from monitoring.gpu.nvml import error_word, label
from monitoring.gpu.xids import XidWatch

LONGEST_RETRY_S = 60.0
# Most GPUs have answered after this. Asked all at once they would fight for Python's lock and take four times the
# processor time; the slow ones still overlap.
HEAD_START_S = 0.01
RESTART_HINT = {
    nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        " The driver was updated under a loaded library: reload its kernel module or reboot, then restart the exporter."
    ),
    nvml.NVML_ERROR_DRIVER_NOT_LOADED: " The NVIDIA library is here but its kernel module is not: modprobe nvidia.",
    nvml.NVML_ERROR_FUNCTION_NOT_FOUND: " The NVIDIA driver is too old for this exporter.",
}


@dataclass(frozen=True)
class Round:
    """The last collection that brought an answer: when it ended (Unix time) and how long it took."""

    ended_unix_s: float
    took_s: float


class Reader:
    """Reads one GPU in a thread of its own, each time it is asked."""

    def __init__(self, device: Device, answered: threading.Condition, deadline_s: float) -> None:
        self.device = device
        self.busy = False
        self.failure: nvml.NVMLError | None = None
        # When the last read ended, on the monotonic clock, and its lines by metric, None when it failed.
        self.answer: tuple[float, dict[str, list[str]] | None] = (0.0, None)
        self.told = ""
        self._answered, self._deadline_s = answered, deadline_s
        self._asked: SimpleQueue[None] = SimpleQueue()
        threading.Thread(target=self._run, name=f"gpu-{device.index}", daemon=True).start()

    def ask(self) -> None:
        self.busy = True
        self._asked.put(None)

    def current(self, oldest_s: float) -> dict[str, list[str]] | None:
        """The lines read at or after `oldest_s`, on the monotonic clock; None when the GPU failed or hangs."""
        ended_s, lines = self.answer
        return lines if ended_s >= oldest_s else None

    def _run(self) -> None:
        while True:
            self._asked.get()
            began_s = time.monotonic()
            lines, failure = None, None
            try:
                lines = self.device.collect(began_s)
            except nvml.NVMLError as error:
                failure = error
            ended_s = time.monotonic()
            if ended_s - began_s > self._deadline_s:  # its first values are as old as the call was long
                lines, failure = None, nvml.NVMLError(nvml.NVML_ERROR_TIMEOUT)
            with self._answered:
                self.answer, self.failure, self.busy = (ended_s, lines), failure, False
                self._answered.notify()


class Collector:
    """Reads all GPUs every `interval_s` seconds from `start` to `stop`.

    `deadline_s`: a GPU that takes longer is down until it answers again. `retry_s`: time to the next attempt to
    initialise NVML when there is no driver or a GPU is down; doubled up to a minute. `expected`: the GPUs that this
    machine should have; without it, the most that were ever seen. `tell` gets one line when something changes.
    """

    def __init__(
        self,
        *,
        interval_s: float,
        deadline_s: float,
        retry_s: float,
        expected: int | None,
        tell: Callable[[str], None],
    ) -> None:
        self.interval_s, self.deadline_s, self.retry_s = interval_s, deadline_s, retry_s
        self.expected = expected
        self.readers: list[Reader] = []
        self.nameless: list[str] = []  # labels of GPUs that are listed, but were never readable
        self.last: Round | None = None
        self.errors: Counter[str] = Counter()
        self.collected = threading.Event()  # a first round has ended
        self._tell, self._told = tell, ""
        self._fixed_expectation = expected is not None
        self._answered = threading.Condition()
        self._stop = threading.Event()
        self._watch: XidWatch | None = None
        self._open = self._broken = False
        self._next_try_s, self._wait_s = 0.0, retry_s
        self._thread = threading.Thread(target=self._run, name="gpu-rounds", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the rounds. NVML, and a thread that hangs in it, are left to the end of the process."""
        self._stop.set()
        self._thread.join(timeout=1)

    def oldest_current_s(self) -> float:
        """What was read before this instant of the monotonic clock is not current."""
        return time.monotonic() - self.interval_s - self.deadline_s

    def _run(self) -> None:
        while not self._stop.is_set():
            began_s = time.monotonic()
            self.collect()
            self._stop.wait(max(0.0, began_s + self.interval_s - time.monotonic()))

    def collect(self) -> None:
        """One round: initialise NVML where that is due, then read every GPU that is not still busy."""
        began_s = time.monotonic()
        if self._due(began_s):
            self._initialise(began_s)
        asked = [reader for reader in self.readers if not reader.busy] if self._open else []
        for reader in asked:
            reader.ask()
            self._wait([reader], HEAD_START_S)
        self._wait(asked, self.deadline_s)
        for reader in asked:
            self._judge(reader)
        ended_s = time.monotonic()
        nothing_here = not self.readers and not (self._broken and self.expected != 0)
        if nothing_here or any(reader.failure is None and not reader.busy for reader in asked):
            self.last = Round(time.time(), ended_s - began_s)
        self.collected.set()

    def _wait(self, readers: list[Reader], timeout_s: float) -> None:
        with self._answered:
            self._answered.wait_for(lambda: not any(reader.busy for reader in readers), timeout=timeout_s)

    def _judge(self, reader: Reader) -> None:
        """Count a failure, and say it once."""
        device = reader.device
        if reader.busy:
            self.errors["timeout"] += 1
            state = f"has not answered for {self.deadline_s:g} s; its readings are withheld until it does"
        elif reader.failure is not None:
            self.errors[error_word(reader.failure)] += 1
            state = f"is down ({reader.failure}); its readings are withheld"
        else:
            state = ""
        if state != reader.told:
            self._tell(f"{device} {state or 'answers again'}")
            reader.told = state

    def _due(self, now_s: float) -> bool:
        """Is it time to initialise NVML, for the first time or anew? Not while a call hangs in it."""
        if any(reader.busy for reader in self.readers):
            return False
        missing = (self.expected or 0) > len(self.readers) or bool(self.nameless)
        well = self._open and not missing and all(reader.failure is None for reader in self.readers)
        if well:
            self._wait_s = self.retry_s
            self._next_try_s = 0.0
        return not well and now_s >= self._next_try_s

    def _initialise(self, now_s: float) -> None:
        self._next_try_s = now_s + self._wait_s
        self._wait_s = min(2 * self._wait_s, max(LONGEST_RETRY_S, self.retry_s))
        if not self._close():
            return
        try:
            nvml.nvmlInit()
            self._open = True
            self._enumerate()
        except nvml.NVMLError as error:
            self._close()
            self.errors[error_word(error)] += 1
            hint = RESTART_HINT.get(error.value, "")
            state = f"NVML does not answer ({error}): no GPU readings until it does.{hint}"
            # Without the library this machine has no NVIDIA driver, and no GPU is expected. With it, a driver that does
            # not work hides GPUs that may be there: that is no answer, and how many there should be is not known.
            self._broken = error.value != nvml.NVML_ERROR_LIBRARY_NOT_FOUND
            if self.expected is None and not self._broken:
                self.expected = 0
        else:
            self._broken = False
            known = len(self.readers)
            state = f"{known} GPU{'' if known == 1 else 's'} by NVML, driver {nvml.nvmlSystemGetDriverVersion()}"
        if state != self._told:
            self._tell(state)
            self._told = state

    def _enumerate(self) -> None:
        """Bind every listed GPU to its handle. One that was known and is not listed stays, without a handle."""
        count, driver = nvml.nvmlDeviceGetCount(), nvml.nvmlSystemGetDriverVersion()
        known = {reader.device.uuid: reader for reader in self.readers}
        for reader in self.readers:
            reader.device.bind(None, index=reader.device.index, name=reader.device.name, driver=driver)
        unreadable = []
        for index in range(count):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
            except nvml.NVMLError as error:
                self.errors[error_word(error)] += 1
                unreadable.append(index)
                continue
            if uuid not in known:
                device = Device(index=index, uuid=uuid, name=name, longest_gap_s=2 * self.interval_s + self.deadline_s)
                known[uuid] = Reader(device, self._answered, self.deadline_s)
            known[uuid].device.bind(handle, index=index, name=name, driver=driver)
        self.readers = list(known.values())
        away = {reader.device.index for reader in self.readers if reader.device.handle is None}
        self.nameless = [f'{label("gpu", index)},uuid="",name="",mig=""' for index in unreadable if index not in away]
        if not self._fixed_expectation:
            self.expected = max(self.expected or 0, count, len(self.readers))
        with contextlib.suppress(nvml.NVMLError):  # no events on this driver: no XID series
            self._watch = XidWatch((r.device for r in self.readers if r.device.handle is not None), self._tell)

    def _close(self) -> bool:
        """Shut NVML down; False while a thread hangs in it, for then nothing may be taken from under it."""
        if self._watch is not None and not self._watch.close():
            return False
        self._watch = None
        if self._open and not any(reader.busy for reader in self.readers):
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()
            self._open = False
        return not self._open
