"""One GPU over time: its readings and its MIG devices' as lines of a Prometheus page, and what adds up meanwhile."""

import contextlib
from collections.abc import Iterable
from typing import Any

import pynvml as nvml

from monitoring.gpu.nvml import CHANGING, CONSTANT, LOST, Value, label, memory, processes, read

# Idle is a clock reason, but nothing is throttled by it.
THROTTLE_REASONS = {
    "applications_clocks_setting": nvml.nvmlClocksEventReasonApplicationsClocksSetting,
    "sw_power_cap": nvml.nvmlClocksEventReasonSwPowerCap,
    "hw_slowdown": nvml.nvmlClocksEventReasonHwSlowdown,
    "sync_boost": nvml.nvmlClocksEventReasonSyncBoost,
    "sw_thermal_slowdown": nvml.nvmlClocksEventReasonSwThermalSlowdown,
    "hw_thermal_slowdown": nvml.nvmlClocksEventReasonHwThermalSlowdown,
    "hw_power_brake_slowdown": nvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    "display_clock_setting": nvml.nvmlClocksEventReasonDisplayClockSetting,
}


def _clock_reasons(device: Any) -> int:
    try:
        return int(nvml.nvmlDeviceGetCurrentClocksEventReasons(device))
    except nvml.NVMLError_FunctionNotFound:  # a driver older than 535
        return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device))


class Device:
    """One GPU, known by its UUID for as long as we run: what NVML says, and what we add up between collections.

    `handle` is None while NVML does not list it. `xids`: critical errors by code since we watch, None when they cannot
    be watched. Throttled time is counted by looking: the time between two looks goes to the reasons seen by the second.
    """

    def __init__(self, *, index: int, uuid: str, name: str, longest_gap_s: float) -> None:
        self.uuid = uuid
        self.xids: dict[int, int] | None = None
        self._longest_gap_s = longest_gap_s
        self._throttled_s: dict[str, float] = {}
        self._looked_s: float | None = None
        self.bind(None, index=index, name=name, driver="")

    def bind(self, handle: Any, *, index: int, name: str, driver: str) -> None:
        """Take the handle of a newly initialised NVML; what was added up stays."""
        self.handle, self.index, self.name = handle, index, name
        self.place = f"{label('gpu', index)},{label('uuid', self.uuid)}"
        self._info = label("driver_version", driver)
        self._constant: list[Value] | None = None

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name}, {self.uuid})"

    @property
    def labels(self) -> str:
        return f'{self.place},{label("name", self.name)},mig=""'

    def collect(self, now_s: float) -> dict[str, list[str]]:
        """Lines of Prometheus text by metric, for the GPU and its MIG devices. Raises NVMLError when the GPU is lost.

        `now_s`: this instant, on the clock of all calls.
        """
        if self.handle is None:
            raise nvml.NVMLError(nvml.NVML_ERROR_GPU_IS_LOST)
        lines: dict[str, list[str]] = {}
        mig = self._mig_devices()
        # With MIG the whole GPU lists its devices' processes again.
        values = read(self.handle, CHANGING if mig is not None else (*CHANGING, processes))
        if self._constant is None:
            self._constant = read(self.handle, CONSTANT)
        values += self._constant
        values += self._throttled(now_s)
        values += (("up", "", 1), ("info", self._info, 1))
        _write(lines, values, place=self.place, name=self.name, mig="")
        for index, device in mig or ():
            self._collect_mig(lines, index, device)
        return lines

    def _collect_mig(self, lines: dict[str, list[str]], index: int, device: Any) -> None:
        """One MIG device's lines; none when it cannot be read, which takes nothing from the others."""
        try:
            uuid, name = nvml.nvmlDeviceGetUUID(device), nvml.nvmlDeviceGetName(device)
            values = [*read(device, (memory, processes)), ("up", "", 1)]
        except nvml.NVMLError as error:
            if error.value in LOST:
                raise
            return
        place = f"{label('gpu', self.index)},{label('uuid', uuid)}"
        _write(lines, values, place=place, name=name, mig=str(index))

    def _mig_devices(self) -> list[tuple[int, Any]] | None:
        """(index, handle) of each MIG device; None when the GPU is not divided."""
        try:
            if nvml.nvmlDeviceGetMigMode(self.handle)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
                return None
            found = []
            for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(self.handle)):
                with contextlib.suppress(nvml.NVMLError_NotFound):
                    found.append((index, nvml.nvmlDeviceGetMigDeviceHandleByIndex(self.handle, index)))
        except nvml.NVMLError as error:
            if error.value in LOST:
                raise
            return None
        return found

    def _throttled(self, now_s: float) -> list[Value]:
        gap_s = 0.0 if self._looked_s is None else now_s - self._looked_s
        try:
            reasons = _clock_reasons(self.handle)
        except nvml.NVMLError as error:
            if error.value in LOST:
                raise
            self._looked_s = None
            return []
        self._looked_s = now_s
        for name, bit in THROTTLE_REASONS.items():
            # What happened in a long gap (the GPU was away) nobody saw: it is not counted.
            seen_s = gap_s if reasons & bit and gap_s <= self._longest_gap_s else 0.0
            self._throttled_s[name] = self._throttled_s.get(name, 0.0) + seen_s
        return [("throttle_seconds_total", f'reason="{name}"', total) for name, total in self._throttled_s.items()]


def _write(lines: dict[str, list[str]], values: Iterable[Value], *, place: str, name: str, mig: str) -> None:
    """Append `values` as lines. A process's series carry its own name in place of the GPU's."""
    process = f'{place},mig="{mig}"'
    labels = f'{place},{label("name", name)},mig="{mig}"'
    for metric, further, value in values:
        carried = process if metric == "process_memory_bytes" else labels
        text = f"{carried},{further}" if further else carried
        lines.setdefault(metric, []).append(f"nbridge_gpu_{metric}{{{text}}} {value!r}\n")
