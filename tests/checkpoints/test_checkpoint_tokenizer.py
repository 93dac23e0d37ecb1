import json

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from checkpoints import tokenizer

ASCII = "def main(argv):\n\treturn 'hello, world 42' # ~{}[]\r\n"


@pytest.fixture(scope="module")
def padded() -> Tokenizer:
    return Tokenizer.from_str(json.dumps(tokenizer.padded(32_000)))


def test_committed_tokenizer_has_its_special_tokens():
    committed = Tokenizer.from_file(str(tokenizer.TOKENIZER_PATH))
    assert committed.get_vocab_size() == tokenizer.VOCAB_SIZE
    assert committed.token_to_id(tokenizer.EOS) == tokenizer.EOS_ID
    assert committed.decode(committed.encode("naïve ☃").ids) == "naïve ☃"


def test_every_id_streams_text_of_its_own(padded):
    assert padded.get_vocab_size() == 32_000
    stream = DecodeStream(ids=[70, 71], skip_special_tokens=True)
    silent = [token for token in range(32_000) if not stream.step(padded, token)]
    assert silent == []


def test_every_id_decodes_alone(padded):
    assert all(padded.decode([token], skip_special_tokens=True) for token in range(32_000))


def test_no_text_reaches_a_filler_or_a_marker(padded):
    vocabulary = padded.get_vocab()
    fillers = [name.replace("Ġ", " ") for name, token in vocabulary.items() if token >= tokenizer.VOCAB_SIZE]
    text = "".join(fillers[:3000]) + "<s></s><pad> 你好 ☃ Ġt1024 " + ASCII
    reached = padded.encode(text).ids
    assert max(reached) < tokenizer.VOCAB_SIZE
    assert not {tokenizer.BOS_ID, tokenizer.EOS_ID, tokenizer.PAD_ID} & set(reached)


def test_ascii_text_survives(padded):
    assert padded.decode(padded.encode(ASCII).ids) == ASCII


def test_other_text_encodes_without_loss_of_length(padded):
    assert len(padded.encode("你好").ids) == 6  # two characters of three bytes


def test_a_vocabulary_too_small_is_refused():
    with pytest.raises(ValueError, match="1023"):
        tokenizer.padded(1023)


def test_split_is_by_path_and_leaves_tests_out(tmp_path):
    for name in ("a.py", "b.py", "test/c.py", "d.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    (tmp_path / "broken.py").write_bytes(b"\xff\xfe")
    training, held_out = tokenizer.standard_library_split(tmp_path)
    assert sorted(training + held_out) == ["a.py", "b.py"]


def test_chat_template_ends_with_the_assistants_turn():
    from jinja2 import Template

    messages = [{"role": "user", "content": "hi"}]
    render = Template(tokenizer.CHAT_TEMPLATE).render
    assert render(messages=messages, add_generation_prompt=True) == "user: hi\nassistant:"
    assert render(messages=messages) == "user: hi\n"
