"""Alerts on the gateway."""

from alert_case import Case, labels

AT = 'instance="g:8405",job="gateway"'
SERVER = f'{AT},model="m",server="a"'
DAY, MONTH = (f'{AT},cloud="c",period="{period}"' for period in ("day", "month"))

GATEWAY_CASES = [
    Case(
        "GatewayDown",
        "gateway.yml",
        {f"up{{{AT}}}": "1x10 0x10 1x10", 'up{instance="h:1",job="gpu"}': "0x30"},
        silent="60s",
        fires="75s",
        over="110s",
        labels=labels(AT),
        summary="The gateway g:8405 gives no metrics: it is down, or its agent is",
    ),
    Case(
        "GatewayServersDown",
        "gateway.yml",
        {
            f'nbridge_gateway_servers_up{{{AT},model="m",kind="local"}}': "2x10 0x10 1x10",
            f'nbridge_gateway_servers_up{{{AT},model="gpt",kind="cloud"}}': "0x30",  # its budget is spent
        },
        silent="55s",
        fires="70s",
        over="110s",
        labels={**labels(AT), "model": "m", "kind": "local"},
        summary="No server of m is up behind the gateway g:8405",
    ),
    Case(
        "GatewayEjections",
        "gateway.yml",
        {
            f"nbridge_gateway_ejections_total{{{SERVER}}}": "7x20 8x5 9x5 10x80",
            f'nbridge_gateway_ejections_total{{{AT},model="m",server="b"}}': "0x20 1x5 2x90",
        },
        step="1m",
        silent="28m",
        fires="60m",
        over="92m",
        severity="warning",
        labels=labels(SERVER),
        summary="The gateway g:8405 has put a of m out 3 times in 1h",
    ),
    Case(
        "GatewayBudgetNearlySpent",
        "gateway.yml",
        {
            f"nbridge_gateway_spent_usd{{{DAY}}}": "0.75x10 0.85x10 0x10",
            f"nbridge_gateway_budget_usd{{{DAY}}}": "1x30",
            f"nbridge_gateway_spent_usd{{{MONTH}}}": "4x30",  # without a limit
        },
        silent="50s",
        fires="60s",
        over="115s",
        severity="warning",
        labels=labels(DAY),
        summary="85% of the limit of the cloud c for this day (UTC) is spent",
    ),
    Case(
        "GatewayBudgetSpent",
        "gateway.yml",
        {
            f"nbridge_gateway_spent_usd{{{MONTH}}}": "19x10 20.4x10 0x10",
            f"nbridge_gateway_budget_usd{{{MONTH}}}": "20x30",
            f"nbridge_gateway_spent_usd{{{DAY}}}": "0.9x30",
            f"nbridge_gateway_budget_usd{{{DAY}}}": "1x30",
        },
        silent="50s",
        fires="60s",
        over="115s",
        labels=labels(MONTH),
        summary="102% of the limit of the cloud c for this month (UTC) is spent: it is closed until the next one "
        "begins",
    ),
]
