"""The audit: the guide's claims, a user's claims, and what a claims file may not be."""

import math
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from planning.claims import audit
from planning.claims.claimfile import CODES, GUIDE_PATH, Comparison, guide, load_claims, parse_claims
from planning.claims.comparison import quantization_in, walk
from planning.errors import BadCatalog, BadInput, UnknownName

ON = date(2026, 11, 22)
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "claims.toml"


@pytest.fixture(scope="module")
def found() -> dict[str, audit.Finding]:
    return {finding.id: finding for finding in audit.audit(guide(), on=ON).findings}


def one(**claim: Any) -> audit.Finding:
    document = {"claims": [{"id": "it", "text": "it is so", **claim}]}
    return audit.audit(parse_claims(document, source="mine.toml"), on=ON).findings[0]


def test_the_guide_has_at_least_twenty_wrong_claims_each_with_a_code_and_a_reason(found) -> None:
    wrong = [finding for finding in found.values() if finding.verdict == audit.WRONG]
    assert len(wrong) >= 20
    for finding in wrong:
        assert finding.codes, finding.id
        assert set(finding.codes) <= set(CODES), finding.id
        assert finding.reason.endswith("."), finding.id
        assert finding.inputs, finding.id


def test_no_corrected_value_stands_in_the_guides_file() -> None:
    # A claim's own figure may be an input where a bound is tested (min(said, bound)); nothing else repeats it.
    for claim in tomllib.loads(GUIDE_PATH.read_text(encoding="utf-8"))["claims"]:
        assert "corrected" not in claim
        assert not {"verdict"} & set(claim)


@pytest.mark.parametrize(
    ("claim", "low", "high", "code"),
    [
        ("gpt-4o-month", 25, 100, "UNITS_10X"),
        ("gpt-5-mini-price", 0.25, 2, "STALE_PRICE"),
        ("haiku-price", 1, 5, "STALE_PRICE"),
        ("opus-month", 150, 750, "UNITS_10X"),
        ("sonnet-month", 30, 150, "UNITS_10X"),
        ("embedding-month", 1.3, 1.3, "UNITS_10X"),
        ("roi-api-month", 25, 100, "BATCH_OR_CACHE_IGNORED"),
        ("saving", 2.5 - 168.75, 750 - 168.75, "MARGINAL_VS_FULL"),
        ("same-quality", 0.5, 0.8, "NOT_SAME_QUALITY"),
        ("break-even-api", 2850 / 350, 2850 / 350, "MARGINAL_VS_FULL"),
        ("break-even-cloud", 2850 / 243, 2850 / 243, "MARGINAL_VS_FULL"),
        ("break-even-range", 57, math.inf, "UNITS_10X"),
        ("cheaper-after", -0.3125, 0.28125, "MARGINAL_VS_FULL"),
        ("on-prem-saves", 600 - 4050, 2400 - 4050, "UNITS_10X"),
        ("own-month", 50 + 2850 / 36, 50 + 2850 / 24, "MARGINAL_VS_FULL"),
        ("unlimited", 520 * 3600 * 720, 520 * 3600 * 720, "OVER_CAPACITY"),
        ("uptime", 1 / 3, 1 / 3, "INCONSISTENT"),
        ("deepseek-size", 471.482869760, 471.482869760, "ARITHMETIC"),
        ("qwen-7b-size", 15.231233024, 15.231233024, "ARITHMETIC"),
        ("a100-memory", 40, 40, "OVER_CAPACITY"),
        ("a100-count", 8, 8, "INCONSISTENT"),
        ("paged-memory", 1 - 5 / 9, 1 - 5 / 9, "ARITHMETIC"),
        ("batch-8", 280, 280, "INCONSISTENT"),
        (
            "seats-256",
            (21.6e9 - 16.060522496e9) / (131072 * 8192),
            (21.6e9 - 16.060522496e9) / (131072 * 8192),
            "OVER_CAPACITY",
        ),
        ("latency-32", 100 / (520 / 32), 100 / (520 / 32), "NO_SLO"),
        ("pods-100", 5.2, 5.2, "OVER_CAPACITY"),
    ],
)
def test_a_wrong_claim_gets_the_value_worked_out_by_hand(found, claim: str, low: float, high: float, code: str) -> None:
    assert found[claim].verdict == audit.WRONG
    assert found[claim].corrected == pytest.approx((low, high))
    assert code in found[claim].codes


@pytest.mark.parametrize(
    "claim",
    [
        "gpt-4o-price", "opus-price", "sonnet-price", "build-total", "electricity", "ongoing", "api-12-months",
        "api-24-months", "cloud-8h-12-months", "cloud-8h-24-months", "cloud-12-months", "cloud-24-months",
        "on-prem-12-months", "on-prem-24-months", "hidden-llama-8b", "hidden-llama-70b", "hidden-qwen-7b",
        "hidden-qwen-14b", "hidden-mistral", "hidden-mixtral", "hidden-deepseek", "llama-8b-size", "roofline-4090",
    ],
)  # fmt: skip
def test_what_the_guide_has_right_is_said_to_be_right(found, claim: str) -> None:
    assert found[claim].verdict == audit.RIGHT
    assert found[claim].codes == ()


def test_reasons_name_the_figures_that_decide(found) -> None:
    assert "40 M to 160 M tokens/month" in found["roi-api-month"].reason
    assert "57.8 % after 24" in found["cheaper-after"].reason
    assert found["break-even-range"].corrected_text == "57 months to never"


def test_the_guides_table_comes_out_exactly() -> None:
    rows = audit.roi_table(on=ON)
    computed = [(row.upfront_usd, row.monthly_usd, row.month_12_usd, row.month_24_usd) for row in rows]
    assert computed == [
        (0, 400, 4800, 9600),
        (0, 293, 3516, 7032),
        (0, 878, 10536, 21072),
        (2850, 50, 3450, 4050),
    ]
    assert computed == [row.claimed for row in rows]
    assert audit.roi_table(api_usd_per_month=100, on=ON)[0].month_24_usd == 2400


@pytest.mark.parametrize(
    ("claimed", "corrected", "verdict"),
    [
        (100, 104, "right"),  # within 5 %
        (100, 106, "wrong"),
        ([90, 110], 100, "right"),  # a range that holds the value
        (100, [50, 150], "right"),  # a value that is possible
        ([90, 110], [100, 200], "wrong"),  # they only touch
        ({"at_least": 50}, 60, "right"),
        ({"at_least": 50}, 40, "wrong"),
        ({"at_most": 50}, 60, "wrong"),
    ],
)
def test_right_is_one_inside_the_other(claimed: Any, corrected: Any, verdict: str) -> None:
    assert one(claimed=claimed, formula="x", inputs={"x": corrected}).verdict == verdict


def test_an_exact_power_of_ten_is_called_by_its_code() -> None:
    assert one(claimed=400, formula="x", inputs={"x": 40}).codes == ("UNITS_10X",)
    assert one(claimed=400, formula="x", inputs={"x": 50}).codes == ("ARITHMETIC",)
    assert one(claimed=4, formula="x", inputs={"x": 400}, code="STALE_PRICE").codes == ("UNITS_10X", "STALE_PRICE")


def test_an_unsupported_claim_is_neither() -> None:
    finding = one(claimed=2, unsupported="No load is named.", code="NO_SLO")
    assert (finding.verdict, finding.corrected, finding.codes) == ("unsupported", None, ("NO_SLO",))


@pytest.mark.parametrize(
    ("claim", "error", "said"),
    [
        ({"claimed": 1}, BadInput, "exactly one of `formula`"),
        ({"claimed": 1, "formula": "x", "unsupported": "no"}, BadInput, "exactly one"),
        ({"claimed": 1, "formula": "y + 1", "inputs": {"x": 1}}, BadInput, r"uses `y`, which is no input. Known: x\."),
        ({"claimed": 1, "formula": "x / 0", "inputs": {"x": 1}}, BadInput, "divides by zero"),
        ({"claimed": 1, "formula": "x +", "inputs": {"x": 1}}, BadInput, "cannot be read"),
        ({"claimed": 1, "formula": "x ** 9", "inputs": {"x": 1}}, BadInput, r"holds 'x \*\* 9'"),
        ({"claimed": 1, "formula": "open(x)", "inputs": {"x": 1}}, BadInput, "open"),
        ({"claimed": 1, "formula": "x.real", "inputs": {"x": 1}}, BadInput, "x.real"),
        ({"claimed": [2, 1], "formula": "x", "inputs": {"x": 1}}, BadInput, "lower one first"),
        ({"claimed": 1, "formula": "x", "inputs": {"x": {"unit": "USD"}}}, BadInput, "an input is one of"),
        ({"claimed": 1, "formula": "x", "inputs": {"x": {"low": 3, "high": 1}}}, BadInput, "above high"),
        ({"claimed": 1, "formula": "x", "inputs": {"x": {"claim": "other"}}}, BadInput, "does not stand above it"),
        ({"claimed": 1, "formula": "x", "inputs": {"x": {"api": "gpt-4oo"}}}, UnknownName, "gpt-4o"),
        (
            {"claimed": 1, "formula": "x", "inputs": {"x": {"model": "llama-3.1-8b", "figure": "weight_gb"}}},
            UnknownName,
            "weights_gb",
        ),
        ({"claimed": 9, "formula": "x", "inputs": {"x": 1}, "because": "{z}"}, BadInput, "cannot be filled in"),
        ({"claimed": 1, "formula": "x", "inputs": {"x": 1}, "kode": "NO_SLO"}, BadInput, "kode.*unknown key"),
        ({"claimed": 1, "formula": "x", "inputs": {"x": 1}, "code": "WRONG"}, BadInput, "NOT_SAME_QUALITY"),
    ],
)  # fmt: skip
def test_a_claim_that_cannot_be_checked_says_why(claim: dict[str, Any], error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        one(**claim)


def test_a_claims_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadCatalog, match="no such file"):
        load_claims(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[[claims]")
    with pytest.raises(BadCatalog, match="TOML"):
        load_claims(tmp_path / "bad.toml")
    with pytest.raises(BadInput, match="claims"):
        parse_claims({}, source="empty.toml")
    twice = [{"id": "a", "text": "t", "claimed": 1, "unsupported": "x"}] * 2
    with pytest.raises(BadInput, match="two claims are called 'a'"):
        parse_claims({"claims": twice}, source="twice.toml")


# --- N times cheaper -------------------------------------------------------------------------------------------------

SLIDE = {
    "usd_per_hour": 0.36,
    "tok_s": 1000,
    "api": "openai/gpt-4o",
    "input_tokens": 300,
    "output_tokens": 100,
    "slo": "ttft_p95<0.5",
    "extra_usd_per_month": 0,
    "same_model_api": "openai/gpt-4o",
    "hours_per_month": 720,
    "tokens_per_month": 10 * 400 * 720 * 3600,  # all that it can do
}


def compared(claimed: float = 100, **stated: Any) -> audit.Finding:
    return one(claimed=claimed, comparison={**SLIDE, **stated})


def test_as_stated_and_then_whole_requests() -> None:
    finding = compared()
    # $0.36/h ÷ 3600 s ÷ 1000 tok/s = $0.10 per M output against $10
    assert finding.walk[0].ratio == pytest.approx(100)
    # Ten requests a second of 400 tokens: $0.025 per M; the API: (300·2.5 + 100·10)/400 = $4.375
    assert finding.walk[1].ratio == pytest.approx(175)
    assert finding.walk[1].code is None
    assert finding.codes == ()


def test_input_tokens_against_output_prices() -> None:
    # 1,000 input tok/s: 0.3 s for the prompt, 1 s for 100 tokens at 100 tok/s: 1/1.3 requests a second
    finding = compared(tok_s_of="input", output_tok_s=100, tokens_per_month=400 / 1.3 * 720 * 3600)
    assert "TOKEN_KIND_MISMATCH" in finding.codes
    own = 0.36 / 3600 * 1.3 / 400 * 1e6
    assert finding.walk[1].ratio == pytest.approx(4.375 / own)


def test_a_month_is_paid_whole() -> None:
    finding = compared(tokens_per_month=10e6)
    # $259.20 for 10 M tokens: $25.92 per M
    assert finding.walk[-1].code == "PEAK_VS_LIST"
    assert finding.walk[-1].ratio == pytest.approx(4.375 / 25.92)
    assert "dearer" in finding.reason


def test_more_than_one_machine_can_do_needs_two() -> None:
    finding = compared(tokens_per_month=2 * SLIDE["tokens_per_month"])
    assert finding.walk[-1].code == "OVER_CAPACITY"
    assert finding.walk[-1].ratio == pytest.approx(175)


def test_the_rest_of_the_cost_counts() -> None:
    finding = compared(extra_usd_per_month=259.2)
    assert finding.walk[-1].code == "MARGINAL_VS_FULL"
    assert finding.walk[-1].ratio == pytest.approx(175 / 2)


def test_discounts_of_the_api_count() -> None:
    # By batch: (300·1.25 + 100·5)/400 = half; half of the requests: 0.75 of the price
    finding = compared(batch_share=0.5)
    assert finding.walk[-1].code == "BATCH_OR_CACHE_IGNORED"
    assert finding.walk[-1].ratio == pytest.approx(175 * 0.75)


def test_the_same_model_by_api() -> None:
    # groq: (300·0.05 + 100·0.08)/400 = $0.0575 per M against $0.025
    finding = compared(same_model_api="groq/llama-3.1-8b-instant")
    assert finding.walk[-1].code == "NOT_SAME_QUALITY"
    assert finding.walk[-1].ratio == pytest.approx(2.3)


def test_the_latency_limit_costs_throughput() -> None:
    finding = compared(slo_tok_s=250, tokens_per_month=SLIDE["tokens_per_month"] / 4)
    assert finding.walk[-1].code == "NO_SLO"
    assert finding.walk[-1].ratio == pytest.approx(175 / 4)


def test_a_speed_above_the_roofline_is_cut_to_it() -> None:
    finding = compared(claimed=1000, tok_s=10_000, model="llama-3.1-8b", gpu="rtx-4090", batch=1, tokens_per_month=None)
    step = finding.walk[1]
    assert step.code == "ABOVE_ROOFLINE"
    # Roughly 1,008 GB/s over 15 GB of weights that each token reads: 67 tok/s instead of 10,000
    assert step.ratio == pytest.approx(1000 * 67 / 10_000, rel=0.02)


def test_an_old_price_and_a_ratio_that_does_not_follow() -> None:
    finding = compared(claimed=500, api_usd_per_mtok=30)
    assert "STALE_PRICE" in finding.codes
    assert "ARITHMETIC" in finding.codes  # $30 over $0.10 is 300
    assert finding.walk[0].ratio == pytest.approx(300)
    assert finding.walk[1].ratio == pytest.approx(100)


def test_what_is_not_said_is_named() -> None:
    stated = {key: SLIDE[key] for key in ("usd_per_hour", "tok_s", "api", "input_tokens", "output_tokens")}
    finding = one(claimed=100, comparison=stated)
    assert set(finding.codes) == {"NO_SLO", "PEAK_VS_LIST", "MARGINAL_VS_FULL", "NOT_SAME_QUALITY"}


def test_the_example_in_the_documentation() -> None:
    audited = audit.audit(load_claims(EXAMPLE), on=ON)
    slide, million, fast = audited.findings
    assert slide.walk[0].ratio == pytest.approx(860, rel=1e-3)
    assert slide.verdict == "wrong"
    assert {"TOKEN_KIND_MISMATCH", "PEAK_VS_LIST", "MARGINAL_VS_FULL", "NOT_SAME_QUALITY"} <= set(slide.codes)
    assert million.corrected == pytest.approx((31.68, 31.68))
    assert fast.verdict == "unsupported"


def test_the_documentation_explains_every_code() -> None:
    page = (EXAMPLE.parents[1] / "cost.md").read_text(encoding="utf-8")
    assert [code for code in CODES if f"| `{code}` |" not in page] == []


@pytest.mark.parametrize(
    ("text", "quantization"),
    [
        ("70 tok/s with FP8 weights", "fp8"),
        ("in 4-bit on one card", "int4"),
        ("an AWQ copy", "awq"),
        ("FP8 or int4", "none"),  # it does not say which
        ("70 tok/s", "none"),
    ],
)
def test_a_claims_text_names_the_weights(text: str, quantization: str) -> None:
    assert quantization_in(text) == quantization


def test_a_comparison_judges_speed_by_the_weights_it_names() -> None:
    # Llama 3.1 70B on two H100: 6.7 TB/s over 140 GB of 16-bit weights is 48 tok/s, over 72 GB of FP8 weights 93.
    said = {
        "usd_per_hour": 4.0,
        "tok_s": 70,
        "api": "openai/gpt-4o",
        "input_tokens": 750,
        "output_tokens": 250,
        "model": "llama-3.1-70b",
        "gpu": "h100-80gb",
        "gpus": 2,
        "batch": 1,
    }
    codes = {}
    for how in (None, "fp8", "none"):
        stated = Comparison.model_validate({**said, "quantization": how})
        codes[how] = walk((0.63, 0.63), stated, text="with FP8 weights").codes
    assert "ABOVE_ROOFLINE" in codes["none"]
    assert codes[None] == codes["fp8"]
    assert "ABOVE_ROOFLINE" not in codes["fp8"]
