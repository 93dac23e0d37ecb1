"""What can go wrong between "serve this model" and a server that answers.

ServeError                     exit code 4, kind "failed"
├── SettingsError              2  a setting is unknown, malformed or unsafe
├── StartFailed                4  the process ended or gave up before it was ready
│   ├── OutOfMemory            3  "oom"              weights, activations or KV cache do not fit
│   ├── Unsupported            3  "unsupported"      this machine or this build cannot run that
│   ├── MissingWeights         2  "missing_weights"  the model directory has no loadable weights
│   ├── Unauthorized           2  "unauthorized"     the hub refused: gated, private or a bad token
│   ├── PortInUse              2  "port_in_use"
│   ├── BadModel               2  "bad_model"        not a model directory or hub name, or a broken config
│   ├── BadArgument            2  "bad_argument"     vLLM's own parser or validation refused an option
│   ├── MissingPackage         3  "missing_package"  vLLM is not installed
│   ├── StartTimeout           4  "timeout"
│   └── StartCancelled       130  "cancelled"        the caller asked to stop waiting
├── ContractError              3  "unsupported"      the installed vLLM lacks what the hidden-states plugin uses
└── EngineDied                 4  "died"             the server was ready and then ended
"""

from pathlib import Path
from typing import ClassVar


class ServeError(Exception):
    """A failure as one readable paragraph, with the engine's own words and the next step kept apart.

    `engine_words` is the most telling line the engine wrote (None when it wrote none),
    `next_step` what to try (may be empty), `log_path` where the whole log is.
    """

    exit_code: ClassVar[int] = 4
    kind: ClassVar[str] = "failed"

    def __init__(
        self,
        summary: str,
        *,
        engine_words: str | None = None,
        next_step: str = "",
        log_path: Path | None = None,
    ) -> None:
        self.summary = summary
        self.engine_words = engine_words
        self.next_step = next_step
        self.log_path = log_path
        parts = [summary]
        if engine_words:
            parts.append(f'The engine said: "{engine_words}".')
        if next_step:
            parts.append(next_step)
        if log_path:
            parts.append(f"The whole log: {log_path}")
        super().__init__(" ".join(parts))


class SettingsError(ServeError):
    exit_code = 2
    kind = "bad_settings"


class StartFailed(ServeError):
    pass


class OutOfMemory(StartFailed):
    exit_code = 3
    kind = "oom"


class Unsupported(StartFailed):
    exit_code = 3
    kind = "unsupported"


class MissingWeights(StartFailed):
    exit_code = 2
    kind = "missing_weights"


class Unauthorized(StartFailed):
    exit_code = 2
    kind = "unauthorized"


class PortInUse(StartFailed):
    exit_code = 2
    kind = "port_in_use"


class BadModel(StartFailed):
    exit_code = 2
    kind = "bad_model"


class BadArgument(StartFailed):
    exit_code = 2
    kind = "bad_argument"


class MissingPackage(StartFailed):
    exit_code = 3
    kind = "missing_package"


class StartTimeout(StartFailed):
    kind = "timeout"


class StartCancelled(StartFailed):
    exit_code = 130
    kind = "cancelled"


class EngineDied(ServeError):
    kind = "died"


class ContractError(ServeError):
    exit_code = 3
    kind = "unsupported"
