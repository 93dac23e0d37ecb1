"""What can go wrong in `deploy`, as a person reads it.

DeployError                    rendering, simulating or serving failed                         exit code 4
├── SettingsError              a file, an option or a run does not say what is needed            2
├── DoorTaken                  Ray Serve is to listen where something else does                  2
└── NotStarted                 a replica's server does not start: the error of its node          as that says
"""

import json


class DeployError(Exception):
    exit_code = 4


class SettingsError(DeployError):
    exit_code = 2


class DoorTaken(DeployError):
    exit_code = 2


class NotStarted(DeployError):
    """Written as a line of JSON: what comes home of an error from a node is Ray's text, with this somewhere in it."""

    def __init__(self, text: str, exit_code: int = 4) -> None:
        super().__init__(json.dumps({"exit_code": exit_code, "text": text}))
        self.text, self.exit_code = text, exit_code

    def __reduce__(self) -> tuple[type["NotStarted"], tuple[str, int]]:
        return type(self), (self.text, self.exit_code)

    @classmethod
    def of(cls, error: Exception) -> "NotStarted":
        """What a node says of the start of its server."""
        return cls(" ".join(str(error).split()), getattr(error, "exit_code", 4))

    @classmethod
    def found_in(cls, text: str) -> "NotStarted | None":
        """The last such error that Ray's words hold; None when they hold none."""
        for line in reversed(text.splitlines()):
            _, name, written = line.partition(f"{cls.__name__}: ")
            if name:
                try:
                    said, _ = json.JSONDecoder().raw_decode(written)
                    return cls(said["text"], said["exit_code"])
                except (ValueError, KeyError, TypeError):
                    continue
        return None
