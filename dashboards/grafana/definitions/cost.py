"""The board of cost: what the machines cost, and what an API would have charged for the same tokens.

Prices are the reader's: text fields on the board. Tokens are the servers' own counters. A price of a machine counts
for every hour in which Prometheus knew the server, whether it answered or not: it is paid for either way.
"""

from dashboards.grafana.panels import Board, Limits, Query, Row, Variable, lines, number
from dashboards.grafana.promql import ENGINE, SERVER, increase, rate
from dashboards.grafana.variables import INSTANCE, MODEL

PRICES = (
    Variable(
        "text",
        "usd_per_hour",
        "Own $ per server hour",
        "What one server costs an hour, everything included: rent, or purchase, power and work spread over its life.",
        query="0.44",
    ),
    Variable(
        "text",
        "usd_per_mtok_in",
        "API $ per M prompt tokens",
        "What the API charges for a million prompt tokens, without its discounts for cached prompts or batches.",
        query="2.50",
    ),
    Variable(
        "text",
        "usd_per_mtok_out",
        "API $ per M output tokens",
        "What the API charges for a million output tokens.",
        query="10.00",
    ),
    Variable(
        "text",
        "usd_per_kwh",
        "$ per kWh",
        "The price of electricity, for the panels on energy only; put 0 where it is in the price of the hour.",
        query="0.15",
    ),
)

WHOLE_GPUS = 'mig=""'
PROMPT, OUTPUT = "vllm:prompt_tokens_total", "vllm:generation_tokens_total"
# Half-minute steps: fine enough for a quarter of an hour, few enough for a quarter of a year.
OWN_USD = f"$usd_per_hour * sum(count_over_time(up{{{SERVER}}}[$__range:30s])) / 120"
API_USD = f"($usd_per_mtok_in * {increase(PROMPT, ENGINE)} + $usd_per_mtok_out * {increase(OUTPUT, ENGINE)}) / 1e6"
TOKENS = f"({increase(PROMPT, ENGINE)} + {increase(OUTPUT, ENGINE)})"
OWN_USD_PER_HOUR = f"$usd_per_hour * count(up{{{SERVER}}})"


def api_usd_per_hour(window: str) -> str:
    prompt, output = rate(PROMPT, ENGINE, window=window), rate(OUTPUT, ENGINE, window=window)
    return f"($usd_per_mtok_in * {prompt} + $usd_per_mtok_out * {output}) * 3600 / 1e6"


def tokens_per_hour(window: str) -> str:
    return f"(({rate(PROMPT, ENGINE, window=window)} + {rate(OUTPUT, ENGINE, window=window)}) * 3600 > 0)"


NOW = Row(
    "In the time shown",
    (
        number(
            "Own machines",
            "Price of the hours in which Prometheus knew the chosen servers, answering or not.",
            "currencyUSD",
            OWN_USD,
            width=4,
        ),
        number(
            "Same tokens, API",
            "What the API would have charged at the prices above, without discounts for cached prompts or batches.",
            "currencyUSD",
            API_USD,
            width=4,
        ),
        number(
            "Saved",
            "API minus own machines; below zero the API would have been cheaper. It compares tokens, not quality.",
            "currencyUSD",
            f"{API_USD} - {OWN_USD}",
            width=4,
            limits=Limits("red", ((0, "green"),)),
        ),
        number(
            "Own, per million tokens",
            "Price of the servers divided by the tokens that they really served, prompt and output together. "
            "Idle hours make it dear.",
            "currencyUSD",
            f"{OWN_USD} / ({TOKENS} > 0) * 1e6",
            width=4,
            absent="no tokens",
        ),
        number(
            "API, per million tokens",
            "The API's price for the same mix of prompt and output tokens.",
            "currencyUSD",
            f"{API_USD} / ({TOKENS} > 0) * 1e6",
            width=4,
            absent="no tokens",
        ),
        number(
            "Traffic against break-even",
            "Value of the tokens at the API's prices over the price of the servers: at 100 % both cost the same, "
            "above it own machines are cheaper.",
            "percentunit",
            f"({API_USD}) / ({OWN_USD} > 0)",
            width=4,
            limits=Limits("red", ((1, "green"),)),
        ),
    ),
)

TIME = Row(
    "Over time",
    (
        lines(
            "Dollars per hour",
            "The price of the chosen servers, and what the API would charge an hour for the traffic of that "
            "moment. Where the API's line is higher, own machines win.",
            "currencyUSD",
            Query(OWN_USD_PER_HOUR, "own machines"),
            Query(api_usd_per_hour("$__rate_interval"), "API, same tokens"),
            width=12,
        ),
        lines(
            "Dollars per million tokens",
            "For prompt and output tokens together, at the traffic of that moment. Own cost falls as traffic "
            "rises; the API's only follows the mix. No line while there is no traffic.",
            "currencyUSD",
            Query(f"{OWN_USD_PER_HOUR} / {tokens_per_hour('$__rate_interval')} * 1e6", "own machines"),
            Query(
                f"{api_usd_per_hour('$__rate_interval')} / {tokens_per_hour('$__rate_interval')} * 1e6",
                "API, same mix",
            ),
            width=12,
        ),
    ),
)

VOLUME = Row(
    "Volume",
    (
        lines(
            "Tokens per second",
            "Prompt and output tokens, over all chosen servers.",
            "si:tok/s",
            Query(rate(PROMPT, ENGINE), "prompt"),
            Query(rate(OUTPUT, ENGINE), "output"),
            stacked=True,
        ),
        lines(
            "Prompt tokens from the cache",
            "Share of prompt tokens that were found in the cache. An API with a discount for cached prompts may "
            "charge less for these.",
            "percentunit",
            Query(f"{rate('vllm:prompt_tokens_cached_total', ENGINE)} / {rate(PROMPT, ENGINE)}", "cached"),
            maximum=1.0,
        ),
        lines(
            "Output tokens by server",
            "Output tokens per second of each server: an idle one costs as much as a busy one.",
            "si:tok/s",
            Query(rate(OUTPUT, ENGINE, by="instance"), "{{instance}}"),
            stacked=True,
        ),
    ),
)

ENERGY = Row(
    "Energy",
    (
        lines(
            "Electricity of all GPUs",
            "Dollars per hour at the price above; GPUs only, without the rest of the machine and its cooling.",
            "currencyUSD",
            Query(f"sum(nbridge_gpu_power_watts{{{WHOLE_GPUS}}}) / 1000 * $usd_per_kwh", "GPUs"),
            width=10,
        ),
        lines(
            "Energy per output token",
            "Power of all GPUs over the output tokens of all servers. It falls as batches grow.",
            "joule",
            Query(
                f"sum(nbridge_gpu_power_watts{{{WHOLE_GPUS}}}) / ({rate(OUTPUT, '')} > 0)",
                "per output token",
            ),
            width=10,
        ),
        number(
            "Electricity",
            "Energy of all GPUs in the time shown, at the price above.",
            "currencyUSD",
            f"{increase('nbridge_gpu_energy_joules_total', WHOLE_GPUS)} / 3.6e6 * $usd_per_kwh",
            width=4,
            height=8,
            absent="no GPU",
        ),
    ),
)

BOARD = Board(
    "cost",
    "Neural Bridge / Cost",
    "What the servers cost, and what an API would have charged for the same tokens. Type your own prices above: "
    "the ones given are examples.",
    (*PRICES, MODEL, INSTANCE),
    (NOW, TIME, VOLUME, ENERGY),
)
