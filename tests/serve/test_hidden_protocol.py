"""The request body of /v1/hidden_states, layer numbers and limits, without a server."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import SettingsError
from serve.hidden_states import protocol
from serve.hidden_states.answer import PIECE_BYTES, check_finite, pieces
from serve.hidden_states.limits import Limits
from serve.hidden_states.protocol import FINAL_NORM, ApiError, Layer, resolve
from serve.hidden_states.request import Ask, parse


def ask(document: Any, num_layers: int = 4, max_prompts: int = 8) -> Ask:
    return parse(document, num_layers=num_layers, max_prompts=max_prompts)


def refusal(document: Any, **options: int) -> ApiError:
    with pytest.raises(ApiError) as caught:
        ask(document, **options)
    return caught.value


# The table of the interface: what is asked, and its index in Hugging Face's hidden_states of a model of 4 blocks
# (5 entries: embeddings, after blocks 0, 1 and 2, and after block 3 and the final norm).
@pytest.mark.parametrize(
    ("asked", "name", "tap", "hf_index"),
    [
        ("embeddings", "embeddings", 0, 0),
        (0, 0, 1, 1),
        (1, 1, 2, 2),
        (-2, 2, 3, 3),  # hidden_states[-2]
        (2, 2, 3, 3),
        (-4, 0, 1, 1),
        (-1, 3, 4, None),
        (3, 3, 4, None),
        ("final_norm", "final_norm", FINAL_NORM, 4),  # hidden_states[-1]
    ],
)
def test_layer_numbers_and_hugging_faces(asked: int | str, name: int | str, tap: int, hf_index: int | None):
    assert resolve(asked, 4) == Layer(name, tap, hf_index)


@pytest.mark.parametrize("asked", [4, -5, 10**30, True, 1.0, "-2", "norm", [1], {"a": 1}])
def test_a_layer_that_is_none_is_refused_by_name(asked: Any):
    with pytest.raises(ApiError) as caught:
        resolve(asked, 4)
    assert (caught.value.status, caught.value.param) == (400, "layer")
    assert len(caught.value.message) < 300


def test_the_guides_request_is_understood():
    guide = {"prompts": ["a", "b"], "layer": -2, "maxTokens": 1, "temperature": 0.0, "returnHiddenStates": True}
    snake = {"prompts": ["a", "b"], "layer": -2, "max_tokens": 1, "temperature": 0, "return_hidden_states": True}
    assert ask(guide) == ask(snake)
    assert ask(guide).layers == (Layer(2, 3, 3),)
    assert ask({"prompts": ["a", "b"]}).layers == ask(guide).layers


def test_prompts_may_be_texts_ids_and_lists_of_both():
    assert ask({"prompts": "a"}).prompts == ("a",)
    assert ask({"prompts": [1, 2]}).prompts == ((1, 2),)
    assert ask({"prompts": ["a", [1, 2]]}).prompts == ("a", (1, 2))
    chat = [{"role": "user", "content": "hi"}]
    assert ask({"messages": chat}).chats == (tuple(chat),)
    assert ask({"messages": [chat, chat]}).chats == (tuple(chat), tuple(chat))
    assert ask({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}).prompts == ()


def test_all_layers_are_the_blocks_in_order():
    assert [layer.layer for layer in ask({"prompts": "a", "layers": "all"}).layers] == [0, 1, 2, 3]
    several = ask({"prompts": "a", "layers": ["final_norm", -1, "embeddings"]})
    assert [layer.tap for layer in several.layers] == [FINAL_NORM, 4, 0]
    assert not several.one_layer
    assert not ask({"prompts": "a", "layers": [0]}).one_layer
    assert ask({"prompts": "a", "layers": 0}).one_layer


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ([], None),
        ("text", None),
        ({}, "prompts"),
        ({"prompts": None}, "prompts"),
        ({"prompts": []}, "prompts"),
        ({"prompts": 3}, "prompts"),
        ({"prompts": {"a": 1}}, "prompts"),
        ({"prompts": [1, "a"]}, "prompts"),
        ({"prompts": [True, False]}, "prompts[0]"),
        ({"prompts": ["a", 1]}, "prompts[1]"),
        ({"prompts": ["a", [1, "b"]]}, "prompts[1]"),
        ({"prompts": ["a", [1.5]]}, "prompts[1]"),
        ({"prompts": ["a", "\ud800"]}, "prompts[1]"),
        ({"prompts": "a", "messages": [{"role": "user", "content": "b"}]}, "prompts"),
        ({"messages": []}, "messages"),
        ({"messages": "a"}, "messages"),
        ({"messages": [{"content": "a"}]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [[{"role": "user", "content": 1}]]}, "messages[0][0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"prompts": "a", "layer": 4}, "layer"),
        ({"prompts": "a", "layer": "first"}, "layer"),
        ({"prompts": "a", "layers": []}, "layers"),
        ({"prompts": "a", "layers": [0, 9]}, "layers[1]"),
        ({"prompts": "a", "layers": [-1, 3]}, "layers"),
        ({"prompts": "a", "layers": [0] * 7}, "layers"),
        ({"prompts": "a", "layer": 0, "layers": [0]}, "layers"),
        ({"prompts": "a", "pooling": "max"}, "pooling"),
        ({"prompts": "a", "pooling": ["last"]}, "pooling"),
        ({"prompts": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"prompts": "a", "model": 1}, "model"),
        ({"prompts": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompts": "a", "maxTokens": "1"}, "max_tokens"),
        ({"prompts": "a", "temperature": -1}, "temperature"),
        ({"prompts": "a", "temperature": float("nan")}, "temperature"),
        ({"prompts": "a", "temperature": "0"}, "temperature"),
        ({"prompts": "a", "return_hidden_states": False}, "return_hidden_states"),
        ({"prompts": "a", "return_hidden_states": 1}, "return_hidden_states"),
        ({"prompts": "a", "max_tokens": 1, "maxTokens": 1}, "max_tokens"),
        ({"prompts": "a", "poling": "last"}, "poling"),
    ],
)
def test_what_is_wrong_is_named(document: Any, param: str | None):
    error = refusal(document)
    assert (error.status, error.param) == (400, param)
    assert error.document("id-1")["error"] | {"message": ""} == {
        "message": "",
        "type": "BadRequestError",
        "param": param,
        "code": 400,
        "request_id": "id-1",
    }


def test_an_unknown_field_gets_a_hint():
    assert "did you mean pooling?" in refusal({"prompts": "a", "poling": "last"}).message


def test_too_many_prompts_are_told_with_both_numbers():
    error = refusal({"prompts": ["a"] * 9})
    assert (error.status, error.param) == (413, "prompts")
    assert "9 prompts" in error.message
    assert "8 at most" in error.message


NONSENSE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(["prompts", "messages", "layer", "layers", "pooling", "encoding_format", "model", "maxTokens"])


@given(NONSENSE | st.dictionaries(FIELDS, NONSENSE, max_size=5))
def test_nothing_but_a_request_or_a_refusal_comes_of_any_document(document: Any):
    try:
        found = ask(document)
    except ApiError as error:
        assert error.status in {400, 413}
        json.dumps(error.document(), allow_nan=False)
    else:
        assert found.prompts or found.chats


def test_prompts_must_have_tokens_fit_the_context_and_be_known():
    def check(ids: list[int]) -> None:
        protocol.check_ids([[1], ids], vocabulary=10, max_model_len=4, field="prompts")

    check([0, 9, 5])
    for bad, word in [([], "no tokens"), ([1, 2, 3, 4], "4 tokens"), ([1, 10], "10 is no token"), ([-1], "-1")]:
        with pytest.raises(ApiError, match=word) as caught:
            check(bad)
        assert (caught.value.status, caught.value.param) == (400, "prompts[1]")


def test_the_size_of_an_answer_is_bounded_with_the_numbers():
    def check(pooling: Any, limit: int) -> None:
        protocol.check_size([10, 20], layers=3, hidden_size=8, pooling=pooling, max_values=limit, field="prompts")

    check("all", 30 * 3 * 8)
    check("mean", 2 * 3 * 8)
    with pytest.raises(ApiError, match="30 tokens × 3 layers × 8 hidden = 720 values") as caught:
        check("all", 719)
    assert (caught.value.status, caught.value.param) == (413, "pooling")
    with pytest.raises(ApiError, match="2 prompts × 3 layers × 8 hidden = 48 values") as caught:
        check("last", 47)
    assert caught.value.param == "prompts"


def test_a_layer_that_is_not_compiled_in_is_named_with_those_that_are():
    layers = [resolve(name, 4) for name in ("embeddings", -2, "final_norm")]
    protocol.check_compiled(layers, (0, 3), 4, "layers")
    with pytest.raises(ApiError, match=r"Layer 1 is not compiled in; this server has \['embeddings', 2\]") as caught:
        protocol.check_compiled([resolve(1, 4)], (0, 3), 4, "layer")
    assert (caught.value.status, caught.value.param) == (400, "layer")


def test_limits_come_from_the_environment():
    assert Limits.from_environment({}) == Limits()
    assert Limits.from_environment({"NBRIDGE_HIDDEN_MAX_VALUES": "100", "OTHER": "x"}).max_values == 100
    for bad in ("0", "-1", "many", "1.5", ""):
        with pytest.raises(SettingsError, match="NBRIDGE_HIDDEN_TIMEOUT_S"):
            Limits.from_environment({"NBRIDGE_HIDDEN_TIMEOUT_S": bad})


VALUES = np.array([[[0.1, -2.0, 3e-30]], [[1 / 3, 1e20, -0.0]]], dtype=np.float32)


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize("one_layer", [True, False])
def test_an_answer_gives_every_bit_back(encoding: Any, one_layer: bool):
    # A document whose own text looks like the place where the states go.
    document = {"model": '"hidden_states": null}', "note": {"hidden_states": None}}
    expected = [array[0] if one_layer else array for array in (VALUES, VALUES[:, :, :1])]
    parsed = json.loads(b"".join(pieces(document, expected, encoding)))
    assert {key: parsed[key] for key in document} == document
    for found, array in zip(parsed["hidden_states"], expected, strict=True):
        shape = array.shape
        if encoding == "base64":
            import base64

            back = np.frombuffer(base64.b64decode(found), "<f4").reshape(shape)
        else:
            back = np.array(found, dtype=np.float32)
        assert np.array_equal(back, array)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_nine_digits_are_enough(values: list[float]):
    array = np.array(values, dtype=np.float32)
    parsed = json.loads(b"".join(pieces({}, array)))  # one array stands for itself
    assert np.array_equal(np.array(parsed["hidden_states"], dtype=np.float32), array)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_a_large_answer_comes_in_pieces_that_are_small(encoding: Any):
    array = np.random.default_rng(0).standard_normal((3, 50, 1000), dtype=np.float32)
    made = list(pieces({"a": "ü"}, [array, array[:1]], encoding))
    # One row of 1,000 numbers, or one step of base64, may come on top of a full piece.
    assert len(made) > 10
    assert max(map(len, made)) < 3 * PIECE_BYTES
    parsed = json.loads(b"".join(made))
    found = parsed["hidden_states"][0]
    if encoding == "base64":
        import base64

        found = np.frombuffer(base64.b64decode(found), "<f4").reshape(array.shape)
    assert np.array_equal(np.array(found, dtype=np.float32), array)


def test_values_that_are_not_finite_are_an_error_naming_prompt_and_layer():
    good = np.ones((2, 3), dtype=np.float32)
    bad = good.copy()
    bad[1, 2] = np.inf
    check_finite([good, good], [0, "final_norm"])
    with pytest.raises(ApiError, match=r"prompts\[1\].*layer final_norm is not finite") as caught:
        check_finite([good, bad], [0, "final_norm"])
    assert caught.value.status == 500
