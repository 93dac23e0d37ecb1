"""What one vLLM server shall be: a frozen, validated description read from TOML, environment and flags.

Later sources win: profile file < environment variables `NBRIDGE_SERVE_<FIELD>` < flags. A field left at
None means "vLLM's own default", which is then not mentioned on vLLM's command line at all.
"""

import difflib
import ipaddress
import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from serve.engine.options import extra_args_problem, holds_secret, passes_option
from serve.errors import SettingsError

ENVIRONMENT_PREFIX = "NBRIDGE_SERVE_"
PROFILE_LIMIT_BYTES = 1 << 20

_SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|CREDENTIALS?)$", re.IGNORECASE)
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Names of precisions that people write where a quantization is asked for.
_PRECISIONS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

Positive = Annotated[int, Field(gt=0)]
Name = Annotated[str, Field(min_length=1)]


class Speculative(BaseModel):
    """Speculative decoding: who proposes tokens, and how many at a time.

    A draft model is named by `model`; `method = "ngram"` proposes from the prompt itself and needs none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_speculative_tokens: Positive
    model: Name | None = None
    method: Name | None = None
    draft_tensor_parallel_size: Positive | None = None
    max_model_len: Positive | None = None
    quantization: Name | None = None
    prompt_lookup_max: Positive | None = None
    prompt_lookup_min: Positive | None = None

    @model_validator(mode="after")
    def _somebody_proposes(self) -> Self:
        if self.model is None and self.method is None:
            raise ValueError('needs model = "draft model" or method = "ngram"')
        return self


class EngineSettings(BaseModel):
    """One vLLM server's settings; None leaves the choice to vLLM (or, where noted, to the device)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Name
    served_model_name: Name | None = None
    tokenizer: Name | None = None
    revision: Name | None = None
    download_dir: Name | None = None
    load_format: Name = "auto"
    trust_remote_code: bool = False

    host: Name = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    api_key_env: Name | None = None
    allow_no_api_key: bool = False

    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = "auto"
    quantization: Name | None = None
    kv_cache_dtype: Name = "auto"
    max_model_len: Positive | None = None
    max_num_seqs: Positive | None = None
    max_num_batched_tokens: Positive | None = None
    block_size: Positive | None = None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    cpu_kv_cache_gib: Positive | None = None
    enable_prefix_caching: bool | None = None
    enable_chunked_prefill: bool | None = None
    tensor_parallel_size: Positive = 1
    pipeline_parallel_size: Positive = 1
    data_parallel_size: Positive = 1
    speculative: Speculative | None = None
    enforce_eager: bool | None = None
    seed: int | None = None

    enable_lora: bool = False
    lora_modules: dict[Name, Name] = Field(default_factory=dict)
    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] | None = None
    max_loras: Positive | None = None

    hidden_states: bool = True
    hidden_states_layers: tuple[int | Literal["embeddings"], ...] = (-2,)

    log_format: Literal["json", "text", "none"] = "json"
    log_prompts: bool = False
    log_requests: bool = False
    access_log: bool = True
    shutdown_timeout_s: Annotated[int, Field(ge=0)] = 0
    extra_args: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)

    @field_validator("api_key_env")
    @classmethod
    def _is_a_variable_name(cls, value: str | None) -> str | None:
        if value is not None and not _VARIABLE_NAME.fullmatch(value):
            raise ValueError("must be the NAME of an environment variable that holds the key, not the key itself")
        return value

    @field_validator("environment")
    @classmethod
    def _holds_no_secret(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _VARIABLE_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not an environment variable's name")
            if _SECRET_NAME.search(name) or holds_secret(text):
                raise ValueError(
                    f"{name} looks like a secret, and settings are written into run folders; "
                    "set it in the shell's environment, the server inherits it"
                )
            if name == "VLLM_CPU_KVCACHE_SPACE":
                raise ValueError("VLLM_CPU_KVCACHE_SPACE belongs to the setting cpu_kv_cache_gib")
        return value

    @field_validator("extra_args")
    @classmethod
    def _does_not_override(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if problem := extra_args_problem(value):
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _is_not_open_to_the_world(self) -> Self:
        if not is_loopback(self.host) and self.api_key_env is None and not self.allow_no_api_key:
            raise ValueError(
                f"host {self.host!r} is reachable from other machines and the server has no API key: name the "
                "environment variable that holds one (api_key_env), keep host 127.0.0.1, or say "
                "allow_no_api_key = true"
            )
        return self

    @model_validator(mode="after")
    def _declares_layers_once(self) -> Self:
        if not self.hidden_states_layers:
            raise ValueError("hidden_states_layers is empty; hidden_states = false turns hidden states off")
        declared = self.hidden_states_layers != EngineSettings.model_fields["hidden_states_layers"].default
        if declared and passes_option(self.extra_args, "--additional-config"):
            raise ValueError(
                "hidden_states_layers is written into vLLM's --additional-config, which extra_args replaces; put "
                '"nbridge_hidden_states": {"layers": […]} into that one'
            )
        return self

    @model_validator(mode="after")
    def _names_adapters_apart(self) -> Self:
        taken = self.served_model_name or self.model
        if taken in self.lora_modules:
            raise ValueError(
                f"lora_modules: {taken!r} is the served model's own name, by which requests reach it; give the adapter "
                "another"
            )
        if not self.serves_lora and (self.max_lora_rank is not None or self.max_loras is not None):
            raise ValueError(
                "max_lora_rank and max_loras say how adapters are served, and none is: name some in lora_modules, or "
                "set enable_lora = true"
            )
        return self

    @property
    def serves_lora(self) -> bool:
        """Whether the engine is started ready for LoRA adapters."""
        return self.enable_lora or bool(self.lora_modules)

    @property
    def hidden_states_obstacle(self) -> str | None:
        """Why this engine cannot give hidden states though `hidden_states` is on, or None when it can."""
        if self.speculative is not None:
            return "speculative decoding reads the same places of the model"
        if self.pipeline_parallel_size > 1:
            return "with pipeline_parallel_size above 1 no worker sees all layers"
        if passes_option(self.extra_args, "--worker-cls"):
            return "extra_args bring a worker class of their own (--worker-cls)"
        return None

    @property
    def is_hooked(self) -> bool:
        """Whether the server is started with the hidden-states plugin."""
        return self.hidden_states and self.hidden_states_obstacle is None

    def resolved(self, *, path: str, name: str, load_format: str, quantization: str | None) -> Self:
        """These settings for a checkpoint: what to load from `path`, how, and what to call it in the API.

        `quantization` is what vLLM is to be told (None: the checkpoint says it itself). A served name, load format
        or dtype that was set stays; a quantization that only named a precision ("fp16") becomes the dtype.
        """
        precision = _PRECISIONS.get(self.quantization or "", "auto")
        return self.model_copy(
            update={
                "model": path,
                "served_model_name": self.served_model_name or (Path(name).name if Path(name).is_dir() else name),
                "load_format": load_format if self.load_format == "auto" else self.load_format,
                "quantization": quantization,
                "dtype": precision if self.dtype == "auto" else self.dtype,
            }
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def parse(values: Mapping[str, Any], source: str) -> EngineSettings:
    """The settings in `values`; `source` (a file, "the plan's engine bf16", …) is named in errors.

    Raises SettingsError naming source, key, value and what was expected.
    """
    return _validate(dict(values), dict.fromkeys(values, source), source)


def load_profile(
    path: Path | None,
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> EngineSettings:
    """The settings of a TOML profile, overlaid by NBRIDGE_SERVE_* variables, overlaid by flags.

    `environ` defaults to the process's. Flags that are None were not given. Raises SettingsError.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if path is not None:
        values = _read_toml(path)
        origins = dict.fromkeys(values, str(path))
    for variable, text in (os.environ if environ is None else environ).items():
        if variable.startswith(ENVIRONMENT_PREFIX):
            key, origin = variable.removeprefix(ENVIRONMENT_PREFIX).lower(), f"environment variable {variable}"
            values[key] = from_text(key, text, origin)
            origins[key] = origin
    for key, value in (flags or {}).items():
        if value is not None:
            values[key], origins[key] = value, f"flag --{key.replace('_', '-')}"
    return _validate(values, origins, str(path) if path else "the settings")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        kind = path.stat().st_mode
        # A pipe is what a shell makes of <(…); a device may never end.
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
            raise SettingsError(f"The profile {path} is no file but {'a folder' if path.is_dir() else 'a device'}.")
        with path.open("rb") as file:
            content = file.read(PROFILE_LIMIT_BYTES + 1)
        if len(content) > PROFILE_LIMIT_BYTES:
            raise SettingsError(f"The profile {path} is larger than {PROFILE_LIMIT_BYTES >> 20} MiB: no settings file.")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise SettingsError(f"The profile {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"The profile {path} is not valid TOML: {error}.") from None


def from_text(key: str, text: str, origin: str) -> object:
    """The value that a text means for a setting; lists and tables are JSON. Raises SettingsError naming the origin."""
    field = EngineSettings.model_fields.get(key)
    if field is None:
        raise SettingsError(_unknown(origin, key, text, EngineSettings))
    if get_origin(field.annotation) in (tuple, dict) or field.annotation == Speculative | None:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise SettingsError(f"{origin}: {key} = {text!r} is not valid JSON: {error}.") from None
    try:
        # rebuild_annotation keeps the field's bounds, so that the complaint about a bound is the same everywhere
        return TypeAdapter(field.rebuild_annotation()).validate_strings(text)
    except ValidationError as error:
        raise SettingsError(f"{origin}: {key} = {text!r}: {_expected(error.errors()[0])}.") from None


def _validate(values: dict[str, Any], origins: Mapping[str, str], source: str) -> EngineSettings:
    try:
        # JSON mode is strict about types (true is not 1, "8" is not 8) and takes a list for a tuple.
        return EngineSettings.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise SettingsError(" ".join(_explain(e, origins, source) for e in error.errors())) from None


def _explain(error: Any, origins: Mapping[str, str], source: str) -> str:
    location = [str(part) for part in error["loc"]]
    if not location:
        return f"{source}: {_expected(error)}."
    origin = origins.get(location[0], source)
    key = ".".join(location)
    if error["type"] == "missing":
        return f"{origin}: {key} is not set; expected {_kind_of(key)}."
    if error["type"] == "extra_forbidden":
        owner = Speculative if len(location) > 1 else EngineSettings
        return _unknown(origin, location[-1], error["input"], owner)
    if error["type"] == "value_error" and location[0] in ("extra_args", "environment"):
        return f"{origin}: {key}: {_expected(error)}."  # what they hold may be a secret
    return f"{origin}: {key} = {error['input']!r}: {_expected(error)}."


def _expected(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ").rstrip(".").replace("Input should be", "expected")


def _kind_of(key: str) -> str:
    return 'a model\'s directory, hub name or demo name, such as "demo-100m"' if key == "model" else "a value"


def _unknown(origin: str, key: str, value: object, owner: type[BaseModel]) -> str:
    known = list(owner.model_fields)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known settings: {', '.join(known)}."
    return f"{origin}: unknown setting {key} = {value!r}; {hint}"
