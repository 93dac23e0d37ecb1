"""What clouds answer: usage in many shapes, streams and errors."""

import json
from typing import Any

import pytest
from genai_prices import extract_usage

from gateway.cloud.answers import Stream, refusal, whole
from gateway.cloud.usage import Used, joined, read

# Bodies that providers sent to others: (usage as told, input, output, cached, dollars as told).
TOLD = [
    ({"usage": {"prompt_tokens": 425, "completion_tokens": 19, "total_tokens": 444}}, 425, 19, 0, None),
    # Azure, with its details.
    ({"usage": {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 0}, "prompt_tokens": 8,
                "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 0}, "total_tokens": 13}}, 8, 5, 0, None),
    # Anthropic: cached input stands beside the input.
    ({"usage": {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "input_tokens": 744,
                "output_tokens": 53, "service_tier": "standard"}}, 744, 53, 0, None),
    ({"usage": {"input_tokens": 3, "cache_read_input_tokens": 2000, "cache_creation_input_tokens": 74,
                "output_tokens": 288}}, 2077, 288, 2000, None),
    # OpenAI's Responses: cached input stands in the input.
    ({"usage": {"input_tokens": 197, "input_tokens_details": {"cached_tokens": 192}, "output_tokens": 101,
                "total_tokens": 298}}, 197, 101, 192, None),
    # xAI: what it thought (233) is in the sum only; ticks of a ten-thousand-millionth of a dollar.
    ({"usage": {"prompt_tokens": 37, "completion_tokens": 530, "total_tokens": 800, "cost_in_usd_ticks": 37756000,
                "prompt_tokens_details": {"cached_tokens": 8}}}, 37, 763, 8, 0.0037756),
    # Gemini, through its OpenAI door: likewise.
    ({"usage": {"completion_tokens": 12, "prompt_tokens": 35, "total_tokens": 109}}, 35, 74, 0, None),
    # DeepSeek's cache.
    ({"usage": {"prompt_tokens": 20, "completion_tokens": 7, "prompt_cache_hit_tokens": 16,
                "prompt_cache_miss_tokens": 4, "total_tokens": 27}}, 20, 7, 16, None),
    # Groq: times beside, and in the last piece of a stream under its own name.
    ({"x_groq": {"id": "req_01", "usage": {"queue_time": 0.06, "prompt_tokens": 18, "completion_tokens": 439,
                                           "total_tokens": 457}}}, 18, 439, 0, None),
    # OpenRouter and Perplexity say what they charge; 0 is no price (litellm#37923).
    ({"usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12, "cost": 0.00014}}, 10, 2, 0, 0.00014),
    ({"usage": {"prompt_tokens": 6, "completion_tokens": 9, "cost": {"total_cost": 0.006}}}, 6, 9, 0, 0.006),
    ({"usage": {"prompt_tokens": 6, "completion_tokens": 9, "cost": 0}}, 6, 9, 0, None),
    ({"usage": {"prompt_tokens": 8, "total_tokens": 8}}, 8, 0, 0, None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "input_tokens", "output", "cached", "usd"), TOLD)
def test_usage_in_many_shapes(
    body: dict[str, Any], input_tokens: int, output: int, cached: int, usd: float | None
) -> None:
    found = read(body)
    assert found == Used(input_tokens, output, cached, usd)


@pytest.mark.parametrize(
    ("provider", "flavour", "key"), [("openai", "chat", "completion_tokens"), ("anthropic", "default", "output_tokens")]
)
def test_usage_is_what_genai_prices_reads(provider: str, flavour: str, key: str) -> None:
    seen = 0
    for body, input_tokens, output, cached, _ in TOLD:
        usage = body.get("usage", {})
        thoughts = usage.get("total_tokens", 0) > usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)
        if key not in usage or "input_tokens_details" in usage or thoughts or "prompt_cache_hit_tokens" in usage:
            continue  # it leaves thoughts out
        seen += 1
        model = {"openai": "gpt-4o", "anthropic": "claude-sonnet-4-5"}[provider]
        theirs = extract_usage({"model": model, **body}, provider_id=provider, api_flavor=flavour).usage
        assert (theirs.input_tokens, theirs.output_tokens or 0, theirs.cache_read_tokens or 0) == (
            input_tokens,
            output,
            cached,
        )
    assert seen >= 2


@pytest.mark.parametrize(
    "body",
    [None, [], {}, {"usage": None}, {"usage": {}},
     *({"usage": {"prompt_tokens": value}} for value in ("9", -1, True, 1e12, float("nan")))],
)  # fmt: skip
def test_no_usage_is_none(body: object) -> None:
    assert read(body) is None


def event(document: object, gap: str = "\n\n") -> bytes:
    return f"data: {json.dumps(document)}{gap}".encode()


def word(text: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more}


def test_a_stream_is_passed_but_for_the_usage_nobody_asked_for() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    azure = event({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]})
    whole_stream = azure + event(word("a", usage=None)) + event(word("b"), "\r\n\r\n")
    data = whole_stream + event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n"
    for size in (1, 7, len(data)):
        stream = Stream(drop_usage=True)
        passed = b"".join(e for at in range(0, len(data), size) for e in stream.feed(data[at : at + size]))
        assert passed == whole_stream
        assert stream.ended
        assert stream.used(1) == Used(9, 2)
    asked = Stream(drop_usage=False)
    assert b"".join(asked.feed(data)) == data.removesuffix(b"data: [DONE]\n\n")


def test_streams_without_usage_or_end_are_estimated() -> None:
    stream = Stream(drop_usage=True)
    list(stream.feed(event(word("abc")) + event(word("defghi")) + event(word(""))))
    assert stream.used(50) == Used(50, 3, estimated=True)  # nine bytes
    thinking = {"choices": [{"delta": {"reasoning_content": "x" * 30, "role": "assistant"}}]}
    tools = {"choices": [{"delta": {"tool_calls": [{"id": "call_1", "function": {"arguments": '{"a": 1}'}}]}}]}
    list(stream.feed(event(thinking) + event(tools)))
    assert stream.used(50).output == 16  # 9 + 30 + 8 bytes
    # Half of a count, and cut off: at least what was seen.
    half = Stream(drop_usage=True)
    list(half.feed(event(word("x" * 300, usage={"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}))))
    assert half.used(50) == Used(8, 100, estimated=True)
    assert joined(Used(5, 1), Used(0, 7)) == Used(5, 7)
    # A last event without a gap behind it.
    assert list(half.feed(b"data: {}")) == []
    assert half.rest() == b"data: {}"


def test_an_answer_without_usage_is_estimated() -> None:
    message = {"role": "assistant", "content": "x" * 30, "tool_calls": [{"function": {"arguments": "y" * 30}}]}
    assert whole({"choices": [{"message": message}]}, 5, 999) == Used(5, 20, estimated=True)
    assert whole({"data": [{"embedding": [1]}]}, 5, 999) == Used(5, 0, estimated=True)
    assert whole({"odd": 1}, 5, 999).output == 333


@pytest.mark.parametrize(
    ("status", "body", "ours", "code", "words"),
    [
        (401, {"error": {"message": "Incorrect API key provided: SECRET"}}, 502, "cloud_key_refused", "gateway's key"),
        (403, "<html>Forbidden</html>", 502, "cloud_key_refused", "does not let the gateway's key"),
        (402, {"error": {"message": "Insufficient credits"}}, 503, "cloud_without_credit", "no credit left"),
        (404, {"error": {"code": "DeploymentNotFound"}}, 502, "cloud_without_model", "has no model gpt-4o"),
        (429, {"type": "error", "error": {"message": "Slow down"}}, 429, "cloud_rate_limited", "Slow down"),
        (400, [{"error": {"message": "too large, SECRET"}}], 400, "cloud_refused", "too large, …"),
        (422, {"object": "error", "message": "bad role"}, 422, "cloud_refused", "bad role"),
        (422, {"detail": [{"loc": ["body"]}]}, 422, "cloud_refused", "nothing that tells why"),
        (500, "oops SECRET", 502, "cloud_failed", "HTTP 500: oops …"),
        (502, "<html>", 502, "cloud_failed", "no words that are JSON"),
        (529, {"error": {"message": "Overloaded"}}, 503, "cloud_failed", "Overloaded"),
        (301, "", 502, "cloud_failed", "HTTP 301"),
    ],
)  # fmt: skip
def test_errors_of_providers(status: int, body: object, ours: int, code: str, words: str) -> None:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    found, said = refusal(status, raw, cloud="c", asked="gpt-4o", key="SECRET")
    assert found == ours
    assert said["error"]["code"] == code
    assert words in said["error"]["message"]
    assert set(said["error"]) == {"message", "type", "param", "code"}
    assert "SECRET" not in json.dumps(said)
