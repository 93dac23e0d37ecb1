"""The GPU exporter over a fake NVML: what it says of GPUs that are well, hot, lost, hanging or divided."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from exporter_page import WITHOUT_READING, Start, failed, log, names, samples, value

from bench.studies.exporter import up
from monitoring.scrape.metrics import parse, total

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def test_eight_gpus_that_are_well(start_exporter: Start) -> None:
    running = start_exporter()
    page = running.wait(up(8))
    gpu5 = {
        "gpu": "5",
        "uuid": "GPU-00000005-0000-0000-0000-000000000000",
        "name": "NVIDIA H100 80GB HBM3",
        "mig": "",
    }
    (temperature,) = samples(page, "temperature_celsius", gpu="5")
    assert (temperature.value, temperature.labels) == (55, gpu5)
    expected = {
        "memory_temperature_celsius": 61,
        "utilization_ratio": 0.9,
        "memory_utilization_ratio": 0.35,
        "memory_used_bytes": 25 * 2**30,
        "memory_total_bytes": 80 * 2**30,
        "power_watts": 312.35,
        "power_limit_watts": 700,
        "energy_joules_total": 5_000_000,
        "fan_speed_ratio": 0.4,
        "row_remap_pending": 0,
        "row_remap_failure": 0,
        "info": 1,
    }
    assert {name: value(page, name, **gpu5) for name in expected} == expected
    by_label = {
        ("clock_hertz", "clock"): {"graphics": 1980e6, "sm": 1970e6, "memory": 1960e6, "video": 1950e6},
        ("clock_max_hertz", "clock"): {"graphics": 2000e6, "sm": 1990e6, "memory": 1980e6, "video": 1970e6},
        ("temperature_limit_celsius", "limit"): {"slowdown": 87, "shutdown": 92},
        ("ecc_errors_total", "type"): {"corrected": 3, "uncorrected": 0},
        ("remapped_rows", "type"): {"corrected": 2, "uncorrected": 1},
        ("pcie_throughput_bytes_per_second", "direction"): {"tx": 1_500_000, "rx": 1_501_000},
        ("nvlink_bytes_total", "direction"): {"tx": 1000 * 1024, "rx": 2000 * 1024},
    }
    assert {
        (name, key): {s.labels[key]: s.value for s in samples(page, name, **gpu5)} for name, key in by_label
    } == by_label
    processes = {(s.labels["pid"], s.labels["name"]): s.value for s in samples(page, "process_memory_bytes", gpu="0")}
    assert processes == {("1001", "VLLM::EngineCore"): 18 * 2**30, ("2002", "python3"): 2**30}
    # The documented number of series per GPU; beside them come its processes, at most 64.
    assert (
        len([s for s in parse(page) if s.labels.get("gpu") == "5"])
        - len(samples(page, "process_memory_bytes", gpu="5"))
        == 56
    )
    assert "secret" not in page  # which is among the arguments of python3
    assert value(page, "expected_count") == 8
    assert not samples(page, "collect_errors_total")
    assert log(running)[1:] == ["8 GPUs by NVML, driver 580.95.05"]


def test_the_page_is_whole_for_prometheus(start_exporter: Start) -> None:
    running = start_exporter("--server", "http://127.0.0.1:9")
    page = running.wait(lambda page: up(8)(page) and "nbridge_canary_up{" in page)
    assert total(parse(page), "nbridge_canary_up", server="http://127.0.0.1:9") == 0
    assert "process_cpu_seconds_total" in page
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    # The name is this project's contract; everything else must please promtool.
    complaints = [line for line in checked.stderr.splitlines() if "nbridge_gpu_expected_count" not in line]
    assert complaints == []
    assert running.get("/health") == '{"status": "ok"}\n'
    assert "no such page" in running.get("/metric")


def test_heat_and_throttled_time(start_exporter: Start) -> None:
    running = start_exporter()
    reasons = {s.labels["reason"]: s.value for s in samples(running.wait(up(8)), "throttle_seconds_total", gpu="3")}
    assert set(reasons.values()) == {0}
    running.order("temperature 3 95", "throttle 3 0x49")  # hardware slowdown, by heat; and idle, which is no throttling
    page = running.wait(lambda page: value(page, "throttle_seconds_total", gpu="3", reason="hw_thermal_slowdown") > 0.3)
    assert value(page, "temperature_celsius", gpu="3") == 95
    risen = {s.labels["reason"] for s in samples(page, "throttle_seconds_total", gpu="3") if s.value > 0}
    assert risen == {"hw_slowdown", "hw_thermal_slowdown"}
    assert total(parse(page), "nbridge_gpu_throttle_seconds_total", gpu="2") == 0
    running.order()
    cooled = running.wait(lambda page: value(page, "temperature_celsius", gpu="3") == 53)
    seen = value(running.get(), "throttle_seconds_total", gpu="3", reason="hw_slowdown")
    later = value(cooled, "last_collect_timestamp_seconds") + 0.3
    cooled = running.wait(lambda page: value(page, "last_collect_timestamp_seconds") > later)
    assert value(cooled, "throttle_seconds_total", gpu="3", reason="hw_slowdown") == seen


def test_a_lost_gpu_is_down_and_comes_back_by_initialising_anew(start_exporter: Start) -> None:
    running = start_exporter()
    running.wait(up(8))
    running.order("lost 3", "xid 3 79")
    page = running.wait(
        lambda page: up(7)(page) and total(parse(page), "nbridge_gpu_xid_errors_total", xid="79", gpu="3") == 1
    )
    assert value(page, "up", gpu="3") == 0
    assert names(page, gpu="3") == WITHOUT_READING
    assert value(page, "temperature_celsius", gpu="4") == 54
    assert value(page, "expected_count") == 8
    running.wait(failed("gpu_is_lost"))
    running.order("away 3", "xid 3 79")  # the next initialisation does not list it: the others move up by one
    page = running.wait(
        lambda page: bool(samples(page, "up", gpu="6", uuid="GPU-00000007-0000-0000-0000-000000000000"))
    )
    lost = "GPU-00000003-0000-0000-0000-000000000000"
    assert (value(page, "up", uuid=lost), value(page, "expected_count")) == (0, 8)
    running.order("xid 3 79")
    page = running.wait(up(8))
    assert value(page, "temperature_celsius", uuid=lost, gpu="3") == 53
    assert value(page, "xid_errors_total", uuid=lost, xid="79") == 1
    about = [line for line in log(running) if lost in line]
    assert [line.rpartition(lost)[2] for line in about if "XID" not in line] == [
        ") is down (GPU is lost); its readings are withheld",
        ") answers again",
    ]


def test_a_gpu_that_hangs_delays_nobody_and_shows_nothing_old(start_exporter: Start) -> None:
    running = start_exporter("--deadline", "0.5")
    running.wait(up(8))
    running.order("hang 3", "temperature 4 77")
    page = running.wait(
        lambda page: not value(page, "up", gpu="3") and value(page, "temperature_celsius", gpu="4") == 77
    )
    assert names(page, gpu="3") == WITHOUT_READING
    running.wait(failed("timeout"))
    later = value(page, "last_collect_timestamp_seconds") + 1
    page = running.wait(lambda page: value(page, "last_collect_timestamp_seconds") > later)
    assert value(page, "up", gpu="3") == 0  # the call still hangs; the others go on
    running.order()
    page = running.wait(up(8))
    assert value(page, "temperature_celsius", gpu="3") == 53
    assert any("GPU 3 " in line and "has not answered for 0.5 s" in line for line in log(running))


def test_all_gpus_hang(start_exporter: Start) -> None:
    running = start_exporter("--deadline", "0.5")
    running.wait(up(8))
    running.order(*(f"hang {gpu}" for gpu in range(8)))
    page = running.wait(up(0))
    collected = value(page, "last_collect_timestamp_seconds")
    assert {name for gpu in range(8) for name in names(page, gpu=str(gpu))} == WITHOUT_READING
    page = running.wait(failed("timeout", 8))
    assert value(page, "last_collect_timestamp_seconds") == collected
    assert running.end() == 0  # and it can be ended while they hang


def test_the_power_limit_in_force_is_the_one_of_now(start_exporter: Start) -> None:
    running = start_exporter()
    running.wait(up(8))
    assert value(running.get(), "power_limit_watts", gpu="1") == 700
    running.order("return nvmlDeviceGetEnforcedPowerLimit 3")  # what was read at the start is not kept
    running.wait(lambda page: up(8)(page) and not samples(page, "power_limit_watts"))


def test_a_divided_gpu(start_exporter: Start) -> None:
    running = start_exporter(orders=("count 2", "mig 0 2"))
    page = running.wait(up(2))
    second = {"gpu": "0", "mig": "1", "uuid": "MIG-00000000-0000-0000-0000-000000000001"}
    assert value(page, "up", **second) == 1
    assert value(page, "memory_total_bytes", name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", **second) == 10 * 2**30
    assert value(page, "memory_total_bytes", gpu="0", mig="") == 80 * 2**30
    assert not samples(page, "utilization_ratio", gpu="0")  # NVML has none for a divided GPU
    holders = {(s.labels["mig"], s.labels["pid"]) for s in samples(page, "process_memory_bytes", gpu="0")}
    assert holders == {("0", "1003"), ("1", "1005")}  # each once, in its own part
    assert value(page, "expected_count") == 2


def test_critical_errors_are_counted_as_they_come(start_exporter: Start) -> None:
    running = start_exporter()
    page = running.wait(lambda page: up(8)(page) and bool(samples(page, "xid_errors_total")))
    assert value(page, "xid_errors_total", gpu="2", xid="48") == 0
    running.order("xid 2 48", "xid 2 48", "xid 6 31", "xid 6 999")
    page = running.wait(lambda page: bool(samples(page, "xid_errors_total", xid="999")))
    counted = {(s.labels["gpu"], s.labels["xid"]): s.value for s in samples(page, "xid_errors_total") if s.value}
    assert counted == {("2", "48"): 2, ("6", "31"): 1, ("6", "999"): 1}
    assert [line.partition("reports ")[2].partition(";")[0] for line in log(running)[2:]] == [
        "XID 48",
        "XID 31",
        "XID 999",
    ]


def test_fewer_gpus_than_expected(start_exporter: Start) -> None:
    page = start_exporter("--expect", "9").wait(up(8))
    assert value(page, "expected_count") == 9


def test_a_gpu_that_is_lost_before_it_had_a_name(start_exporter: Start) -> None:
    running = start_exporter(orders=("count 2", "lost 1"))
    page = running.wait(lambda page: len(samples(page, "up")) == 2)
    assert value(page, "up", gpu="1", uuid="", name="") == 0
    assert value(page, "expected_count") == 2
    running.order("count 2")
    page = running.wait(up(2))
    assert len(samples(page, "up")) == 2


def test_a_taken_port_is_one_paragraph(nbridge: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = nbridge("exporter", "--port", port)
    assert answer.returncode == 2
    assert f"--port {port}: cannot listen there (Address already in use)" in answer.stderr
    assert f"--port {port + 1}" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_one_collection_as_json_and_what_the_others_read_of_gpus(fake_nvml: Path) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(fake_nvml)}
    environment.pop("FAKE_NVML", None)

    def ask(*words: str) -> str:
        argv = [sys.executable, *words]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, cwd=ROOT).stdout

    document = json.loads(ask("-m", "nbridge", "exporter", "--once", "--json"))
    assert {"name": "nbridge_gpu_expected_count", "labels": {}, "value": 8.0} in document
    code = "import json; from monitoring.gpu import nvml; print(json.dumps([list(nvml.readings()), nvml.described()]))"
    readings, described = json.loads(ask("-c", code))
    assert ["temperature_celsius", {"gpu": "7"}, 57] in readings
    assert ["memory_used_bytes", {"gpu": "7"}, 27 * 2**30] in readings
    assert len(described) == 8
    assert described[0] == {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 80 * 2**30, "driver": "580.95.05"}
