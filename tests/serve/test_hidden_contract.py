"""Every name of vLLM that the plugin stands on, against the installed version."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from serve.engine.command import build
from serve.engine.failure import classify
from serve.engine.settings import EngineSettings, Speculative, load_profile, parse
from serve.errors import ContractError, SettingsError, StartFailed, Unsupported
from serve.hidden_states import contract
from serve.hidden_states.contract import Use

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("vllm imported")]


def test_the_installed_vllm_has_all_of_it():
    uses = [*contract.WORKER, *contract.SERVER, contract.V1_RUNNER, contract.V2_RUNNER]
    assert contract.problems(uses) == []
    from vllm.v1.worker.cpu_worker import CPUWorker

    assert contract.worker_uses(CPUWorker) == []


def test_what_a_version_lacks_is_named():
    missing = contract.problems(
        [
            Use("json", "loads", parameters=("s",)),
            Use("json", "dumps", parameters=("obj", "indent", "never")),
            Use("json", "gone"),
            Use("no_such_module_at_all", "x"),
            Use("json", "JSONDecoder", attributes=("decode", "gone")),
            Use("serve.engine.settings", "EngineSettings", attributes=("model", "gone")),
            Use("serve.engine.command", "Command", attributes=("secrets", "argv", "gone")),
            Use("json", "JSONDecoder.decode", parameters=("s", "gone")),
        ]
    )
    assert missing == [
        "json.gone",
        "no_such_module_at_all.x",
        "json.JSONDecoder.gone",
        "serve.engine.settings.EngineSettings.gone",
        "serve.engine.command.Command.gone",
        "json.JSONDecoder.decode(gone)",
    ]


def test_a_worker_that_lost_a_method_or_a_parameter_is_named():
    class Changed:
        def load_model(self) -> None: ...

        def execute_model(self, step: object) -> None: ...

    assert [name.rpartition("Changed.")[2] for name in contract.worker_uses(Changed)] == [
        "compile_or_warm_up_model",
        "execute_model(scheduler_output)",
        "sample_tokens",
    ]


def test_a_version_that_does_not_fit_ends_the_start_with_a_clear_error():
    with pytest.raises(ContractError, match=r"does not fit this vLLM \(vllm.*it lacks a\.b, c") as caught:
        contract.refuse(["a.b", "c"])
    assert (caught.value.exit_code, caught.value.kind) == (3, "unsupported")
    log = f"Traceback (most recent call last):\nserve.errors.ContractError: {caught.value}\n"
    found = classify(log, 1).to_error()
    assert isinstance(found, Unsupported)
    assert "a.b, c" in str(found)


def words(settings: EngineSettings, device: str = "cpu") -> tuple[list[str], dict[str, str]]:
    command = build(settings, device=device)  # type: ignore[arg-type]
    return list(command.argv), dict(command.environment)


def test_a_server_is_hooked_unless_told_not_to():
    argv, environment = words(EngineSettings(model="/m"))
    assert argv[argv.index("--worker-cls") + 1] == "serve.hidden_states.worker.Worker"
    assert "--additional-config" not in argv
    assert environment["VLLM_PLUGINS"] == "nbridge"
    argv, environment = words(EngineSettings(model="/m", hidden_states=False))
    assert "--worker-cls" not in argv
    assert "VLLM_PLUGINS" not in environment


def test_a_compiled_server_is_told_its_layers():
    argv, _ = words(EngineSettings(model="/m", hidden_states_layers=(-4, "embeddings")), "gpu")
    declared = argv[argv.index("--additional-config") + 1]
    assert declared == '{"nbridge_hidden_states": {"layers": [-4, "embeddings"]}}'
    argv, _ = words(EngineSettings(model="/m", enforce_eager=False))
    assert '{"layers": [-2]}' in argv[argv.index("--additional-config") + 1]
    argv, _ = words(EngineSettings(model="/m", enforce_eager=True), "gpu")
    assert "--additional-config" not in argv
    own = EngineSettings(model="/m", extra_args=("--additional_config", "{}"))
    assert "--additional-config" not in words(own, "gpu")[0]
    with pytest.raises(SettingsError, match="hidden_states_layers is written into"):
        parse({"model": "/m", "extra_args": ["--additional-config={}"], "hidden_states_layers": [-3]}, "test")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"speculative": Speculative(method="ngram", num_speculative_tokens=2)}, "speculative decoding"),
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size"),
        ({"extra_args": ("--worker-cls", "mine.Worker")}, "--worker-cls"),
        ({"extra_args": ("--worker_cls=mine.Worker",)}, "--worker-cls"),
    ],
)
def test_an_engine_that_cannot_be_hooked_runs_without_and_says_why(values: dict[str, object], reason: str):
    settings = EngineSettings(model="/m", **values)  # type: ignore[arg-type]
    assert settings.hidden_states_obstacle is not None
    assert reason in settings.hidden_states_obstacle
    assert not settings.is_hooked
    argv, environment = words(settings)
    assert "serve.hidden_states.worker.Worker" not in argv
    assert "VLLM_PLUGINS" not in environment


def test_plugins_that_somebody_else_named_stay(monkeypatch: pytest.MonkeyPatch):
    from serve.engine.server import _environment

    settings = EngineSettings(model="/m", environment={"VLLM_PLUGINS": "other"})
    assert words(settings)[1]["VLLM_PLUGINS"] == "other,nbridge"
    monkeypatch.setenv("VLLM_PLUGINS", "from_shell")
    assert _environment(build(EngineSettings(model="/m"), device="cpu"))["VLLM_PLUGINS"] == "from_shell,nbridge"
    unhooked = EngineSettings(model="/m", hidden_states=False)
    assert _environment(build(unhooked, device="cpu"))["VLLM_PLUGINS"] == "from_shell"


def test_the_settings_come_from_files_variables_and_flags(tmp_path: Path):
    profile = tmp_path / "p.toml"
    profile.write_text('model = "/m"\nhidden_states_layers = [-3, "embeddings"]\n')
    assert load_profile(profile, environ={}).hidden_states_layers == (-3, "embeddings")
    environ = {"NBRIDGE_SERVE_HIDDEN_STATES": "false", "NBRIDGE_SERVE_HIDDEN_STATES_LAYERS": "[-1]"}
    settings = load_profile(profile, environ=environ)
    assert (settings.hidden_states, settings.hidden_states_layers) == (False, (-1,))
    with pytest.raises(SettingsError, match="hidden_states_layers"):
        load_profile(profile, flags={"hidden_states_layers": ["first"]}, environ={})
    with pytest.raises(SettingsError, match="empty"):
        load_profile(profile, flags={"hidden_states_layers": []}, environ={})


def test_the_worker_refuses_what_it_cannot_capture_beside():
    from serve.hidden_states.worker import _declared_taps, _refuse_unhookable

    def config(speculative: object = None, pipeline: int = 1) -> SimpleNamespace:
        parallel = SimpleNamespace(pipeline_parallel_size=pipeline)
        return SimpleNamespace(speculative_config=speculative, parallel_config=parallel)

    _refuse_unhookable(config())
    for bad in (config(speculative=object()), config(pipeline=2)):
        with pytest.raises(ContractError, match="cannot capture hidden states beside"):
            _refuse_unhookable(bad)
    assert _declared_taps({}, 4) == (3,)
    assert _declared_taps({}, 1) == (1,)
    assert _declared_taps({"nbridge_hidden_states": {"layers": [-1, "embeddings", "final_norm"]}}, 4) == (0, 4)
    for bad_layers in ([9], 3, ["first"]):
        with pytest.raises(ContractError, match="nbridge_hidden_states"):
            _declared_taps({"nbridge_hidden_states": {"layers": bad_layers}}, 4)


def test_lines_of_the_request_log_are_json_by_themselves(capsys: pytest.CaptureFixture[str]):
    from serve.plugin.telemetry import set_up_logging

    logger = logging.getLogger("nbridge.hidden_states")
    before = logger.handlers[:], logger.propagate, logging.getLogger().handlers[:]
    logging.getLogger().handlers.clear()
    logger.handlers.clear()
    try:
        set_up_logging()
        set_up_logging()
        assert len(logger.handlers) == 1
        logger.info('{"a": 1}')
        assert capsys.readouterr().err == '{"a": 1}\n'
    finally:
        logger.handlers, logger.propagate, logging.getLogger().handlers = before


def test_a_contract_error_is_no_start_failure_of_its_own():
    # The launcher sees it in the log of another process, and classifies it there.
    assert not issubclass(ContractError, StartFailed)
