"""What can go wrong in `deploy`, as a person reads it.

DeployError                    rendering or simulating failed                                  exit code 4
└── SettingsError              a file, an option or a run does not say what is needed            2
"""


class DeployError(Exception):
    exit_code = 4


class SettingsError(DeployError):
    exit_code = 2
