import json
import math
import sys
from pathlib import Path

import pytest
from recordings import RECORDED

import nbridge


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["nbridge", *arguments])
    with pytest.raises(SystemExit) as ended:
        nbridge.main()
    return int(ended.value.code or 0)


def test_vram_says_what_fits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["vram", "llama-3.1-8b", "--gpu", "rtx-4090"], monkeypatch) == 0
    printed, said = capsys.readouterr()
    for text in ("Fits.", "16.06 GB of weights", "128 KiB a token", "42,336", "Smallest set of each GPU"):
        assert text in printed
    assert said == ""  # no price decides here, so none is warned of


def test_vram_exits_with_1_when_it_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["vram", "llama-3.1-70b", "--gpu", "rtx-4090", "--json"], monkeypatch) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["estimate"]["verdict"] == "no"
    assert {one["gpu"]: one["gpus"] for one in document["smallest_sets"]}["h200"] == 2


def test_vram_without_a_gpu_tries_every_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["vram", "qwen2.5-7b", "--quantization", "int4"], monkeypatch) == 0
    assert "mi300x" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["vram", "llama-3.1-8b", "--gpu", "rtx-4900"], "Did you mean rtx-4090"),
        (["vram", "lama-3.1-8b", "--gpu", "l4"], "Did you mean llama-3.1-8b"),
        (["vram", "llama-3.1-8b", "--gpu", "l4", "--tp", "3"], "32 attention heads"),
        (["vram", "llama-3.1-8b", "--gpu", "l4", "--quantization", "int2"], "two bits"),
        (["vram"], "Name a MODEL"),
        (["select", "--measured-only"], "--run"),
        (["select", "--gpu", "l4:x"], "after the colon"),
        (["vram", "--run", "no-such-run"], "no-such-run"),
        (["prices", "--catalog", "no-such-file.toml"], "no-such-file.toml"),
    ],
)
def test_bad_questions_end_with_2_and_a_paragraph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert run(arguments, monkeypatch) == 2
    assert said in capsys.readouterr().err


def test_vram_of_a_run_agrees_with_vllm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["vram", "--run", str(RECORDED), "--json"], monkeypatch) == 0
    engines = json.loads(capsys.readouterr().out)["engines"]
    assert list(engines) == ["bf16", "int8", "int4"]
    assert {one["reported"] for some in engines.values() for one in some} == {16384}
    assert all(one["inside"] for some in engines.values() for one in some)


def test_select_gives_a_reason_for_every_rejection(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["select", "--gpu", "rtx-4090", "--language", "zh", "--max-tpot", "0.02", "--run", str(RECORDED)]
    assert run([*arguments, "--json"], monkeypatch) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["chosen"].startswith("qwen2.5-7b")
    assert all(one["reasons"] for one in document["rejected"])
    assert any(one["measured"] for one in document["rejected"])
    assert run(arguments, monkeypatch) == 0
    assert "Take qwen2.5-7b" in capsys.readouterr().out


def test_select_exits_with_1_when_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["select", "--gpu", "l4", "--max-tpot", "0.0001"], monkeypatch) == 1
    assert "None of the" in capsys.readouterr().out


def test_select_of_measured_runs_counts_servers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["select", "--run", str(RECORDED), "--measured-only", "--peak-rps", "5"], monkeypatch) == 0
    assert "No accepted candidate has a measured goodput" in capsys.readouterr().out  # that plan has no SLO


def test_select_counts_servers_for_a_month(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((RECORDED / "run.json").read_text(encoding="utf-8"))
    for cell in document["cells"]:
        cell["metrics"]["goodput_rps"] = cell["metrics"]["request_throughput_rps"]
    (tmp_path / "run.json").write_text(json.dumps(document), encoding="utf-8")
    month = ["--requests-per-month", str(730 * 3600 * 10), "--peak-to-mean", "3", "--headroom", "0.5", "--spares", "2"]
    assert run(["select", "--run", str(tmp_path), "--measured-only", *month, "--json"], monkeypatch) == 0
    accepted = json.loads(capsys.readouterr().out)["accepted"]
    assert len(accepted) == 9
    for one in accepted:
        assert one["servers"] == math.ceil(30 / one["goodput_rps"] / 0.5) + 2
    assert run(["select", "--run", str(tmp_path), "--measured-only", *month], monkeypatch) == 0
    assert (
        "Servers for 30 requests/s at the peak (50% of the goodput is planned with, 2 spare)" in capsys.readouterr().out
    )


def test_prices_say_where_they_are_from_and_how_old_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["prices"], monkeypatch) == 0
    printed = capsys.readouterr().out
    for text in ("genai-prices", "openai/gpt-4o", "the guide, §5.2", "stale", "rtx-4090-build"):
        assert text in printed
    assert run(["prices", "--json"], monkeypatch) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["stale"]
    assert all(price["retrieved"] for gpu in document["gpus"] for price in (*gpu["buy"], *gpu["rent"]))
