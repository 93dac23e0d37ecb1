from reports import names


def test_names_in_a_sentence() -> None:
    assert names.listing(["a"]) == "a"
    assert names.listing(["a", "b", "c"]) == "a, b and c"
    assert names.listing(list("abcdefgh"), 4) == "a, b, c and 5 more"


def test_short_names_stay_distinct() -> None:
    long = ("a" * 50 + "x" + "b" * 50, "a" * 50 + "y" + "b" * 50, "int8")
    short = names.short_names(long, 20)
    assert len(set(short.values())) == 3
    assert all(len(text) <= 20 for text in short.values())
    assert short["int8"] == "int8"
