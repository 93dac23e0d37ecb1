"""The GPU exporter over an NVML that hangs, lacks functions, does not come up or is not there."""

from pathlib import Path

import pytest
from exporter_page import WITHOUT_READING, Start, failed, log, names, samples, value

from bench.studies.exporter import fake_driver, up

pytestmark = pytest.mark.slow


def test_nvml_that_hangs_from_the_first_call_on(start_exporter: Start) -> None:
    running = start_exporter("--deadline", "0.5", "--expect", "8", orders=("hang init",))
    page = running.wait(lambda _: any("NVML has not come up" in line for line in log(running)))
    assert {name for name in names(page) if name.startswith("nbridge_")} == {"nbridge_gpu_expected_count"}
    running.order()
    running.wait(up(8))
    running.order("lost 3", "hang init")  # now the attempt to get GPU 3 back hangs: nobody reads the others any more
    page = running.wait(up(0))
    assert {name for gpu in range(8) for name in names(page, gpu=str(gpu))} == WITHOUT_READING
    running.order()
    running.wait(up(8))


def test_what_is_not_supported_has_no_sample(start_exporter: Start) -> None:
    silent = {
        "nvmlDeviceGetPowerUsage": ("power_watts", 3),
        "nvmlDeviceGetFanSpeed": ("fan_speed_ratio", 3),
        "nvmlDeviceGetTotalEccErrors": ("ecc_errors_total", 3),
        "nvmlDeviceGetComputeRunningProcesses_v3": ("process_memory_bytes", 4),  # no permission
        "nvmlDeviceGetCurrentClocksEventReasons": ("throttle_seconds_total", 3),
        "nvmlDeviceGetSupportedEventTypes": ("xid_errors_total", 3),
        "nvmlDeviceGetEnforcedPowerLimit": ("power_limit_watts", 999),  # an unknown error
    }
    running = start_exporter(orders=tuple(f"return {function} {code}" for function, (_, code) in silent.items()))
    page = running.wait(up(8))
    assert not {f"nbridge_gpu_{name}" for name, _ in silent.values()} & names(page)
    assert value(page, "temperature_celsius", gpu="0") == 50


def test_a_gpu_of_which_nothing_can_be_read_is_down(start_exporter: Start) -> None:
    reads = (
        *(
            "MemoryInfo",
            "UtilizationRates",
            "PowerUsage",
            "Temperature",
            "TotalEnergyConsumption",
            "FanSpeed",
            "ClockInfo",
        ),
        *("TotalEccErrors", "RemappedRows", "PcieThroughput", "FieldValues", "EnforcedPowerLimit"),
        *("ComputeRunningProcesses_v3", "GraphicsRunningProcesses_v3"),
    )
    running = start_exporter(orders=("count 1", *(f"return nvmlDeviceGet{read} 999" for read in reads)))
    page = running.wait(lambda page: bool(samples(page, "up")))
    assert value(page, "up", gpu="0") == 0
    running.wait(failed("unknown"))


@pytest.mark.parametrize(
    ("code", "error", "advice"),
    [
        (18, "lib_rm_version_mismatch", "restart the exporter"),
        (9, "driver_not_loaded", "modprobe nvidia"),
        (999, "unknown", "no GPU readings until it does."),
    ],
)
def test_a_driver_that_does_not_work_is_said_once_and_tried_again(
    start_exporter: Start, code: int, error: str, advice: str
) -> None:
    running = start_exporter(orders=(f"init {code}",))
    page = running.wait(failed(error, 2))
    assert {name for name in names(page) if name.startswith("nbridge_")} == {
        "nbridge_gpu_collect_errors_total",  # no answered collection, no expectation: GpuExporterStale fires
    }
    (said,) = [line for line in log(running) if "NVML does not answer" in line]
    assert said.endswith(advice) or advice in said
    running.order()
    assert value(running.wait(up(8)), "expected_count") == 8


def test_a_broken_driver_where_no_gpu_is_expected(start_exporter: Start) -> None:
    running = start_exporter("--expect", "0", orders=("init 9",))
    page = running.wait(lambda page: bool(samples(page, "last_collect_timestamp_seconds")))
    assert value(page, "expected_count") == 0


def test_no_library_at_all(start_exporter: Start, tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")  # found before any real one, and refused by the loader
    running = start_exporter("--expect", "2", driver=tmp_path)
    page = running.wait(lambda page: bool(samples(page, "last_collect_timestamp_seconds")))
    assert value(page, "expected_count") == 2
    running.wait(failed("library_not_found"))
    assert not samples(page, "up")


def test_functions_that_an_old_driver_lacks(start_exporter: Start, tmp_path: Path) -> None:
    running = start_exporter(driver=fake_driver(tmp_path / "old", "OLD_DRIVER"), orders=("throttle 0 0x4",))
    page = running.wait(
        lambda page: up(8)(page) and value(page, "throttle_seconds_total", gpu="0", reason="sw_power_cap") > 0
    )
    assert not {
        "nbridge_gpu_remapped_rows",
        "nbridge_gpu_row_remap_failure",
        "nbridge_gpu_memory_temperature_celsius",
        "nbridge_gpu_nvlink_bytes_total",
    } & names(page)
