"""What can go wrong in `gateway`, as a person reads it.

GatewayError                   the gateway itself failed                                      exit code 4
├── SettingsError              a setting is unknown, malformed, unsafe or does not fit others   2
│   └── PortTaken              … another program listens where the gateway should               2
├── MissingProgram             HAProxy (or nginx) is missing, too old or built without what is needed   3
├── DoesNotFit                 two servers do not fit in memory at once                         3
├── NotRunning                 no gateway answers in this data folder                           4
├── AdapterRefused             a server did not load or unload an adapter                      4
└── RuntimeRefused             HAProxy's runtime interface said no                              4
"""


class GatewayError(Exception):
    exit_code = 4


class SettingsError(GatewayError):
    exit_code = 2


class PortTaken(SettingsError):
    pass


class MissingProgram(GatewayError):
    exit_code = 3


class DoesNotFit(GatewayError):
    exit_code = 3


class NotRunning(GatewayError):
    pass


class AdapterRefused(GatewayError):
    pass


class RuntimeRefused(GatewayError):
    pass
