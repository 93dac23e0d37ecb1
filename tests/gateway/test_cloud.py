"""What the door to clouds knows without a network: usage, prices, money over days, what is sent, what may not leave."""

import json
import random
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from genai_prices import extract_usage

from gateway.cloud import asking
from gateway.cloud.answers import Stream, closed, refusal, whole
from gateway.cloud.ledger import FILE, NANO, Ledger, Limits, next_opening, spent, totals
from gateway.cloud.prices import Priced
from gateway.cloud.redaction import redacted
from gateway.cloud.usage import Used, joined, read
from gateway.clouds import Cloud
from gateway.errors import SettingsError
from gateway.settings import parse

C = {"name": "c", "url": "https://api.example.com/v1", "models": {"big": "gpt-4o"}, "provider": "openai",
     "api_key_env": "K", "usd_per_day": 1.0}  # fmt: skip


def cloud(**more: Any) -> Cloud:
    return parse({"cloud": [{**C, **more}]}, "g").cloud[0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"usd_per_day": None}, "c may spend without end: set usd_per_day or usd_per_month"),
        ({"usd_per_day": 0.0}, "cloud.0.usd_per_day = 0.0"),
        ({"url": "http://api.example.com/v1"}, "the key would go over the network in the clear"),
        ({"url": "api.example.com"}, "expected a whole address"),
        ({"url": "https://u:p@api.example.com"}, "may not hold a user or password"),
        ({"models": {}}, "cloud.0.models"),
        ({"models": {"a b": "x"}}, "a name has letters"),
        ({"models": {"a": ""}}, "is no name of a provider's model"),
        ({"api_key_env": "sk-abc-def"}, "must be the NAME of an environment variable"),
        ({"key_header": "a b"}, "expected the name of a header"),
        ({"prices": {"other": {"input": 1.0}}}, "prices of 'other', which is none of its models"),
        ({"prices": {"big": {"input": 2500.0, "output": 1.0}}}, "cloud.0.prices.big.input = 2500.0"),
        ({"prices": {"big": {"input": 0.0, "output": 1.0}}}, "cloud.0.prices.big.input = 0.0"),
        ({"prices": {"big": {"input": 5.0, "output": 0.4}}}, "are they mixed up?"),
        ({"redact": ["mail"]}, "cloud.0.redact.0 = 'mail'"),
        ({"redact_patterns": ["("]}, "is no regular expression"),
        ({"redact_patterns": ["a*"]}, "everything would be replaced"),
        ({"usd_per_dya": 3.0}, "did you mean usd_per_day?"),
    ],
)
def test_bad_clouds_are_refused(more: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        cloud(**more)
    assert words in str(refused.value)
    assert "sk-abc" not in str(refused.value)


def test_models_of_clouds_are_their_own() -> None:
    for other in ({"server": [{"name": "a", "url": ":1", "model": "big"}]}, {"cloud": [C, {**C, "name": "d"}]}):
        with pytest.raises(SettingsError, match="big"):
            parse({"cloud": [C], **other}, "g")


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


def test_prices() -> None:
    found = Priced(cloud(), "big")
    # gpt-4o: 2.5 in, 1.25 cached, 10 out per million.
    assert found.nano_usd(Used(1000, 100, 400)) == (600 * 2_500 + 400 * 1_250 + 100 * 10_000)
    assert found.nano_usd(Used(1000, 100, 400, told_usd=0.5)) == NANO // 2
    assert found.nano_usd(Used(1000, 100, 400, told_usd=0.000001)) == 3_000_000
    given = Priced(cloud(models={"big": "mine"}, provider=None, prices={"big": {"input": 1.0, "output": 2.0}}), "big")
    assert given.nano_usd(Used(10, 10, 5)) == 10 * 1_000 + 10 * 2_000
    reads = Priced(cloud(models={"big": "text-embedding-3-small"}), "big")
    assert not reads.writes
    assert reads.nano_usd(Used(1000)) == 20_000


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"models": {"big": "gpt-4oo"}}, "no price of 'big' is known"),
        ({"provider": "opanai"}, "Did you mean openai"),
        ({"models": {"big": "phi-4-reasoning:free"}, "provider": "azure"}, "no price of 'big' is known"),
    ],
)
def test_a_price_that_is_missing_or_absurd_refuses_the_route(more: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Priced(cloud(**more), "big")
    assert words in str(refused.value)
    assert "prices = {" in str(refused.value) or "by hand" in str(refused.value)


def test_a_price_of_nothing_refuses_the_route(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.cloud import prices
    from planning.cost.api_prices import Rate, Rates, find

    real = find("gpt-4o", "openai")
    for rates in (Rates(Rate(0.0), Rate(10.0), None), Rates(Rate(2.5), Rate(10_000.0), None)):
        odd = type(real)(**{**vars(real), "standard": rates})
        monkeypatch.setattr(prices, "find", lambda _model, _provider, odd=odd: odd)
        with pytest.raises(SettingsError, match="which cannot be right"):
            Priced(cloud(), "big")


class Clock:
    def __init__(self, text: str) -> None:
        self.now = datetime.fromisoformat(text)

    def __call__(self) -> datetime:
        return self.now


def test_midnight_is_utcs(tmp_path: Path) -> None:
    clock = Clock("2026-11-30T23:59:59+00:00")
    ledger = Ledger(tmp_path / FILE, clock)
    ledger.limits = {"c": Limits(day=100, month=250)}
    first = ledger.reserve("c", "big", 60)
    assert first is not None
    second = ledger.reserve("c", "big", 60)  # 60 of 100 are reserved, so there is room
    assert second is not None
    assert ledger.reserve("c", "big", 1) is None
    clock.now = datetime.fromisoformat("2026-12-01T01:00:00+02:00")  # 23:00 of the same day in UTC
    assert ledger.standing("c").closed_by == "day"
    clock.now = datetime.fromisoformat("2026-12-01T00:00:01+00:00")
    ledger.settle(first, "answered", Used(6), 70)
    ledger.settle(second, "answered", Used(6), 70)
    assert (ledger.standing("c").day, ledger.standing("c").month) == (0, 0)  # both belong to November
    third = ledger.reserve("c", "big", 5)
    assert third is not None
    ledger.settle(third, "answered", Used(1), 90)
    clock.now = datetime.fromisoformat("2026-12-02T12:00:00+00:00")
    assert (ledger.standing("c").day, ledger.standing("c").month) == (0, 90)
    number = ledger.reserve("c", "big", 200)
    assert number is not None
    assert ledger.standing("c").closed_by == "month"
    ledger.settle(number, "answered", Used(1), 10)
    assert ledger.standing("c").closed_by is None
    clock.now = datetime.fromisoformat("2026-11-30T12:00:00+00:00")  # a clock that goes back finds what it had spent
    assert ledger.standing("c").day == 140
    assert next_opening(clock.now, "day") == datetime(2026, 12, 1, tzinfo=UTC)
    assert next_opening(datetime(2026, 12, 31, 12, tzinfo=UTC), "month") == datetime(2027, 1, 1, tzinfo=UTC)


def test_nothing_is_forgotten(tmp_path: Path) -> None:
    clock = Clock("2026-11-30T12:00:00+00:00")
    path = tmp_path / FILE
    ledger = Ledger(path, clock)
    ledger.limits = {"c": Limits(day=100)}
    number = ledger.reserve("c", "big", 30)
    assert number is not None
    ledger.settle(number, "answered", Used(7, 3, 2), 25)
    assert ledger.reserve("c", "big", 40) is not None
    assert spent(path, clock.now) == {"c": (25, 25, 40)}
    # Killed here: nobody knows what the second cost, so its reservation counts.
    again = Ledger(path, clock)
    again.limits = ledger.limits
    assert again.left_open == 1
    assert (again.standing("c").day, again.standing("c").reserved) == (65, 0)
    rows = {one.outcome: one for one in totals(path)}
    assert (rows["answered"].input_tokens, rows["answered"].output_tokens, rows["answered"].cached_tokens) == (7, 3, 2)
    assert (rows["unknown"].requests, rows["unknown"].nano_usd) == (1, 40)
    assert Ledger(path, clock).left_open == 0
    assert path.stat().st_mode & 0o077 == 0


def test_a_limit_is_exceeded_by_less_than_one_requests_reservation(tmp_path: Path) -> None:
    """Whatever comes and goes at once, as long as no request costs more than it reserved."""
    chance = random.Random(14)
    ledger = Ledger(tmp_path / FILE, Clock("2026-11-30T12:00:00+00:00"))
    ledger.limits = {"c": Limits(day=1000)}
    in_work: list[tuple[int, int]] = []
    refused = 0
    while refused < 20 or in_work:
        most = chance.randint(1, 90)
        number = ledger.reserve("c", "big", most) if refused < 20 else None
        refused += number is None
        if number is not None:
            in_work.append((number, most))
        if in_work and (number is None or chance.random() < 0.5):
            done, had = in_work.pop(chance.randrange(len(in_work)))
            ledger.settle(done, "answered", Used(), chance.choice([had, had // 2]))
    assert 1000 - 90 < ledger.standing("c").day < 1000 + 90
    # By hand: 99 of 100 are spent, one that may cost 50 is let in, and the next one is not.
    ledger.limits = {"d": Limits(day=100)}
    first = ledger.reserve("d", "big", 99)
    assert first is not None
    ledger.settle(first, "answered", Used(), 99)
    second = ledger.reserve("d", "big", 50)
    assert second is not None
    assert ledger.reserve("d", "big", 1) is None
    ledger.settle(second, "answered", Used(), 50)
    assert ledger.standing("d").day == 149
    # More than SQLite can count is as much as anything that is above every limit.
    ledger.limits = {"e": Limits(day=100)}
    assert ledger.reserve("e", "big", 10**30) is not None
    assert ledger.reserve("e", "big", 1) is None


def test_no_answer_may_be_longer_than_what_is_reserved() -> None:
    def sent(path: str = "/v1/chat/completions", of: Cloud | None = None, **body: Any) -> tuple[dict[str, Any], int]:
        found = asking.outgoing(path, body, Priced(of or cloud(answer_tokens=500), "big"))
        return json.loads(found.body), found.at_most.output

    # The client says nothing: the settings' bound goes along, by the name that the provider knows.
    assert sent() == ({"model": "gpt-4o", "max_tokens": 500}, 500)
    openai = cloud(url="https://api.openai.com/v1", answer_tokens=500)
    assert sent(of=openai) == ({"model": "gpt-4o", "max_completion_tokens": 500}, 500)
    azure = cloud(url="https://me.openai.azure.com/openai/v1", answer_tokens=500)
    assert sent(of=azure)[0]["max_completion_tokens"] == 500
    assert sent(of=cloud(cap="max_completion_tokens"))[0]["max_completion_tokens"] == 4096
    assert sent("/v1/completions", openai, prompt="a") == ({"model": "gpt-4o", "prompt": "a", "max_tokens": 500}, 500)
    assert sent("/v1/embeddings", input="a") == ({"model": "gpt-4o", "input": "a"}, 0)
    # It says something: that holds and is reserved, of two the larger, for each of its answers.
    assert sent(max_tokens=9000) == ({"model": "gpt-4o", "max_tokens": 9000}, 9000)
    assert sent(max_tokens=7, max_completion_tokens=9000)[1] == 9000
    assert sent(max_tokens=None, n=3) == ({"model": "gpt-4o", "max_tokens": 500, "n": 3}, 1500)
    assert sent(max_tokens=5.0, n=2)[1] == 10
    assert sent("/v1/completions", prompt=["a", "b"], max_tokens=5, best_of=4)[1] == 40
    assert sent(max_tokens=0)[1] == 0
    wrong: list[dict[str, Any]] = [
        {"max_tokens": value} for value in (-1, True, "9", 1.5, [], 10**8, float("nan"), float("inf"))
    ]
    wrong += [{"n": value} for value in (0, -1, "3", True, 10**6, float("nan"))]
    for body in wrong:
        with pytest.raises(asking.Unusable, match=next(iter(body))):
            sent(**body)


def test_no_input_is_larger_than_what_is_reserved() -> None:
    def input_of(*parts: Any) -> tuple[int, int]:
        body = {"messages": [{"role": "user", "content": list(parts)}], "max_tokens": 1}
        found = asking.outgoing("/v1/chat/completions", body, Priced(cloud(), "big"))
        assert found.input_tokens == -(-len(found.body) // 3)  # what is counted where nobody says more
        return found.at_most.input, len(found.body)

    text = {"type": "text", "text": "see https://example.com/a.png"}
    here = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    there = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    file = {"type": "file", "file": {"file_id": "file-1"}}
    for parts, elsewhere in (((text, here), 0), ((there,), 1), ((text, there, there, file), 3)):
        most, size = input_of(*parts)
        assert most == size + 50_000 * elsewhere


def test_what_cannot_be_written_stays_reserved_until_it_can(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / FILE, Clock("2026-11-30T12:00:00+00:00"))
    ledger.limits = {"c": Limits(day=100)}
    number = ledger.reserve("c", "big", 30)
    assert number is not None
    ledger._file.execute("PRAGMA query_only = ON")
    with pytest.raises(sqlite3.Error):
        ledger.settle(number, "answered", Used(1), 95)
    assert ledger.standing("c").reserved == 30
    with pytest.raises(sqlite3.Error):
        ledger.settle_late()
    ledger._file.execute("PRAGMA query_only = OFF")
    ledger.settle_late()
    assert (ledger.standing("c").day, ledger.standing("c").reserved) == (95, 0)


def test_a_closed_cloud_says_when_it_opens(tmp_path: Path) -> None:
    clock = Clock("2026-11-30T12:00:00+00:00")
    ledger = Ledger(tmp_path / FILE, clock)
    ledger.limits = {"c": Limits(day=NANO)}
    number = ledger.reserve("c", "big", 2 * NANO)
    assert number is not None
    said = closed("c", ledger.standing("c"), clock.now)["error"]
    assert said["code"] == "budget_reserved"
    ledger.settle(number, "answered", Used(1), 2 * NANO)
    said = closed("c", ledger.standing("c"), clock.now)["error"]
    assert said == {
        "message": "The limit of the cloud c, 1 USD a day (UTC), is spent; it opens again at 2026-12-01T00:00:00Z.",
        "type": "insufficient_quota", "param": None, "code": "budget_spent",
    }  # fmt: skip
    assert ledger.standing("c").used_share == 2.0


def test_what_the_provider_is_sent() -> None:
    price = Priced(cloud(url="https://x.example.com/openai/deployments/{model}", query={"api-version": "1"}), "big")
    sent = asking.outgoing("/v1/chat/completions", {"model": "auto", "stream": True, "max_tokens": 7, "n": 3}, price)
    assert sent.url == "https://x.example.com/openai/deployments/gpt-4o/chat/completions"
    assert json.loads(sent.body) == {
        "model": "gpt-4o", "stream": True, "max_tokens": 7, "n": 3, "stream_options": {"include_usage": True}
    }  # fmt: skip
    assert not sent.wants_usage
    assert sent.at_most.output == 21
    asked = {"stream": True, "stream_options": {"include_usage": True, "other": 1}, "max_completion_tokens": 2}
    sent = asking.outgoing("/v1/chat/completions", asked, price)
    assert sent.wants_usage
    assert json.loads(sent.body)["stream_options"] == {"include_usage": True, "other": 1}
    old = Priced(cloud(usage_in_streams=False), "big")
    assert b"stream_options" not in asking.outgoing("/v1/chat/completions", {"stream": True}, old).body
    assert asking.outgoing("/v1/chat/completions", {}, old).at_most.output == 4096
    assert asking.outgoing("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 5}, old).at_most.output == 10
    assert asking.outgoing("/v1/embeddings", {"input": "a"}, old).at_most.output == 0
    reads = Priced(cloud(models={"big": "text-embedding-3-small"}), "big")
    with pytest.raises(asking.Unusable, match="embeddings only"):
        asking.outgoing("/v1/chat/completions", {}, reads)
    for body in (b"", b"[]", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(asking.Unusable):
            asking.read(body)


def test_what_may_not_leave() -> None:
    rules = cloud(redact=["email", "phone", "card", "iban", "ip", "secret"], redact_patterns=[r"ACME-\d+"])
    text = (
        "Write to jo.doe+x@mail.example.co.uk or +49 30 901820, card 4111 1111 1111 1111, "
        "DE89 3704 0044 0532 0130 00, host 192.168.0.17, key sk-abcdefghijklmnop1234, case ACME-77. "
        "Not these: 1234567890123456, 2026-11-27, 3.14159, v1.2.3.4567, 100000 items, a@b."
    )
    picture = "data:image/png;base64,AAAA4111111111111111"
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": picture}}]
    request = {"model": "m", "user": "jo", "metadata": {"a": "b"}, "messages": [{"role": "user", "content": parts}]}
    sent = redacted(request, rules)
    assert sent["messages"][0]["content"][0]["text"] == (
        "Write to [email] or [phone], card [card], [iban], host [ip], key [secret], case [redacted 1]. "
        "Not these: 1234567890123456, 2026-11-27, 3.14159, v1.2.3.4567, 100000 items, a@b."
    )
    assert sent["messages"][0]["content"][1]["image_url"]["url"] == picture
    assert "user" not in sent
    assert "metadata" not in sent
    assert redacted(request, cloud()) == request


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
