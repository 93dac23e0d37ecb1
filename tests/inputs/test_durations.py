import pytest

from inputs.durations import seconds_of


@pytest.mark.parametrize(
    ("text", "value_s"),
    [
        ("0.02", 0.02),
        ("20ms", 0.02),
        ("20 ms", 0.02),
        (" 20MS ", 0.02),
        (".5s", 0.5),
        ("5.", 5.0),
        ("250us", 250e-6),
        ("250µs", 250e-6),
        ("2min", 120.0),
        ("1h", 3600.0),
        ("1_500ms", 1.5),
        ("2e-2", 0.02),
    ],
)
def test_a_duration_is_read_in_the_unit_that_it_names_else_in_seconds(text, value_s):
    assert seconds_of(text) == pytest.approx(value_s)


@pytest.mark.parametrize("text", ["", "ms", "20 minutes", "-1", "1,5", "nan", "inf", "0x10", "20ms ms", "1e", "٢"])
def test_what_is_no_duration_is_refused_with_what_would_work(text):
    with pytest.raises(ValueError, match=r"write 20ms, 0\.02"):
        seconds_of(text)


@pytest.mark.parametrize("text", ["0", "0ms", "1e400"])
def test_a_limit_of_time_is_above_0_and_finite(text):
    with pytest.raises(ValueError, match="above 0"):
        seconds_of(text)


def test_a_number_that_is_surely_meant_in_milliseconds_is_refused_with_the_question():
    with pytest.raises(ValueError, match=r"'20' is 20 s, .*\(2 s at most\); 20ms\?"):
        seconds_of("20", longest_s=2)
    with pytest.raises(ValueError, match=r"\(2 s at most\)$"):
        seconds_of("20s", longest_s=2)
    assert seconds_of("2", longest_s=2) == 2
