import pytest

from inputs import quantities


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0, "0"),
        (0.99996, "1.00"),
        (223.6, "224"),
        (43.81, "43.8"),
        (12345.6, "12,346"),
    ],
)
def test_number_keeps_three_digits_and_never_turns_missing_into_zero(value: float | None, text: str) -> None:
    assert quantities.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0 s"),
        (4e-4, "400 µs"),
        (0.0123, "12.3 ms"),
        (0.99999, "1.00 s"),
        (88.34, "88.3 s"),
        (412.0, "412 s"),
    ],
)
def test_seconds_pick_the_unit_that_reads_best(value: float | None, text: str) -> None:
    assert quantities.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (512, "512 B"), (101 * 1024**2, "101 MiB"), (1023.9 * 1024**2, "1.00 GiB")]
)
def test_byte_sizes_are_powers_of_two(value: float | None, text: str) -> None:
    assert quantities.byte_size(value) == text


def test_ratio_and_words() -> None:
    assert quantities.ratio(5.12) == "5.1 ×"
    assert quantities.ratio(0.4) == "0.40 ×"
    assert quantities.in_words(9) == "nine"
    assert quantities.in_words(12) == "12"
    assert quantities.plural(1, "cell") == "1 cell"


def test_a_checks_value_is_shown_in_its_unit() -> None:
    assert quantities.in_unit(0.02, "s") == "20.0 ms"
    assert quantities.in_unit(0.01, "share") == "1.0 %"
    assert quantities.in_unit(3, None) == "3"
    assert quantities.in_unit(None, "s") == "–"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (None, 3, "–"),
        (2.50, 3, "2.5"),
        (80.0, 3, "80"),
        (999.7, 3, "1,000"),  # not 1e+03, as with Python's g
        (1234.5, 3, "1,234"),
        (0.000012, 2, "0.000012"),
        (1.2e-10, 2, "1.2e-10"),
        (0, 3, "0"),
    ],
)
def test_zeros_at_the_end_of_a_fraction_are_left_out(value: float | None, digits: int, text: str) -> None:
    assert quantities.trimmed(value, digits) == text


@pytest.mark.parametrize(
    ("value", "scales", "text"),
    [
        (0, quantities.THOUSANDS, "0 "),
        (999.7, quantities.THOUSANDS, "1 k"),
        (59.98, quantities.TIME, "1 min"),
        (3e-9, quantities.TIME, "0.003 µs"),
        (-5 * 2**40, quantities.BINARY, "-5 TiB"),
        (float("inf"), quantities.TIME, "–"),
    ],
)
def test_a_scale_is_chosen_by_what_is_read(value: float, scales: quantities.Scales, text: str) -> None:
    assert quantities.scaled(value, scales, quantities.trimmed) == text


def test_shares_next_to_nothing_have_no_row_of_zeros() -> None:
    assert [quantities.share(value) for value in (0.051, 0.0, 5e-9, -5e-9, None)] == [
        "5.1 %",
        "0 %",
        "< 0.001 %",
        "> −0.001 %",
        "–",
    ]
