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
├── EngineDied                 4  "died"             the server was ready and then ended
│   └── EngineUnfit            4  "unsupported"      … because nothing here computes what it was to compute
└── ClientError                4  "client"           a running server did not give what was asked of it
    ├── Refused                2  "refused"          it answered 4xx: the request is wrong for it
    │   ├── TooLarge           2  "too_large"        … 413: more than it takes at once
    │   └── KeyRefused         2  "key_refused"      … 401 or 403
    ├── Unavailable            4  "unavailable"      no connection, busy or no answer in time, also when asked again
    ├── ServerFailed           4  "server_failed"    it answered 500 or another 5xx that trying again does not mend
    └── BadAnswer              4  "bad_answer"       it answered with what cannot be: not finite, wrong shape, no JSON
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


class EngineUnfit(EngineDied):
    kind = "unsupported"


class ContractError(ServeError):
    exit_code = 3
    kind = "unsupported"


class ClientError(ServeError):
    """`status` is the HTTP status that was answered, None when there was no answer."""

    kind = "client"
    status: int | None = None


class Refused(ClientError):
    exit_code = 2
    kind = "refused"


class TooLarge(Refused):
    kind = "too_large"


class KeyRefused(Refused):
    kind = "key_refused"


class Unavailable(ClientError):
    kind = "unavailable"

    def after(self, attempts: int, retry_after_s: float | None = None) -> "Unavailable":
        """This error, saying how often it was tried, and how long the server wanted to be left alone for."""
        tried = f"Tried {attempts} times." if attempts > 1 else ""
        wanted = f"The server asks to wait {retry_after_s:.0f} s." if retry_after_s else ""
        words = " ".join(filter(None, (tried, wanted, self.next_step)))
        told = Unavailable(self.summary, engine_words=self.engine_words, next_step=words)
        told.status = self.status
        return told


class ServerFailed(ClientError):
    kind = "server_failed"


class BadAnswer(ClientError):
    kind = "bad_answer"
