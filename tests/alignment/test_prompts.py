import itertools

import pytest

from alignment.errors import BadInput
from alignment.prompts import read_prompts, set_sha256, sha256, standard_library_prompts


@pytest.mark.slow
def test_default_prompts_are_many_distinct_and_always_the_same():
    found = standard_library_prompts(3000)
    assert len(set(found)) == 3000 == len(found)
    assert found == standard_library_prompts(3000) and found[:100] == standard_library_prompts(100)
    assert all(20 <= len(prompt) <= 260 for prompt in found)


def test_pieces_do_not_begin_one_another():
    found = sorted(standard_library_prompts(3000))
    starts = sum(after.startswith(before) for before, after in itertools.pairwise(found))
    assert starts <= 3  # only where the library itself says the same twice


def test_more_than_there_are(tmp_path):
    (tmp_path / "m.py").write_text("x = 1  # a module with little to say about anything at all\n" * 5)
    with pytest.raises(BadInput, match="100 prompts were asked for"):
        standard_library_prompts(100, tmp_path)


def test_prompt_files(tmp_path):
    text, lines = tmp_path / "p.txt", tmp_path / "p.jsonl"
    text.write_text("one\n\n two \n")
    assert read_prompts(text) == ["one", " two "]
    lines.write_text('"one\\ntwo"\n{"prompt": "three"}\n{"text": "four", "id": 1}\n')
    assert read_prompts(lines) == ["one\ntwo", "three", "four"]
    for broken, words in (
        ("{", "line 1 is no JSON"),
        ('"a"\n{"x": 1}', "line 2 must be a text"),
        ('""', "line 1 must"),
    ):
        lines.write_text(broken)
        with pytest.raises(BadInput, match=words):
            read_prompts(lines)
    text.write_text("\n")
    with pytest.raises(BadInput, match="no prompts"):
        read_prompts(text)
    with pytest.raises(BadInput, match="cannot be read"):
        read_prompts(tmp_path / "none.txt")


def test_hash_of_a_set_has_no_order():
    assert set_sha256([sha256("a"), sha256("b")]) == set_sha256([sha256("b"), sha256("a")]) != set_sha256([sha256("a")])
