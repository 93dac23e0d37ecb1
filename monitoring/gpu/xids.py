"""Critical errors (XIDs) that the driver reports, counted as they happen by a thread that waits for NVML's events.

A gauge of the last XID would stick at it for ever and miss what comes in between; a counter does neither.
"""

import ctypes
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pynvml as nvml

from monitoring.gpu.device import Device

# Counted from 0 as soon as they are watched: `increase()` sees no step in a series that begins at 1. The others of
# NVIDIA's list appear when they happen.
FROM_THE_START = (13, 31, 43, 45, 48, 62, 63, 64, 74, 79, 92, 94, 95, 119, 120, 140)
WAIT_MS = 250


class XidWatch:
    """Counts XIDs into each device's `xids` from construction until `close`; `tell` gets a line for a code's first."""

    def __init__(self, devices: Iterable[Device], tell: Callable[[str], None]) -> None:
        """Register the devices that have such events. Raises NVMLError when NVML has no events at all."""
        self._tell, self._stop = tell, threading.Event()
        self._events = nvml.nvmlEventSetCreate()
        self._devices: dict[int | None, Device] = {}
        for device in devices:
            if _registered(device.handle, self._events):
                self._devices[_address(device.handle)] = device
                device.xids = device.xids if device.xids is not None else dict.fromkeys(FROM_THE_START, 0)
        self._thread = threading.Thread(target=self._run, name="gpu-xids", daemon=True)
        self._thread.start()

    def close(self) -> bool:
        """End the thread and free NVML's event set; False while the thread hangs in NVML."""
        self._stop.set()
        self._thread.join(timeout=2)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while self._devices and not self._stop.is_set():
            try:
                event = nvml.nvmlEventSetWait(self._events, WAIT_MS)
            except nvml.NVMLError_Timeout:
                continue
            except nvml.NVMLError:  # a GPU is lost: NVML does not say which, and may answer so at once from now on
                self._stop.wait(1)
                continue
            device = self._devices.get(_address(event.device))
            if event.eventType & nvml.nvmlEventTypeXidCriticalError and device is not None and device.xids is not None:
                xid = int(event.eventData)
                if not device.xids.get(xid):  # one code can come in storms
                    self._tell(f"{device} reports XID {xid}; more of these are only counted")
                device.xids[xid] = device.xids.get(xid, 0) + 1
        nvml.nvmlEventSetFree(self._events)


def _registered(handle: Any, events: Any) -> bool:
    wanted = nvml.nvmlEventTypeXidCriticalError
    try:
        if not nvml.nvmlDeviceGetSupportedEventTypes(handle) & wanted:
            return False
        nvml.nvmlDeviceRegisterEvents(handle, wanted, events)
    except nvml.NVMLError:
        return False
    return True


def _address(handle: Any) -> int | None:
    """What identifies a handle: NVML gives the same address for the same GPU until it is shut down."""
    return ctypes.cast(handle, ctypes.c_void_p).value
