import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.errors import TooFewPrompts
from alignment.split import shortage, split

HASHES = [f"h{index}" for index in range(200)]


def test_shares_of_distinct_prompts():
    parts = split(HASHES)
    assert [len(parts.train), len(parts.validation), len(parts.test)] == [140, 20, 40]
    assert sorted(parts.fit + parts.test) == list(range(200))


@given(st.permutations(range(200)), st.lists(st.integers(0, 199), max_size=60), st.integers(0, 5))
def test_no_prompt_is_on_both_sides_however_often_it_comes(order, again, seed):
    hashes = [HASHES[index] for index in [*order, *again]]
    parts = split(hashes, seed=seed)
    prompts = [{hashes[row] for row in rows} for rows in (parts.train, parts.validation, parts.test)]
    assert not (prompts[0] & prompts[1] or prompts[0] & prompts[2] or prompts[1] & prompts[2])
    assert sorted(parts.fit + parts.test) == list(range(len(hashes)))
    # The order of the rows does not move a prompt to another part.
    assert prompts[2] == {HASHES[row] for row in split(HASHES, seed=seed).test}


def test_another_seed_is_another_split():
    assert split(HASHES, seed=1).test != split(HASHES, seed=2).test


def test_too_few_say_the_numbers():
    with pytest.raises(TooFewPrompts, match=r"50 distinct prompts leave 35 to fit on, 5 .* and 10 to judge") as caught:
        split(HASHES[:50] * 10)
    assert caught.value.exit_code == 2


def test_shortage_of_prompts_for_a_width():
    assert shortage(160, 160, 0.2) is None
    assert "160 prompts fit a map of width 4096" in shortage(160, 4096, 0.2)
    assert "at least 5120 prompts" in shortage(160, 4096, 0.2)  # of which 80 % are 4,096
