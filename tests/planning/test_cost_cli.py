"""`nbridge cost` and `nbridge audit` as a user calls them."""

import json
from pathlib import Path
from typing import Any

import pytest
from recordings import RECORDED
from typer.testing import CliRunner

import nbridge
from planning.errors import PlanningError

ROOT = Path(__file__).parents[2]
runner = CliRunner()


def answer(*arguments: str, code: int = 0) -> str:
    result = runner.invoke(nbridge.app, list(arguments))
    assert result.exit_code == code, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    """The message of a refused command; the front door prints it and exits with its code."""
    result = runner.invoke(nbridge.app, list(arguments))
    assert isinstance(result.exception, PlanningError)
    assert result.exception.exit_code == 2
    return str(result.exception)


def document(*arguments: str, code: int = 0) -> dict[str, Any]:
    made = json.loads(answer(*arguments, "--json", code=code))
    assert isinstance(made, dict)
    return made


def test_cost_says_verdict_break_even_drivers_assumptions_and_versions() -> None:
    said = answer("cost", "--draws", "2000")
    for part in (
        "The API is cheaper.",
        "becomes cheaper at",
        "A million tokens, in USD",
        "What drives it",
        "█",
        "Assumptions",
        "seed 0",
        "genai-prices",
        "triangular",
    ):
        assert part in said


def test_cost_as_json_has_no_infinity_and_all_percentiles() -> None:
    made = document("cost", "--draws", "2000", "--hosting", "buy")
    assert set(made["own_usd_per_month"]) == {"p5", "p50", "p95", "mean"}
    assert made["payback_months"]["p50"] is None  # never
    assert made["seed"] == 0
    assert made["tornado"][0]["input"] == "ops_hours_per_month"
    assert made["case"]["inputs"]["wage_usd_per_hour"]["source"].startswith("assumed")


def test_cost_is_the_same_for_the_same_seed() -> None:
    one, two, other = (
        document("cost", "--draws", "2000", "--seed", seed)["own_usd_per_month"] for seed in ("3", "3", "4")
    )
    assert one == two
    assert one != other


def test_cost_of_a_run_uses_its_speed_and_mix() -> None:
    made = document("cost", "--run", str(RECORDED), "--engine", "int8", "--draws", "2000")
    speed = made["case"]["inputs"]["output_tok_s"]
    assert "engine int8, load c16" in speed["source"]
    assert 200 < speed["mode"] < 350
    assert made["case"]["requests"][0]["input_tokens"]["mode"] == 64
    assert any("without a GPU" in warning for warning in made["warnings"])


def test_cost_of_a_case_file_with_values_by_hand(tmp_path: Path) -> None:
    case = tmp_path / "case.toml"
    case.write_text('[api]\nmodel = "gpt-5-mini"\n[inputs]\noutput_tok_s = 900\nrent_usd_per_gpu_hour = 2\n')
    made = document("cost", str(case), "--set", "wage_usd_per_hour=50:60:70", "--tokens", "5e9", "--draws", "2000")
    assert made["api"]["name"] == "openai/gpt-5-mini"
    assert made["case"]["inputs"]["wage_usd_per_hour"]["high"] == 70
    assert made["case"]["inputs"]["tokens_per_month"]["mode"] == 5e9
    assert made["case"]["name"] == "case"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "wage=3"], "wage_usd_per_hour"),
        (["--set", "rent_usd_per_gpu_hour=-1"], "must be at least 0"),
        (["--set", "hours_per_day=25"], "at most 24"),
        (["--hosting", "lease"], "'rent' or 'buy'"),
        (["--gpu", "rtx-4900"], "rtx-4090"),
        (["--gpu", "a10g"], "--run"),
        (["--api", "gpt-4oo"], "gpt-4o"),
        (["--run", str(RECORDED), "--engine", "in8"], "int8"),
        (["none.toml"], "no such file"),
        (["--engine", "int8"], "give the run with --run"),
        (["--run", str(RECORDED), "--model", "llama-3.1-8b"], "one of --run and --model"),
        (["--model", "llama-3.1-70b", "--gpu", "rtx-4090"], "does not fit"),
    ],
)
def test_cost_refuses_with_what_would_work(arguments: list[str], said: str) -> None:
    assert said in refused("cost", *arguments)


def test_audit_of_the_guide_ends_with_1_and_lists_findings() -> None:
    said = answer("audit", code=1)
    assert "Wrong or inconsistent" in said
    assert "claimed 7 months   corrected 8.14 months" in said
    assert "On-Prem RTX 4090     $2,850      $50     $3,450     $4,050  as claimed" in said
    made = document("audit", code=1)
    assert made["summary"]["wrong"] >= 20
    assert {row["solution"] for row in made["roi"]} >= {"OpenAI API", "On-Prem RTX 4090"}


def test_audit_of_a_users_file_walks_to_what_holds_and_shows_inputs() -> None:
    said = answer("audit", str(ROOT / "docs" / "examples" / "claims.toml"), "--inputs", code=1)
    assert "860 times cheaper" in said
    assert "PEAK_VS_LIST" in said
    assert "tokens = 10 M tokens/month (our traffic)" in said


def test_audit_of_right_claims_ends_with_0(tmp_path: Path) -> None:
    file = tmp_path / "claims.toml"
    file.write_text('[[claims]]\nid = "a"\ntext = "six"\nclaimed = 6\nformula = "x * 2"\ninputs.x = 3\n')
    assert "1 claim: 0 wrong, 1 right" in answer("audit", str(file))


def test_audit_refuses_a_broken_file(tmp_path: Path) -> None:
    file = tmp_path / "claims.toml"
    file.write_text('[[claims]]\nid = "a"\ntext = "six"\nclaimed = 6\n')
    assert "claims.a: give exactly one of `formula`" in refused("audit", str(file))
