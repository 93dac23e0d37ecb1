"""A case: what is left out, what is refused, and what the message offers."""

from datetime import date
from pathlib import Path

import pytest
from made_cases import made_case

from planning.catalogs import load
from planning.cost.assembly import assemble, parse_value
from planning.cost.assumptions import BY_HAND, EXAMPLE, changed, load_case, parse_case, quantities, read_document
from planning.errors import BadCatalog, BadInput, MissingMeasurement, UnknownName

SPEED = {"output_tok_s": 500}


def test_every_default_has_a_source_and_a_date() -> None:
    for kind in ("rent", "buy"):
        case = parse_case({**read_document(None), "hosting": {"kind": kind}}, source=EXAMPLE)
        for name, quantity in quantities(case).items():
            assert quantity.source, name
            assert quantity.date, name
            assert quantity.unit, name


def test_a_case_is_filled_up_but_never_with_a_speed() -> None:
    case = parse_case({"inputs": {"output_tok_s": 500}}, source="mine.toml")
    assert case.inputs["output_tok_s"].mode == 500
    assert "slo_output_tok_s" not in case.inputs
    assert case.inputs["wage_usd_per_hour"].source.startswith("assumed")
    assert case.hosting.gpu is None
    with pytest.raises(MissingMeasurement, match="does not say how fast a replica is"):
        parse_case({}, source="mine.toml")


def test_with_only_the_goodput_full_load_is_at_least_that() -> None:
    case = parse_case({"inputs": {"slo_output_tok_s": 300}}, source="mine.toml")
    assert case.inputs["output_tok_s"].mode == 300


def test_a_quantity_is_a_number_a_value_or_a_range() -> None:
    case = parse_case(
        {
            "inputs": {
                "output_tok_s": {"low": 400, "mode": 450, "high": 500, "source": "run 12", "date": date(2026, 5, 3)},
                "wage_usd_per_hour": 80,
                "hours_per_day": {"value": 8, "source": "office"},
            }
        },
        source="mine.toml",
    )
    assert case.inputs["output_tok_s"].date == date(2026, 5, 3)
    assert case.inputs["wage_usd_per_hour"].is_point
    assert case.inputs["wage_usd_per_hour"].source is None
    assert (case.inputs["hours_per_day"].mode, case.inputs["hours_per_day"].source) == (8, "office")
    assert case.inputs["wage_usd_per_hour"].unit == "USD/h"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rent_usd_per_gpu_hour", -0.44, "rent_usd_per_gpu_hour = -0.44 cannot be: rent of one GPU must be at least 0"),
        ("hours_per_day", 25, "must be above 0 and at most 24"),
        ("hours_per_day", 0, "must be above 0"),
        ("output_tok_s", 0, "must be above 0"),
        ("headroom", 1.2, "above 0 and at most 1"),
        ("tokens_per_month", 0, "must be above 0"),
        ("peak_to_mean", 0.5, "at least 1"),
        ("lost_share", 1, "at least 0 and below 1"),
        ("rent_discount_share", 1.0, "below 1"),
        ("wage_usd_per_hour", {"low": 90, "mode": 70, "high": 120}, "must not decrease"),
        ("wage_usd_per_hour", "high", "wage_usd_per_hour"),
        ("wage_usd_per_hour", {"low": 1, "mode": 2, "hihg": 3}, "hihg"),
        ("wage_usd_per_hour", float("nan"), "finite"),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_work(name: str, value: object, said: str) -> None:
    with pytest.raises(BadInput, match=said.replace(".", r"\.")):
        parse_case({"inputs": {**SPEED, name: value}}, source="mine.toml")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"inputs": {**SPEED, "wage_usd_per_hr": 3}}, "Did you mean `wage_usd_per_hour`"),
        ({"inputs": SPEED, "hostin": {}}, "Did you mean `hosting`"),
        ({"inputs": SPEED, "hosting": {"kind": "lease"}}, "'rent' or 'buy'"),
        ({"inputs": SPEED, "hosting": {"gpus_per_replica": 0}}, "greater than or equal to 1"),
        ({"inputs": SPEED, "hosting": 3}, "must be a table"),
        ({"inputs": SPEED, "requests": {}}, r"\[\[requests\]\]"),
        (
            {"inputs": SPEED, "requests": [{"input_tokens": 10, "output_tokens": 0}]},
            "output tokens of a request must be",
        ),
        ({"inputs": SPEED, "requests": [{"input_tokens": 1, "output_tokens": 1}] * 2}, "the same name"),
        ({"inputs": SPEED, "api": {"modle": "gpt-4o"}}, "api.modle"),
        (
            {"inputs": {**SPEED, "idle_power_w": 500, "load_power_w": 100}, "hosting": {"kind": "buy"}},
            "idle_power_w is above load_power_w",
        ),
    ],
)
def test_a_wrong_case_is_refused(document: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parse_case(document, source="mine.toml")


def test_inputs_of_the_other_kind_of_hosting_are_left_out() -> None:
    assert "hardware_usd" not in made_case("rent").inputs
    assert "rent_usd_per_gpu_hour" not in made_case("buy").inputs


def test_changed_marks_what_was_set_by_hand() -> None:
    case = changed(made_case(), {"wage_usd_per_hour": (40, 70, 120), "request.output_tokens": 300})
    assert case.inputs["wage_usd_per_hour"].high == 120
    assert case.inputs["wage_usd_per_hour"].source == BY_HAND
    assert case.requests[0].output_tokens.mode == 300


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("wage", 3, "Did you mean `wage_usd_per_hour`"),
        ("chat.output_tokens", 3, "request.output_tokens"),
        ("hardware_usd", 3, "not used when hosting.kind is 'rent'"),
        ("hours_per_day", 30, "at most 24"),
    ],
)
def test_a_change_that_cannot_be_is_refused(name: str, value: float, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        changed(made_case(), {name: value})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadCatalog, match="no such file"):
        load_case(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = ")
    with pytest.raises(BadCatalog, match="not readable as TOML"):
        load_case(tmp_path / "bad.toml")


def test_values_from_the_command_line() -> None:
    assert parse_value("wage_usd_per_hour=70") == ("wage_usd_per_hour", 70.0)
    assert parse_value("tokens_per_month=1e6:2e6:.5e7") == ("tokens_per_month", (1e6, 2e6, 5e6))
    for bad in ("wage", "wage=x", "wage=1:2", "wage=1:2:3:4"):
        with pytest.raises(BadInput, match="NAME=LOW:LIKELY:HIGH"):
            parse_value(bad)


def test_a_gpu_brings_its_rent_or_its_machine() -> None:
    catalog = load()
    rented = assemble({"inputs": SPEED}, source="mine.toml", catalog=catalog, gpu="a100-40gb", gpus=2, values={})
    gpu = catalog.gpu("a100-40gb")
    assert rented.inputs["rent_usd_per_gpu_hour"].mode == gpu.rent_usd_per_hour.mode
    assert rented.hosting.gpus_per_replica == 2
    assert "Lambda Labs" in rented.inputs["rent_usd_per_gpu_hour"].source
    bought = assemble({"inputs": SPEED}, source="mine.toml", catalog=catalog, gpu="rtx-4090", hosting="buy")
    assert bought.inputs["hardware_usd"].mode == 2850
    assert bought.inputs["upkeep_usd_per_month"].mode == 20
    with pytest.raises(BadInput, match="no machine with 1 × a100-40gb"):
        assemble({"inputs": SPEED}, source="mine.toml", catalog=catalog, gpu="a100-40gb", hosting="buy")
    with pytest.raises(UnknownName, match="rtx-4090"):
        assemble({"inputs": SPEED}, source="mine.toml", catalog=catalog, gpu="rtx-4900")


def test_the_examples_speed_is_not_lent_to_another_gpu() -> None:
    with pytest.raises(MissingMeasurement, match="How fast a replica on a10g is"):
        assemble(read_document(None), source=EXAMPLE, catalog=load(), gpu="a10g")
    case = assemble(
        read_document(None), source=EXAMPLE, catalog=load(), gpu="a10g", values={"output_tok_s": (200, 300, 400)}
    )
    assert case.inputs["output_tok_s"].mode == 300


def test_the_example_case_of_the_documentation_can_be_read() -> None:
    case = load_case(Path(__file__).parents[2] / "docs" / "examples" / "case.toml")
    assert [kind.name for kind in case.requests] == ["question", "summary"]
    # The mean request: (4 · 900 + 7000) / 5 input and (4 · 200 + 300) / 5 output tokens
    assert case.speed_mix == pytest.approx((2120, 220))
    assert all(quantity.source for quantity in quantities(case).values())


def test_a_case_without_a_price_takes_its_gpus_or_is_refused() -> None:
    catalog = load()
    case = assemble({"inputs": SPEED, "hosting": {"gpu": "l4"}}, source="mine.toml", catalog=catalog)
    assert case.inputs["rent_usd_per_gpu_hour"].mode == catalog.gpu("l4").rent_usd_per_hour.mode
    with pytest.raises(BadInput, match=r"nothing says what the hardware costs\. Give rent_usd_per_gpu_hour"):
        assemble({"inputs": SPEED}, source="mine.toml", catalog=catalog)
    with pytest.raises(BadInput, match="Give hardware_usd"):
        assemble({"inputs": SPEED}, source="mine.toml", catalog=catalog, hosting="buy")
    own = assemble({"inputs": {**SPEED, "rent_usd_per_gpu_hour": 2}}, source="mine.toml", catalog=catalog)
    assert own.inputs["rent_usd_per_gpu_hour"].mode == 2
