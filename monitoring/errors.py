"""What can go wrong in `monitoring`, as a person reads it.

MonitoringError                the monitoring itself failed                                    exit code 4
├── SettingsError              a threshold, a receiver or a target is not usable                2
│   ├── RulesRefused           … promtool or amtool refused the configuration made of them      2
│   └── PortTaken              … another program listens where a part of the stack should       2
├── NoAnswer                   a server gave no whole answer in time (monitoring.scrape.http_exchange)          4
├── MetricsError               a page is no metrics page (monitoring.scrape.metrics)                   4
├── MissingProgram             Prometheus, Alertmanager or their checkers are not installed     3
└── StackFailed                a part of the stack did not start, or ended                      4
"""


class MonitoringError(Exception):
    exit_code = 4


class SettingsError(MonitoringError):
    exit_code = 2


class RulesRefused(SettingsError):
    pass


class PortTaken(SettingsError):
    pass


class MissingProgram(MonitoringError):
    exit_code = 3


class StackFailed(MonitoringError):
    pass
