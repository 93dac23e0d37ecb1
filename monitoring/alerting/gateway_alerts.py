"""Alert rules on the gateway: its servers, its clouds' limits. Pure, as monitoring.alerting.alerts is."""

from monitoring.alerting.alerts import Alerts
from monitoring.alerting.recording import Rule, duration
from monitoring.alerting.thresholds import Thresholds

_SHARE = "nbridge_gateway_spent_usd / nbridge_gateway_budget_usd"
_SPENT = "of the limit of the cloud {{ $labels.cloud }} for this {{ $labels.period }} (UTC) is spent"


def gateway_alerts(settings: Thresholds) -> list[Rule]:
    """Does anybody answer, is a server put out again and again, is the money for clouds at its end?"""
    rules, gateway = Alerts(settings), settings.gateway
    window = duration(gateway.ejections_window_s)
    rules.alert(
        "GatewayEjections",
        "warning",
        f"increase(nbridge_gateway_ejections_total[{window}]) > {gateway.ejections_max - 1}.5",
        "The gateway {{ $labels.instance }} has put {{ $labels.server }} of {{ $labels.model }} out "
        f'{{{{ $value | printf "%.0f" }}}} times in {window}',
    )
    rules.alert(
        "GatewayBudgetNearlySpent",
        "warning",
        f"{gateway.budget_warn_share:g} < {_SHARE} < 1",
        f"{{{{ $value | humanizePercentage }}}} {_SPENT}",
    )
    rules.alert(
        "GatewayBudgetSpent",
        "critical",
        f"{_SHARE} >= 1",
        f"{{{{ $value | humanizePercentage }}}} {_SPENT}: it is closed until the next one begins",
    )
    rules.alert(
        "GatewayServersDown",
        "critical",
        'nbridge_gateway_servers_up{kind="local"} == 0',
        "No server of {{ $labels.model }} is up behind the gateway {{ $labels.instance }}",
        for_s=gateway.servers_down_for_s,
    )
    rules.alert(
        "GatewayDown",
        "critical",
        f'up{{job="{settings.jobs.gateways}"}} == 0',
        "The gateway {{ $labels.instance }} gives no metrics: it is down, or its agent is",
        for_s=gateway.down_for_s,
    )
    return rules.rules
