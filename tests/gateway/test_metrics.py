"""The gateway's metrics page, by worked cases: what is counted, what it would have cost, what is not there."""

from pathlib import Path

import pytest

from gateway.agent.looking import Counted, Watched
from gateway.agent.metrics import Against, Own, Seen, page
from gateway.cloud.ledger import Total
from gateway.errors import SettingsError
from gateway.haproxy.runtime import parse as parse_rows
from gateway.settings import Health, Server, parse
from monitoring.scrape.metrics import parse as parse_page

PRICE = {"input": 2.0, "output": 8.0}
CLOUD = {"name": "c", "url": "https://x.example.com/v1", "models": {"gpt": "gpt"}, "api_key_env": "K",
         "prices": {"gpt": PRICE}, "usd_per_day": 2.0}  # fmt: skip
SETTINGS = parse({"server": [{"name": "a", "url": ":1", "model": "m"}], "cloud": [CLOUD]}, "g")
STAT = (
    "# pxname,svname,status,weight,scur,lbtot,wretr,bout,qcur,hrsp_2xx,hrsp_4xx,hrsp_5xx\n"
    "model.m,a,UP,100,2,9,1,77,0,6,1,2\nmodel.m,BACKEND,UP,100,2,9,1,77,3,6,1,2\n"
    "model.gpt,c,DOWN,1,0,4,0,7,0,4,0,0\nmodel.gpt,BACKEND,DOWN,0,0,4,0,7,0,4,0,0\n"
)


def seen(**more: object) -> dict[tuple[str, ...], float]:
    values = {"settings": SETTINGS, "rows": parse_rows(STAT), "own": [Own("m", "a", 3, (1e6, 2e6))], "retries": True,
              "looked_at": 5.0, "spent": {"c": (1_500_000_000, 1_750_000_000, 20_000_000)},
              "totals": [Total("c", "gpt", "answered", 3, 1, 900, 300, 90, 1_500_000_000),
                         Total("c", "gpt", "left", 1, 1, 100, 0, 10, 250_000_000)],
              "against": Against("gpt", 2.0, 8.0)}  # fmt: skip
    text = page(Seen(**(values | more))).decode()  # type: ignore[arg-type]
    return {
        (one.name.removeprefix("nbridge_gateway_"), *sorted(one.labels.values())): one.value for one in parse_page(text)
    }


def test_the_page() -> None:
    found = seen()
    assert found["requests_total", "2xx", "a", "local", "m"] == 6
    assert found["requests_total", "5xx", "a", "local", "m"] == 2
    assert ("requests_total", "3xx", "a", "local", "m") not in found
    assert found["requests_total", "2xx", "c", "cloud", "gpt"] == 4
    assert found["requests_waiting", "m"] == 3
    assert (found["servers_up", "local", "m"], found["servers_up", "cloud", "gpt"]) == (1, 0)
    assert found["ejections_total", "a", "m"] == 3
    assert found["cloud_requests_total", "answered", "c", "gpt"] == 3
    assert found["cloud_estimated_total", "c", "gpt"] == 2
    assert found["cloud_tokens_total", "c", "gpt", "input"] == 1000
    assert found["cost_usd_total", "c", "gpt"] == 1.75
    assert (found["spent_usd", "c", "day"], found["spent_usd", "c", "month"]) == (1.5, 1.75)
    assert found["budget_usd", "c", "day"] == 2.0
    assert found["reserved_usd", "c"] == 0.02
    # A million in at 2 dollars, two million out at 8.
    assert found["saved_usd_total", "a", "gpt", "m"] == 18.0


def test_what_is_not_known_is_not_there() -> None:
    found = seen(rows={}, own=[Own("m", "a", 0, None)], spent=None, totals=[], against=None)
    names = {key[0] for key in found}
    assert not names & {"requests_total", "servers_up", "tokens_total", "saved_usd_total", "cost_usd_total"}
    assert found["ejections_total", "a", "m"] == 0
    assert "spent_usd" not in names
    assert found["budget_usd", "c", "day"] == 2.0
    assert seen(spent={})["spent_usd", "c", "day"] == 0  # nothing yet


def test_tokens_are_counted_from_the_first_look_and_over_restarts() -> None:
    one = Watched(Server(name="a", url=":1", model="m"), "model.m", Health(), None)  # type: ignore[arg-type]
    for tokens in ((100.0, 50.0), (130.0, 70.0), None, (10.0, 5.0)):
        one._count(Counted(None, tokens), 1.0)
    assert one.tokens == (40.0, 25.0)  # 30 and 20, then an engine that began anew


def test_what_is_compared_with_must_have_a_price(tmp_path: Path) -> None:
    from gateway.cloud.prices import api_price

    assert api_price("openai/gpt-4o").standard.output.base == 10.0
    with pytest.raises(SettingsError, match=r"gateway\.compared_with = 'openai/gpt-4oo'"):
        api_price("openai/gpt-4oo")
