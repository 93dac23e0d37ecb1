"""What can go wrong in `dashboards`, as a person reads it.

DashboardError             the app or a board failed                              exit code 4
├── SettingsError          a setting is unknown, malformed or unsafe              exit code 2
│   └── PortTakenError     something else listens where the app should            exit code 2
└── SourceError            a server or Prometheus did not answer as it should     exit code 4
"""


class DashboardError(Exception):
    exit_code = 4


class SettingsError(DashboardError):
    exit_code = 2


class PortTakenError(SettingsError):
    pass


class SourceError(DashboardError):
    pass
