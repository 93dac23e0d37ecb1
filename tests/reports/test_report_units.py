import pytest

from reports import units


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
    assert units.number(value) == text


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
    assert units.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (512, "512 B"), (101 * 1024**2, "101 MiB"), (1023.9 * 1024**2, "1.00 GiB")]
)
def test_byte_sizes_are_powers_of_two(value: float | None, text: str) -> None:
    assert units.byte_size(value) == text


def test_ratio_listing_and_words() -> None:
    assert units.ratio(5.12) == "5.1 ×"
    assert units.ratio(0.4) == "0.40 ×"
    assert units.listing(["a"]) == "a"
    assert units.listing(["a", "b", "c"]) == "a, b and c"
    assert units.listing(list("abcdefgh"), 4) == "a, b, c and 5 more"
    assert units.in_words(9) == "nine"
    assert units.in_words(12) == "12"
    assert units.plural(1, "cell") == "1 cell"


def test_a_checks_value_is_shown_in_its_unit() -> None:
    assert units.in_unit(0.02, "s") == "20.0 ms"
    assert units.in_unit(0.01, "share") == "1.0 %"
    assert units.in_unit(3, None) == "3"
    assert units.in_unit(None, "s") == "–"


def test_short_names_stay_distinct() -> None:
    names = ("a" * 50 + "x" + "b" * 50, "a" * 50 + "y" + "b" * 50, "int8")
    short = units.short_names(names, 20)
    assert len(set(short.values())) == 3
    assert all(len(text) <= 20 for text in short.values())
    assert short["int8"] == "int8"
