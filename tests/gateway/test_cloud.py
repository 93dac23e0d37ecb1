"""What the door to clouds knows before it asks: its settings, prices, what is sent, and what may not leave."""

import json
from typing import Any

import pytest

from gateway.cloud import asking
from gateway.cloud.ledger import NANO
from gateway.cloud.prices import Priced
from gateway.cloud.redaction import redacted
from gateway.cloud.usage import Used
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
