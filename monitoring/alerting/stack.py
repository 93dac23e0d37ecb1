"""The stack: exporter, Prometheus and Alertmanager on this machine, from one settings file, for the given servers.

    settings ─► rules, prometheus.yml, alertmanager.yml ─► promtool, amtool ─► three processes ─► ready ─► watched

Nothing is started before its configuration was checked. Everything listens on the loopback address alone and keeps its
data in one folder:

    <data>/config/    what was generated, with receivers' secrets: for the owner only
    <data>/prometheus/  <data>/alertmanager/  <data>/logs/
"""

import contextlib
import fcntl
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import httpx

from monitoring.alerting import alertmanager, prometheus, rulefiles
from monitoring.alerting.prometheus import Targets
from monitoring.alerting.recording import SERIES, duration
from monitoring.alerting.thresholds import LATENCIES, Runbooks, Thresholds, bound_problem
from monitoring.errors import MissingProgram, PortTaken, RulesRefused, SettingsError, StackFailed
from monitoring.scrape.http_exchange import certificates
from monitoring.scrape.metrics import MetricsError, Sample, fetch, parse

HOST = "127.0.0.1"
RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks.md"
READY_TIMEOUT_S = 120.0  # Prometheus reads its whole write-ahead log before it is ready
STOP_GRACE_S = 10.0
RESEND_EVALUATIONS = 4  # an alert that still fires is repeated to Alertmanager after so many evaluations
_WATCH_S = 0.2
_LOCK = "nbridge-stack.lock"
# What is needed → names under which distributions install it, and the Debian package.
_PROGRAMS = {
    "prometheus": (("prometheus",), "prometheus"),
    "promtool": (("promtool",), "prometheus"),
    "alertmanager": (("prometheus-alertmanager", "alertmanager"), "prometheus-alertmanager"),
    "amtool": (("amtool",), "prometheus-alertmanager"),
}


class Process(Protocol):
    """A started program (serve.processes.process.OwnedProcess), which dies with this process."""

    pid: int

    def exit_status(self) -> int | None: ...
    def stop(self, grace_s: float) -> None: ...


# (argv, log file) → the running process
Start = Callable[[Sequence[str], Path], Process]


@dataclass(frozen=True)
class Ports:
    """Where the three parts listen on the loopback address; no exporter of its own when `exporter` is None."""

    prometheus: int
    alertmanager: int
    exporter: int | None


@dataclass(frozen=True)
class Part:
    """One program of the stack: what to execute, where it logs, and the page that answers once it is ready."""

    name: str
    argv: tuple[str, ...]
    url: str
    ready_path: str
    log_path: Path


@dataclass(frozen=True)
class Plan:
    """A stack as it is asked for. `api_key_env` names the variable with the servers' key, for the canaries."""

    settings: Thresholds
    targets: Targets
    data: Path
    ports: Ports
    rules: tuple[Path, ...] = ()
    api_key_env: str | None = None


def find_programs(which: Callable[[str], str | None] = shutil.which) -> dict[str, str]:
    """The paths of Prometheus, Alertmanager and their checkers. Raises MissingProgram with what to install."""
    found = {name: next(filter(None, map(which, names)), None) for name, (names, _) in _PROGRAMS.items()}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        packages = " ".join(sorted({_PROGRAMS[name][1] for name in missing}))
        raise MissingProgram(
            f"Not on PATH: {', '.join(missing)}. On Debian and Ubuntu: apt-get install {packages}, and then systemctl "
            "disable --now prometheus prometheus-alertmanager where those packages started their own services; "
            "elsewhere, put the programs from prometheus.io/download on PATH."
        )
    return {name: path for name, path in found.items() if path is not None}


@contextlib.contextmanager
def locked(data: Path) -> Iterator[None]:
    """Hold the data folder for one stack.

    Raises SettingsError while another one has it, when it cannot be written, or holds what is not a stack's.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        if any(data.iterdir()) and not (data / _LOCK).exists():
            raise SettingsError(
                f"The folder {data} has files in it that are not a stack's, and generated ones would replace some; "
                "--data names a new or empty folder."
            )
        lock = (data / _LOCK).open("w", encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"The data folder {data} cannot be used: {error.strerror}; choose one with --data."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"Another stack keeps its data in {data}; end it first, or give this one a folder with --data."
            ) from None
        yield


def check_servers(
    settings: Thresholds, servers: Sequence[str], read: Callable[[str], str] = lambda url: fetch(url, timeout_s=3.0)
) -> list[str]:
    """What is wrong with the servers as they answer now, one line each; a server may also come later.

    Raises SettingsError when a threshold is no bound of a server's histogram: requests over it could not be counted.
    """

    def problems(url: str) -> list[str]:
        try:
            samples = parse(read(url))
        except MetricsError as error:
            return [f"{error}; it is watched all the same."]
        if not any(sample.name == "vllm:num_requests_running" for sample in samples):
            return [f"{url}/metrics has no vLLM metrics; ServerWithoutMetrics will say so."]
        for name in LATENCIES:
            bounds = bucket_bounds(samples, SERIES[name])
            if bounds and (problem := bound_problem(settings.slo.latency(name).threshold_s, bounds)):
                raise SettingsError(f"slo.{name}.threshold_s = {problem} (as {url} exports them).")
        return []

    with ThreadPoolExecutor(max_workers=16) as pool:
        return [line for lines in pool.map(problems, servers) for line in lines]


def bucket_bounds(samples: Sequence[Sample], series: str) -> tuple[float, ...]:
    """The upper bounds in seconds that a page's histogram has, +Inf left out; none when the page lacks it."""
    found = {float(s.labels["le"]) for s in samples if s.name == f"{series}_bucket" and "le" in s.labels}
    return tuple(sorted(found - {float("inf")}))


def linked(plan: Plan) -> Thresholds:
    """The settings with a link to the runbooks that a browser on this machine can open: the exporter's own page.

    An address that the settings name stays; without an exporter of ours the link is the file's.
    """
    if "://" in plan.settings.runbooks.url:
        return plan.settings
    url = RUNBOOKS.as_uri() if plan.ports.exporter is None else f"http://{HOST}:{plan.ports.exporter}/runbooks"
    return plan.settings.model_copy(update={"runbooks": Runbooks(url=url)})


def prepare(plan: Plan, programs: Mapping[str, str]) -> list[Part]:
    """Write the configuration, have it checked, and return what to start, in order.

    Raises RulesRefused with the checker's words, SettingsError for a target or secret that is not usable.
    """
    config = plan.data / "config"
    shutil.rmtree(config, ignore_errors=True)
    config.mkdir(parents=True)
    config.chmod(0o700)
    (plan.data / "logs").mkdir(exist_ok=True)
    routing, secrets = alertmanager.configuration(plan.settings, config)
    for path, content in secrets.items():
        _write_private(path, content)
    _write_private(config / "alertmanager.yml", rulefiles.to_yaml(routing))
    _write_private(config / "settings.json", plan.settings.model_dump_json(indent=1) + "\n")
    exporters = (f"http://{HOST}:{plan.ports.exporter}",) if plan.ports.exporter else ()
    scraped = prometheus.configuration(
        plan.settings,
        replace(plan.targets, exporters=(*exporters, *plan.targets.exporters)),
        rule_files=[*rulefiles.write(linked(plan), config / "rules"), *plan.rules],
        prometheus=f"{HOST}:{plan.ports.prometheus}",
        alertmanager=f"{HOST}:{plan.ports.alertmanager}",
    )
    _write_private(config / "prometheus.yml", rulefiles.to_yaml(scraped))
    _check([programs["promtool"], "check", "config", str(config / "prometheus.yml")], "Prometheus'")
    _check([programs["amtool"], "check-config", str(config / "alertmanager.yml")], "Alertmanager's")
    return _parts(plan, programs)


def _parts(plan: Plan, programs: Mapping[str, str]) -> list[Part]:
    data, config, ports = plan.data.absolute(), (plan.data / "config").absolute(), plan.ports
    addresses = {"prometheus": f"{HOST}:{ports.prometheus}", "alertmanager": f"{HOST}:{ports.alertmanager}"}
    argvs: dict[str, tuple[str, ...]] = {}
    if ports.exporter:
        addresses["exporter"] = f"{HOST}:{ports.exporter}"
        argvs["exporter"] = (
            *(sys.executable, "-m", "nbridge", "exporter", "--host", HOST, "--port", str(ports.exporter)),
            *("--canary-interval", f"{plan.settings.canary.interval_s:g}"),
            *("--canary-deadline", f"{plan.settings.canary.timeout_s:g}"),
            *(word for url in plan.targets.servers for word in ("--server", url)),
            *(word for path in plan.targets.files for word in ("--targets", str(path.absolute()))),
            *(("--api-key-env", plan.api_key_env) if plan.api_key_env else ()),
        )
    argvs["alertmanager"] = (
        programs["alertmanager"],
        f"--config.file={config / 'alertmanager.yml'}",
        f"--storage.path={data / 'alertmanager'}",
        f"--web.listen-address={addresses['alertmanager']}",
        "--cluster.listen-address=",  # alone: no gossip port
    )
    argvs["prometheus"] = (
        programs["prometheus"],
        f"--config.file={config / 'prometheus.yml'}",
        f"--storage.tsdb.path={data / 'prometheus'}",
        f"--storage.tsdb.retention.time={plan.settings.timing.retention_days}d",
        f"--web.listen-address={addresses['prometheus']}",
        # What fires in the first seconds, before Prometheus knows its Alertmanager, is told by the next repetition.
        f"--rules.alert.resend-delay={duration(RESEND_EVALUATIONS * plan.settings.timing.evaluation_interval_s)}",
    )
    ready = {"exporter": "/health", "alertmanager": "/-/ready", "prometheus": "/-/ready"}
    return [
        Part(name, argv, f"http://{addresses[name]}", ready[name], plan.data / "logs" / f"{name}.log")
        for name, argv in argvs.items()
    ]


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _check(argv: Sequence[str], whose: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        # The checkers print what is fine, too, and go through the files in a random order.
        lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines()]
        told = [line for line in lines if line and not line.startswith("Checking") and "SUCCESS" not in line]
        name = Path(argv[0]).name
        raise RulesRefused(
            f"{name} refuses {whose} configuration, and nothing was started. It says: {' '.join(told) or 'nothing'}"
        )


class Stack:
    """The started parts; `start` returns when all are ready, `stop` when none is left."""

    def __init__(self) -> None:
        self.running: list[tuple[Part, Process]] = []

    def start(self, parts: Sequence[Part], start: Start, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Start all parts and wait until each answers; False when `should_stop` said so before.

        Raises StackFailed with the end of its log when one ends or is not ready in time.
        """
        for part in parts:
            try:
                self.running.append((part, start(part.argv, part.log_path)))
            except OSError as error:
                raise StackFailed(f"{part.argv[0]} cannot be executed: {error.strerror}.") from error
        deadline = time.monotonic() + READY_TIMEOUT_S
        waiting = list(self.running)
        while waiting and not should_stop():
            self.check()
            waiting = [(part, process) for part, process in waiting if not _is_ready(part)]
            if waiting and time.monotonic() > deadline:
                part = waiting[0][0]
                raise StackFailed(f"{part.name} is not ready after {READY_TIMEOUT_S:.0f} s. {_last_words(part)}")
            if waiting:
                time.sleep(_WATCH_S)
        return not waiting

    def watch(self, should_stop: Callable[[], bool]) -> None:
        """Return when `should_stop` says so. Raises StackFailed as soon as a part has ended."""
        while not should_stop():
            self.check()
            time.sleep(_WATCH_S)

    def check(self) -> None:
        """Raises StackFailed when a part has ended."""
        for part, process in self.running:
            if (status := process.exit_status()) is not None:
                ended = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
                raise StackFailed(f"{part.name} {ended}; the rest is stopped. {_last_words(part)}")

    def stop(self) -> None:
        """End all parts, the last started first: Prometheus writes its head to disk."""
        while self.running:
            self.running.pop()[1].stop(STOP_GRACE_S)

    def document(self, plan: Plan) -> dict[str, object]:
        """The stack as a program reads it: addresses, processes, folders."""
        return {
            **{part.name: {"url": part.url, "pid": process.pid} for part, process in self.running},
            "data": str(plan.data.absolute()),
            "servers": list(plan.targets.servers),
            "target_files": [str(path) for path in plan.targets.files],
            "receivers": [receiver.name for receiver in plan.settings.receivers],
        }


def _is_ready(part: Part) -> bool:
    try:
        return (
            httpx.get(part.url + part.ready_path, timeout=1.0, trust_env=False, verify=certificates()).status_code
            == 200
        )
    except httpx.HTTPError:
        return False


def _last_words(part: Part) -> str:
    try:
        lines = part.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    told = [line for line in lines if "level=error" in line or "rror" in line][-2:] or lines[-2:]
    words = f'It said: "{" ".join(told)[-600:]}". ' if told else ""
    return f"{words}Its log: {part.log_path}"


def taken(port: int, wanted_by: str, owner: tuple[int, str] | None) -> PortTaken:
    """The error for a port that another program has; `owner` is its (pid, command) where that can be known."""
    who = f"process {owner[0]} ({owner[1]})" if owner else "another program"
    service = {"prometheus": "prometheus", "alertmanager": "prometheus-alertmanager"}.get(wanted_by)
    hint = f"systemctl stop {service} ends a distribution's own service; " if service else ""
    return PortTaken(
        f"Port {port} of {HOST}, for {wanted_by}, is taken by {who}. {hint}--{wanted_by}-port names another (0: any)."
    )
