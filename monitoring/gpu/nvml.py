"""What an NVIDIA GPU says about itself now, by NVML.

A value that the GPU, the driver or the installation does not have is absent, never 0. A GPU that is lost raises.
nvidia-ml-py is imported as `pynvml` and loads `libnvidia-ml.so.1` only when NVML is initialised.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import pynvml as nvml

# (metric without its prefix, further labels as Prometheus text, value)
Value = tuple[str, str, float]
Read = Callable[[Any], Iterable[Value]]

# With one of these the GPU or the driver itself is gone; with any other a single value is.
LOST = frozenset(
    {
        nvml.NVML_ERROR_UNINITIALIZED,
        nvml.NVML_ERROR_DRIVER_NOT_LOADED,
        nvml.NVML_ERROR_GPU_IS_LOST,
        nvml.NVML_ERROR_RESET_REQUIRED,
        nvml.NVML_ERROR_GPU_NOT_FOUND,
    }
)
ABSENT = frozenset({nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND, nvml.NVML_ERROR_NO_PERMISSION})
MOST_PROCESSES = 64  # per device: bounds the number of series; the largest are kept
_CLOCKS = {
    "graphics": nvml.NVML_CLOCK_GRAPHICS,
    "sm": nvml.NVML_CLOCK_SM,
    "memory": nvml.NVML_CLOCK_MEM,
    "video": nvml.NVML_CLOCK_VIDEO,
}
_ALL_LINKS = 0xFFFFFFFF  # the scope that adds up all NVLinks
_ERROR_WORDS = {
    getattr(nvml, name): name.removeprefix("NVML_ERROR_").lower()
    for name in dir(nvml)
    if name.startswith("NVML_ERROR_")
}


def error_word(error: nvml.NVMLError) -> str:
    """NVML's name of an error in lower case, such as `gpu_is_lost`."""
    return _ERROR_WORDS.get(error.value, f"code_{error.value}")


def label(name: str, value: object) -> str:
    """One label as Prometheus text, its value escaped."""
    text = str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'{name}="{text}"'


def _one(metric: str, call: Callable[..., int], *words: Any, times: int = 1, per: int = 1, labels: str = "") -> Read:
    """The read of a single number, `call(device, *words)`, in base units: `times` and `per` convert NVML's."""
    return lambda device: ((metric, labels, call(device, *words) * times / per),)


def memory(device: Any) -> Iterable[Value]:
    """The memory in use, the driver's own included, and all there is."""
    held = nvml.nvmlDeviceGetMemoryInfo(device)
    return ("memory_used_bytes", "", held.used), ("memory_total_bytes", "", held.total)


def _utilization(device: Any) -> Iterable[Value]:
    rates = nvml.nvmlDeviceGetUtilizationRates(device)
    return ("utilization_ratio", "", rates.gpu / 100), ("memory_utilization_ratio", "", rates.memory / 100)


def _remapped_rows(device: Any) -> Iterable[Value]:
    corrected, uncorrected, pending, failure = nvml.nvmlDeviceGetRemappedRows(device)
    yield "remapped_rows", 'type="corrected"', corrected
    yield "remapped_rows", 'type="uncorrected"', uncorrected
    yield "row_remap_pending", "", pending
    yield "row_remap_failure", "", failure


def _field_values(device: Any) -> Iterator[Value]:
    """What NVML has only as numbered fields: the memory's temperature and, in KiB, what went over all NVLinks."""
    wanted = (
        ("memory_temperature_celsius", "", 1, nvml.NVML_FI_DEV_MEMORY_TEMP),
        ("nvlink_bytes_total", 'direction="tx"', 1024, (nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, _ALL_LINKS)),
        ("nvlink_bytes_total", 'direction="rx"', 1024, (nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, _ALL_LINKS)),
    )
    found = nvml.nvmlDeviceGetFieldValues(device, [field for *_, field in wanted])
    members = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
    for (metric, labels, factor, _), value in zip(wanted, found, strict=True):
        if value.nvmlReturn == nvml.NVML_SUCCESS and value.valueType < len(members):
            yield metric, labels, getattr(value.value, members[value.valueType]) * factor


def processes(device: Any) -> Iterator[Value]:
    """Memory by process; one that computes and draws is listed twice and counted once."""
    held: dict[int, int] = {}
    for listed in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        with contextlib.suppress(nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
            for process in listed(device):
                if process.usedGpuMemory is not None:
                    held[process.pid] = max(held.get(process.pid, 0), process.usedGpuMemory)
    for pid, used_bytes in sorted(held.items(), key=lambda item: -item[1])[:MOST_PROCESSES]:
        yield "process_memory_bytes", f'pid="{pid}",{label("name", process_name(pid))}', used_bytes


def process_name(pid: int) -> str:
    """The program's name without its path and arguments, which may hold secrets; empty when NVML cannot see it."""
    try:
        words = str(nvml.nvmlSystemGetProcessName(pid)).split(maxsplit=1)
    except (nvml.NVMLError, UnicodeDecodeError):
        return ""
    return words[0].rpartition("/")[2][:64] if words else ""


# A few calls that return at once: enough beside a benchmark.
ESSENTIAL: tuple[Read, ...] = (
    memory,
    _utilization,
    _one("power_watts", nvml.nvmlDeviceGetPowerUsage, per=1000),
    _one("temperature_celsius", nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
)
ENERGY = _one("energy_joules_total", nvml.nvmlDeviceGetTotalEnergyConsumption, per=1000)
CHANGING: tuple[Read, ...] = (
    *ESSENTIAL,
    _one("power_limit_watts", nvml.nvmlDeviceGetEnforcedPowerLimit, per=1000),  # nvidia-smi -pl changes it any time
    ENERGY,
    _one("fan_speed_ratio", nvml.nvmlDeviceGetFanSpeed, per=100),
    *(
        _one("clock_hertz", nvml.nvmlDeviceGetClockInfo, clock, times=1_000_000, labels=f'clock="{name}"')
        for name, clock in _CLOCKS.items()
    ),
    *(
        _one(
            "ecc_errors_total", nvml.nvmlDeviceGetTotalEccErrors, kind, nvml.NVML_VOLATILE_ECC, labels=f'type="{name}"'
        )
        for name, kind in (
            ("corrected", nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            ("uncorrected", nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
        )
    ),
    _remapped_rows,
    # Each of these two counts bytes for 20 ms.
    *(
        _one(
            "pcie_throughput_bytes_per_second",
            nvml.nvmlDeviceGetPcieThroughput,
            counter,
            times=1000,
            labels=f'direction="{name}"',
        )
        for name, counter in (("tx", nvml.NVML_PCIE_UTIL_TX_BYTES), ("rx", nvml.NVML_PCIE_UTIL_RX_BYTES))
    ),
    _field_values,
)
# Read once for as long as NVML stays initialised.
CONSTANT: tuple[Read, ...] = (
    *(
        _one("temperature_limit_celsius", nvml.nvmlDeviceGetTemperatureThreshold, limit, labels=f'limit="{name}"')
        for name, limit in (
            ("slowdown", nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
            ("shutdown", nvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN),
        )
    ),
    *(
        _one("clock_max_hertz", nvml.nvmlDeviceGetMaxClockInfo, clock, times=1_000_000, labels=f'clock="{name}"')
        for name, clock in _CLOCKS.items()
    ),
)


def read(device: Any, reads: Iterable[Read]) -> list[Value]:
    """The values that `device` has now. Raises NVMLError when it is lost, or when every read fails."""
    found: list[Value] = []
    answered, failure = False, None
    for one in reads:
        try:
            found.extend(one(device))
            answered = True
        except nvml.NVMLError as error:
            if error.value in LOST:
                raise
            answered = answered or error.value in ABSENT
            failure = error
    if failure is not None and not answered:
        raise failure
    return found


@contextlib.contextmanager
def handles() -> Iterator[list[tuple[int, Any]]]:
    """(index, handle) of each GPU that answers, valid inside the context; none without a driver."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        yield []
        return
    try:
        found = []
        with contextlib.suppress(nvml.NVMLError):
            for index in range(nvml.nvmlDeviceGetCount()):
                with contextlib.suppress(nvml.NVMLError):
                    found.append((index, nvml.nvmlDeviceGetHandleByIndex(index)))
        yield found
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def readings(*more: Read) -> Iterator[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of each GPU's memory, utilization, power and temperature now; nothing without a driver.

    With `more`, what these read, too.
    """
    with handles() as found:
        for index, handle in found:
            with contextlib.suppress(nvml.NVMLError):
                for name, _, value in read(handle, (*ESSENTIAL, *more)):
                    yield name, {"gpu": str(index)}, value


def held_by(pids: Collection[int]) -> Read:
    """The read of the memory that processes hold on a GPU, as `server_memory_bytes`; none when they hold none."""

    def held(device: Any) -> Iterator[Value]:
        used = [process.usedGpuMemory for process in nvml.nvmlDeviceGetComputeRunningProcesses(device)
                if process.pid in pids]  # fmt: skip
        if used:
            yield "server_memory_bytes", "", sum(size for size in used if size is not None)

    return held


def described() -> list[dict[str, Any]]:
    """Name, memory in bytes and driver of each GPU; empty without a driver.

    A GPU that shares the machine's memory (GB10, Jetson) has none of its own to tell: there `memory_bytes` is absent.
    """
    listed = []
    with handles() as found:
        for _, handle in found:
            with contextlib.suppress(nvml.NVMLError):
                one = {"name": nvml.nvmlDeviceGetName(handle), "driver": nvml.nvmlSystemGetDriverVersion()}
                with contextlib.suppress(nvml.NVMLError):
                    one["memory_bytes"] = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
                listed.append(one)
    return listed
