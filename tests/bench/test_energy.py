"""Energy over exactly the measured window: hand-worked samples, and the sampler over a fake NVML."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bench.run.stats.energy import energy
from bench.studies.exporter import MissingCompiler, fake_driver

ROOT = Path(__file__).parents[2]
WINDOW = (1.5, 4.5)


def samples(*series: tuple[str, str, list[tuple[float, float]]]) -> pa.Table:
    """Rows of samples.parquet: (GPU, name, [(instant, value)])."""
    rows = [
        {"t_s": at, "source": "gpu", "name": name, "labels": json.dumps({"gpu": gpu}), "value": value}
        for gpu, name, pairs in series
        for at, value in pairs
    ]
    return pa.Table.from_pylist(rows)


def every_second(*values: float) -> list[tuple[float, float]]:
    return [(float(at), value) for at, value in enumerate(values)]


COUNTED = ("0", "energy_joules_total", every_second(1000.0, 1100.0, 1300.0, 1500.0, 1700.0, 1800.0))


def test_a_counter_is_read_straight_between_samples() -> None:
    # 1.5 s: 1200 J; 4.5 s: 1750 J
    found = energy(samples(COUNTED, ("0", "power_watts", every_second(9, 9, 9, 9, 9, 9))), WINDOW, 110.0)
    assert found["joules"] == pytest.approx(550.0)
    assert found["mean_power_w"] == pytest.approx(550 / 3)
    assert found["joules_per_output_token"] == pytest.approx(5.0)
    assert (found["method"], found["gpus"], found["of_server"], found["unknown"]) == ("counter", ["0"], False, None)


def test_without_a_counter_sampled_power_is_integrated() -> None:
    # by the second: 100, 150, 200, 200, 150 J, of the second and the last one half
    found = energy(samples(("0", "power_watts", every_second(100, 100, 200, 200, 200, 100))), WINDOW, None)
    assert found["joules"] == pytest.approx(75 + 200 + 200 + 75)
    assert found["method"] == "power"
    assert found["joules_per_output_token"] is None


def test_only_the_gpus_that_the_server_holds_count() -> None:
    others = ("1", "energy_joules_total", every_second(0.0, 1e6, 2e6, 3e6, 4e6, 5e6))
    both = energy(samples(COUNTED, others), WINDOW, 10.0)
    assert (both["gpus"], both["of_server"]) == (["0", "1"], False)
    found = energy(samples(COUNTED, others, ("0", "server_memory_bytes", [(0.0, 18.0)])), WINDOW, 10.0)
    assert (found["gpus"], found["of_server"], found["joules"]) == (["0"], True, pytest.approx(550.0))


@pytest.mark.parametrize(
    ("series", "why"),
    [
        (("0", "energy_joules_total", [(2.0, 1.0), (3.0, 2.0), (4.0, 3.0)]), None),  # half a second at either end
        (("0", "energy_joules_total", [(3.2, 1.0), (4.0, 3.0)]), "GPU 0: the samples do not span the window"),
        (("0", "energy_joules_total", [(1.0, 5.0), (2.0, 1.0), (5.0, 3.0)]), "set back during the load"),
        (("0", "energy_joules_total", [(1.0, 5.0)]), "sampled only once"),
        (("0", "server_memory_bytes", [(1.0, 5.0)]), "tells neither its energy nor its power"),
    ],
)
def test_what_the_samples_cannot_tell_is_absent_with_the_reason(series: Any, why: str | None) -> None:
    found = energy(samples(series), WINDOW, 10.0)
    if why is None:
        assert found["joules"] == pytest.approx(3.0)  # 1 J a second, beyond the samples, too
        return
    assert found["joules"] is None
    assert why in found["unknown"]


def test_a_gap_in_sampled_power_is_not_bridged() -> None:
    found = energy(samples(("0", "power_watts", [(0.0, 1.0), (9.0, 1.0)])), WINDOW, 10.0)
    assert found["unknown"] == "GPU 0: its power was not sampled for more than 5 s"


def test_no_gpu_and_no_window() -> None:
    assert energy(None, WINDOW, 10.0) is None
    of_server = samples(COUNTED).set_column(1, "source", [["server"] * 6])
    assert energy(of_server, WINDOW, 10.0) is None
    assert energy(samples(COUNTED), None, 10.0)["unknown"] == "the cell has no measurement window"


@pytest.mark.slow
def test_the_sampler_reads_the_counter_of_the_gpus_that_the_server_holds(tmp_path: Path) -> None:
    """GPU 3 draws 200 W by its counter; process 1031 (of the fake) holds memory there."""
    try:
        driver = fake_driver(tmp_path / "nvml")
    except MissingCompiler as error:
        pytest.fail(str(error))
    (tmp_path / "orders").write_text("draw 3 200\ndraw 2 900\n")
    code = """
import time, json
from monitoring.sampler import Sampler
taken = Sampler("http://127.0.0.1:9", lambda: [1031], interval_s=0.1)
taken.take(); time.sleep(0.4); taken.take()
print(json.dumps([[one.at_s, one.source, one.name, one.labels, one.value] for one in taken.readings]))
away = Sampler("http://192.0.2.1:9", lambda: [1031], interval_s=0.1)
away.take()
print(json.dumps([one.name for one in away.readings if one.source == "gpu"]))
"""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver), "FAKE_NVML": str(tmp_path / "orders")}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=ROOT
    )
    here, away = map(json.loads, answer.stdout.splitlines())
    assert away == []  # GPUs of this machine are none of a server's elsewhere
    table = pa.Table.from_pylist(
        [dict(zip(("t_s", "source", "name", "labels", "value"), row, strict=True)) for row in here]
    )
    first, last = min(row[0] for row in here), max(row[0] for row in here)
    found = energy(table, (first + 0.1, last - 0.1), 10.0)
    assert (found["gpus"], found["of_server"], found["method"]) == (["3"], True, "counter")
    assert found["mean_power_w"] == pytest.approx(200, rel=0.3)
