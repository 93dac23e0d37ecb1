"""The life of a server, with the stand-in engine: ready, failing, draining, and killed from every side."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from waiting import wait_for

from serve import errors
from serve.engine import server
from serve.engine.command import Command
from serve.engine.settings import EngineSettings
from serve.processes import port
from serve.processes.process import OwnedProcess

pytestmark = pytest.mark.slow

FAKE = Path(__file__).with_name("fake_engine.py")
LOGS = Path(__file__).with_name("logs")
ROOT = Path(__file__).parents[2]


def settings_and_command(behaviour: str = "serve", running: int = 0, **more) -> tuple[EngineSettings, Command]:
    settings = EngineSettings(model="/models/x", port=port.pick("127.0.0.1"), **more)
    argv = (sys.executable, str(FAKE), "--port", str(settings.port), "--model", settings.model)
    argv += ("--served-model-name", "x", "--behaviour", behaviour, "--running", str(running))
    return settings, Command(argv)


def start(tmp_path: Path, behaviour: str = "serve", running: int = 0, **more) -> server.Server:
    settings, command = settings_and_command(behaviour, running)
    return server.start(settings, log_path=tmp_path / "server.log", command=command, timeout_s=300, **more)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(pids: list[int]) -> None:
    assert pids
    wait_for(lambda: not any(map(is_alive, pids)))


def children_of(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children()]


# --- ready ----------------------------------------------------------------------------------------------------


def test_a_server_starts_tells_about_itself_and_leaves_nothing(tmp_path):
    lines, waits = [], []
    with start(tmp_path, on_line=lines.append, on_wait=waits.append) as running:
        pids = running.pids()
        assert pids[0] == running.pid == running.pgid
        assert len(pids) == 3
        assert running.model_name == "x"
        assert running.failure() is None
        facts = running.startup.as_dict()
        assert facts["ready_s"] > 0
        assert facts["engine_version"] == "0.32.0"
        assert (facts["kv_cache_tokens"], facts["kv_cache_bytes"]) == (65536, 1 << 30)
        assert (facts["num_gpu_blocks"], facts["block_size"]) == (512, 128)
    assert not any(map(is_alive, pids))
    assert port.is_free("127.0.0.1", running.settings.port)
    assert running.pids() == []
    assert running.failure() is None
    assert lines == [line for line in running.log_path.read_text().splitlines() if line.strip()]
    assert waits == sorted(waits)
    running.stop()


def test_a_grandchild_with_its_own_session_is_ended_too(tmp_path):
    with start(tmp_path, "detached") as running:
        pids = running.pids()
        assert len({os.getsid(pid) for pid in pids}) == 2
    assert not any(map(is_alive, pids))


def test_port_zero_becomes_a_free_port():
    settings = server.with_free_port(EngineSettings(model="m", port=0))
    assert settings.port > 0
    assert port.is_free("127.0.0.1", settings.port)


def test_the_key_reaches_the_server_through_the_environment_only(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "hush-hush")
    settings, command = settings_and_command(api_key_env="MY_KEY")
    command = Command(command.argv, secrets={"VLLM_API_KEY": "MY_KEY"})
    with server.start(settings, log_path=tmp_path / "log", command=command, timeout_s=300) as running:
        lines = [" ".join(psutil.Process(pid).cmdline()) for pid in [*running.pids(), *children_of(os.getpid())]]
        assert not [line for line in lines if "hush-hush" in line]
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(errors.SettingsError, match="MY_KEY is not set"):
        server.start(settings, log_path=tmp_path / "log", command=command)


# --- not ready ------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_refused_with_its_owner(tmp_path):
    settings, command = settings_and_command()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        taken.bind(("127.0.0.1", settings.port))
        taken.listen()
        with pytest.raises(errors.PortInUse, match=rf"process {os.getpid()} \("):
            server.start(settings, log_path=tmp_path / "log", command=command)


def test_a_wildcard_listener_on_the_same_port_is_seen(tmp_path):
    settings, command = settings_and_command()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("0.0.0.0", settings.port))
        taken.listen()
        with pytest.raises(errors.PortInUse):
            server.start(settings, log_path=tmp_path / "log", command=command)


@pytest.mark.parametrize(("host", "port_number"), [("192.0.2.1", 8000), ("192.0.2.1", 0), ("no.such.host.invalid", 0)])
def test_an_address_that_is_not_this_machines_is_a_setting_to_correct(tmp_path, host, port_number):
    settings = EngineSettings(model="/models/x", host=host, port=port_number, allow_no_api_key=True)
    with pytest.raises(errors.SettingsError, match="cannot listen there") as caught:
        server.start(settings, log_path=tmp_path / "log", command=Command(("true",)))
    assert caught.value.exit_code == 2


def test_a_failed_start_is_classified_and_leaves_nothing(tmp_path):
    settings, command = settings_and_command("crash")
    command = Command(command.argv, {"FAKE_LOG": str(LOGS / "kv_cache_too_small.log")})
    before = set(children_of(os.getpid()))
    with pytest.raises(errors.OutOfMemory, match="larger than the available KV cache memory") as caught:
        server.start(settings, log_path=tmp_path / "deep" / "server.log", command=command, timeout_s=300)
    assert caught.value.log_path == tmp_path / "deep" / "server.log"
    assert set(children_of(os.getpid())) == before


@pytest.mark.parametrize("behaviour", ["unhealthy", "other-model", "never"])
def test_what_is_not_our_healthy_model_is_never_ready(tmp_path, behaviour):
    others = set(psutil.Process().children(recursive=True))  # a server that other tests share
    started: set[psutil.Process] = set()

    def is_up() -> bool:
        started.update(set(psutil.Process().children(recursive=True)) - others)
        return behaviour == "never" or port.listens([process.pid for process in started], settings.port)

    def never_stop() -> bool:
        wait_for(is_up)  # what shall be refused has to be there, however long its start takes
        return False

    settings, command = settings_and_command(behaviour)
    with pytest.raises(errors.StartTimeout, match="was not ready after"):
        server.start(
            settings,
            log_path=tmp_path / "log",
            command=command,
            timeout_s=1.5,
            should_stop=never_stop,
            term_grace_s=0.2,
        )
    wait_until_gone([process.pid for process in started])


def test_another_process_that_answers_on_the_port_is_not_our_server(tmp_path):
    # The port is taken only after the start, so that just the ownership of the socket can tell.
    settings, command = settings_and_command("never")
    argv = [sys.executable, str(FAKE), "--port", str(settings.port), "--model", settings.model]
    other = psutil.Popen([*argv, "--served-model-name", "x"], stdout=subprocess.DEVNULL)
    try:

        def other_is_up() -> bool:
            return port.listens([other.pid], settings.port)

        def begin(elapsed_s: float) -> None:
            if elapsed_s < 30:
                wait_for(other_is_up)

        with pytest.raises((errors.StartTimeout, errors.PortInUse)):
            server.start(
                settings, log_path=tmp_path / "log", command=command, timeout_s=2, on_wait=begin, term_grace_s=0.2
            )
    finally:
        for process in [*other.children(recursive=True), other]:
            process.kill()
        other.wait()


def test_a_start_can_be_given_up(tmp_path):
    with pytest.raises(errors.StartCancelled) as caught:
        start(tmp_path, "never", should_stop=lambda: True, term_grace_s=0.2)
    assert caught.value.exit_code == 130


def test_a_program_that_is_not_there(tmp_path):
    settings, _ = settings_and_command()
    with pytest.raises(errors.StartFailed, match="/no/such/program: No such file"):
        server.start(settings, log_path=tmp_path / "log", command=Command(("/no/such/program",)))


def test_a_log_that_cannot_be_written(tmp_path):
    settings, command = settings_and_command()
    with pytest.raises(errors.StartFailed, match="Is a directory"):
        server.start(settings, log_path=tmp_path, command=command)


# --- drain ----------------------------------------------------------------------------------------------------


def test_draining_waits_for_running_requests(tmp_path):
    running = start(tmp_path, running=3)
    running.stop(drain_s=60)
    assert "metrics asked, 0 left" in running.log_path.read_text()


def test_draining_ends_at_its_limit(tmp_path):
    running = start(tmp_path, running=1_000_000)
    running.stop(drain_s=0.5)
    assert running.pids() == []


def test_requests_in_flight_are_summed_over_engines():
    metrics = (
        "# TYPE vllm:num_requests_running gauge\n"
        'vllm:num_requests_running{engine="0"} 2.0\nvllm:num_requests_running{engine="1"} 1.0\n'
        'vllm:num_requests_waiting{engine="0"} 4.0\nvllm:num_requests_waiting_by_reason{engine="0"} 4.0\n'
    )
    assert server.requests_in_flight(metrics) == 7


# --- killed ---------------------------------------------------------------------------------------------------


def test_killing_the_api_server_leaves_nothing_and_is_noticed(tmp_path):
    running = start(tmp_path)
    pids = running.pids()
    os.kill(running.pid, signal.SIGKILL)
    wait_until_gone(pids)
    wait_for(running.failure)
    died = running.failure()
    assert isinstance(died, errors.EngineDied)
    assert "signal 9" in str(died)
    assert (died.kind, died.exit_code) == ("died", 4)
    running.stop()


def test_killing_the_engine_core_leaves_nothing_and_is_noticed(tmp_path):
    running = start(tmp_path)
    pids = running.pids()
    os.kill(pids[1], signal.SIGKILL)
    wait_for(running.failure)
    wait_until_gone(pids)
    running.stop()


def guards_of(command_pid: int, parent_pid: int) -> dict[str, int]:
    """The pids of keeper and warden, found as anyone could."""
    warden = psutil.Process(command_pid).parent()
    keeper = warden.parent()
    assert keeper.ppid() == parent_pid
    return {"warden": warden.pid, "keeper": keeper.pid}


@pytest.mark.parametrize("killed", [["warden"], ["keeper"], ["warden", "keeper"]], ids="+".join)
def test_killing_the_guards_leaves_nothing_and_is_noticed(tmp_path, killed):
    running = start(tmp_path, "detached")
    pids, guards = running.pids(), guards_of(running.pid, os.getpid())
    for name in killed:
        os.kill(guards[name], signal.SIGKILL)
    wait_until_gone([*pids, *guards.values()])
    wait_for(running.failure)
    running.stop()


PARENT = """
import json, os, sys, time
from pathlib import Path
from serve.engine import server
from serve.engine.command import Command
from serve.engine.settings import EngineSettings
spec = json.loads(sys.argv[1])
settings = EngineSettings(model="/models/x", port=spec["port"])
running = server.start(settings, log_path=Path(spec["log"]), command=Command(tuple(spec["argv"])), timeout_s=300)
forked = os.fork() if spec["fork"] else None
if forked == 0:  # holds the parent's end of the control pipe open
    os.close(1)
    time.sleep(600)
    os._exit(0)
print(json.dumps({"pids": running.pids(), "forked": forked}), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["kill", "term", "end", "kill with warden", "kill with keeper", "kill leaving a fork"])
def test_killing_the_parent_leaves_nothing(tmp_path, how):
    settings, command = settings_and_command()
    spec = {"port": settings.port, "log": str(tmp_path / "log"), "argv": command.argv, "fork": "fork" in how}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, json.dumps(spec)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        told = json.loads(parent.stdout.readline())
        guards = guards_of(told["pids"][0], parent.pid)
        parent.send_signal(signal.SIGSTOP)  # it must not help while the guards are being killed
        if "with" in how:
            os.kill(guards[how.split()[-1]], signal.SIGKILL)
        if "kill" in how:
            parent.kill()
        elif how == "term":
            parent.terminate()
        else:
            parent.stdin.close()  # the program simply ends without stopping its server
        parent.send_signal(signal.SIGCONT)
        parent.wait()
        wait_until_gone([*told["pids"], *guards.values()])
        if told["forked"]:
            os.kill(told["forked"], signal.SIGKILL)


def test_a_process_is_stopped_by_sigterm_when_it_listens_to_it(tmp_path):
    program = "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); signal.pause()"
    log = tmp_path / "log"
    with OwnedProcess([sys.executable, "-c", program], environment=dict(os.environ), log_path=log) as process:
        wait_for(lambda: "up" in log.read_text())
        process.stop(60)
        assert process.exit_status() == 7
