import json
from pathlib import Path
from typing import Any

import made_runs
import pytest

from reports.measured.cells import Report
from reports.report import read_report, write_report
from reports.sections.planned import sections
from reports.tables import Table

GIB = 1 << 30
H100 = {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 80 * GIB, "driver": "580"}
STARTUP = {
    "engine_weights_bytes": round(14.99 * GIB),
    "kv_cache_bytes": 432_000 * 131_072,
    "kv_cache_tokens": 432_000,
    "activation_peak_bytes": 2 * GIB,
}


def made(folder: Path, *, gpus: Any = (), plan: Any = None, token_s: float = 0.02, **engine: Any) -> Path:
    """A run of Llama 3.1 8B at two loads, each user's answer of 32 tokens taking `token_s` for each."""
    run = made_runs.RunFolder(folder, plan={"name": "planned", **(plan or {})})
    settings = {"model": "llama-3.1-8b", "max_model_len": 8192, "max_num_seqs": None, **engine}
    for users in (1, 4):
        requests = made_runs.closed_requests(users=users, count=6 * users, ttft_s=0.1, token_s=token_s)
        cell = run.add("bf16", made_runs.closed_load(users), requests, settings=settings)
        cell["startup"] = STARTUP
    return run.write(environment={**made_runs.ENVIRONMENT, "gpus": list(gpus)})


def grid(table: Table) -> list[list[str]]:
    return [[entry.text for entry in row] for row in table.rows]


def read(folder: Path) -> Report:
    return read_report(folder)


def test_without_a_gpu_there_are_no_such_sections(nine: Report) -> None:
    assert sections(nine) == ()


def test_on_a_known_gpu_memory_and_capacity_are_there(tmp_path: Path) -> None:
    memory, capacity = sections(read(made(tmp_path / "r", gpus=[H100], plan={"slo": {"ttft_s": 1.0}})))
    needs, startup = memory.tables
    row = dict(zip((column.name for column in needs.columns), grid(needs)[0], strict=True))
    assert row["Weights"] == "15.0 GiB"
    assert row["Verdict"] == "fits"
    assert row["Longest request"] == "8,192 tokens"
    assert ["bf16", "KV cache per token", "131,072 B", "131,072 B", "1.00", "exact"] in grid(startup)
    assert (grid(startup)[0][1], grid(startup)[0][5]) == ("weights", "exact")
    servers, bounds = capacity.tables
    assert grid(servers)[0][2] == "c4"
    assert [row[0] for row in grid(bounds)] == ["bf16-closed-c1-r1", "bf16-closed-c4-r1"]
    assert len(memory.paragraphs) == 1


def test_servers_are_counted_from_the_goodput(tmp_path: Path) -> None:
    _, capacity = sections(read(made(tmp_path / "r", gpus=[H100], plan={"slo": {"ttft_s": 1.0}})))
    row = grid(capacity.tables[0])[0]
    goodput = float(row[1].split()[0])
    assert int(row[5]) == pytest.approx(10 / goodput / 0.7 + 1, abs=1)
    assert "no heavier load was measured" in " ".join(capacity.tables[0].notes)


def test_without_an_slo_the_capacity_says_what_is_missing(tmp_path: Path) -> None:
    _, capacity = sections(read(made(tmp_path / "r", gpus=[H100])))
    assert "[slo]" in capacity.paragraphs[0]
    assert [table.id for table in capacity.tables] == ["roofline"]


def test_an_slo_that_nothing_meets_gives_no_servers(tmp_path: Path) -> None:
    _, capacity = sections(read(made(tmp_path / "r", gpus=[H100], plan={"slo": {"ttft_s": 0.001}})))
    assert "no number of servers carries a demand" in capacity.paragraphs[0]


def test_a_figure_above_the_bound_is_called_out(tmp_path: Path) -> None:
    # One user at 0.1 ms a token: more than ten times what an H100's bandwidth allows.
    faster = made_runs.closed_requests(users=1, count=12, ttft_s=0.0001, token_s=0.0001)
    run = made_runs.RunFolder(tmp_path / "fast")
    run.add("bf16", made_runs.closed_load(1), faster, settings={"model": "llama-3.1-8b"})
    _, capacity = sections(read(run.write(environment={**made_runs.ENVIRONMENT, "gpus": [H100]})))
    (bounds,) = capacity.tables
    assert bounds.rows[0][3].tone == "bad"
    assert "is above the bound" in bounds.notes[1]


def test_a_planned_gpu_is_estimated_and_not_compared(tmp_path: Path) -> None:
    memory, capacity, _ = sections(read(made(tmp_path / "r", plan={"cost": {"gpu": "l4"}})))
    assert "another machine" in memory.paragraphs[1]
    assert [table.id for table in memory.tables] == ["gpu-needs", "gpu-startup"]
    assert [row[1] for row in grid(memory.tables[1])] == ["weights", "KV cache per token"]
    assert capacity.tables == ()


def test_what_stands_against_it_is_said_in_its_place(tmp_path: Path) -> None:
    section, *_ = sections(read(made(tmp_path / "r", plan={"cost": {"gpu": "rtx-4900"}})))
    assert "Did you mean rtx-4090" in section.paragraphs[0]
    memory, _ = sections(read(made(tmp_path / "s", gpus=[H100], model="/gone/model")))
    assert memory.paragraphs[-1].startswith("bf16: ")
    assert memory.tables == ()


def test_a_model_that_does_not_fit_says_why(tmp_path: Path) -> None:
    memory, *_ = sections(read(made(tmp_path / "r", plan={"cost": {"gpu": "rtx-4090"}}, model="llama-3.1-70b")))
    assert grid(memory.tables[0])[0][1] == "does not fit"
    assert "The weights alone" in memory.tables[0].notes[0]


def test_both_files_show_the_sections(tmp_path: Path) -> None:
    paths = write_report(made(tmp_path / "r", gpus=[H100], plan={"slo": {"ttft_s": 1.0}}))
    html, markdown = paths.html.read_text(encoding="utf-8"), paths.markdown.read_text(encoding="utf-8")
    assert '<a href="#gpu-memory">Memory on the GPU</a>' in html
    assert 'id="servers"' in html
    assert "## Memory on the GPU" in markdown
    assert "## Servers for a demand" in markdown
    assert html.index('id="memory-use"') < html.index('id="gpu-memory"') < html.index('id="cells"')
    assert json.loads(html.split('id="numbers">')[1].split("</script>")[0])["format"] == 1
