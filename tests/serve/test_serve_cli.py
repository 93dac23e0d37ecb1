"""`nbridge serve` as a program; a package called vllm that is the stand-in engine takes vLLM's place."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROGRAM = """
import sys, typer
from serve.cli import serve
from checkpoints.errors import CheckpointError
from serve.errors import ServeError
app = typer.Typer()
app.command()(serve)
try:
    app()
except (ServeError, CheckpointError) as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    package = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    shutil.copy(HERE / "fake_engine.py", package / "api_server.py")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("NBRIDGE_")}
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    return clean | {"PYTHONPATH": path, "NBRIDGE_CACHE": str(tmp_path / "cache")}


def run(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def begin(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--model", "demo-100m", "--port", "0", "--json", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_serves_until_ctrl_c(environment, tmp_path):
    with begin(environment, tmp_path) as program:
        document = json.loads(program.stdout.readline())
        assert document["model"] == "demo-100m"
        assert document["startup"]["kv_cache_tokens"] == 65536
        assert httpx.get(document["base_url"] + "/health", trust_env=False).status_code == 200
        assert (tmp_path / document["log"]).parent == tmp_path / "runs"
        program.send_signal(signal.SIGINT)
        assert program.wait(300) == 0
        told = program.stderr.read()
        assert program.stdout.read() == ""
    assert "curl http://127.0.0.1:" in told
    assert "Stopped." in told
    assert not psutil.pid_exists(document["pid"])


def test_sigterm_stops_it_too(environment, tmp_path):
    with begin(environment, tmp_path) as program:
        program.stdout.readline()
        program.send_signal(signal.SIGTERM)
        assert program.wait(300) == 0


def test_a_second_ctrl_c_does_not_wait_for_requests(environment, tmp_path):
    with begin({**environment, "FAKE_RUNNING": "1000000"}, tmp_path, "--drain-s", "600") as program:
        document = json.loads(program.stdout.readline())
        program.send_signal(signal.SIGINT)
        assert any("Ctrl-C again" in line for line in program.stderr)
        program.send_signal(signal.SIGINT)
        assert program.wait(300) == 130
    assert not psutil.pid_exists(document["pid"])


def test_ctrl_c_during_the_start_gives_up(environment, tmp_path):
    with begin(environment | {"FAKE_BEHAVIOUR": "unhealthy"}, tmp_path) as program:
        assert any("Starting vLLM" in line for line in program.stderr)
        program.send_signal(signal.SIGINT)
        assert program.wait(300) == 130


def test_a_server_that_dies_ends_the_program_with_4(environment, tmp_path):
    with begin(environment, tmp_path) as program:
        document = json.loads(program.stdout.readline())
        os.kill(document["pid"], signal.SIGKILL)
        assert program.wait(300) == 4
        told = program.stderr.read()
    assert "died while it served, by signal 9" in told
    assert "killed it because memory ran out" not in told  # this test did


def test_a_failed_start_is_one_paragraph_with_the_right_exit_code(environment, tmp_path):
    failing = environment | {"FAKE_BEHAVIOUR": "crash", "FAKE_LOG": str(HERE / "logs" / "unsupported_fp8.log")}
    done = run(failing, tmp_path, "--model", "demo-100m", "--port", "0", "--log-file", "x.log")
    assert done.returncode == 3
    last = done.stderr.strip().splitlines()[-1]
    assert "static_scaled_fp8_quant" in last
    assert "x.log" in last
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_vllm_it_says_what_to_install(environment, tmp_path):
    hidden = tmp_path / "site" / "sitecustomize.py"
    hidden.write_text("import sys\nsys.modules['vllm'] = None\n")
    shutil.rmtree(tmp_path / "site" / "vllm")
    done = run(environment, tmp_path, "--model", "demo-100m", "--port", "0")
    assert done.returncode == 3
    assert "vLLM is not installed" in done.stderr


def test_the_command_can_be_printed(environment, tmp_path):
    (tmp_path / "p.toml").write_text('model = "demo-100m"\nmax_num_seqs = 4\nextra_args = ["--max-logprobs", "9"]\n')
    variables = environment | {"NBRIDGE_SERVE_MAX_NUM_SEQS": "8", "KEY": "hush"}
    arguments = ["--profile", "p.toml", "--max-model-len", "512", "--api-key-env", "KEY", "--print-command"]
    done = run(variables, tmp_path, *arguments, "--json", "--", "--generation-config", "vllm")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    argv = document["argv"]
    assert argv[argv.index("--max-num-seqs") + 1] == "8"
    assert argv[argv.index("--max-model-len") + 1] == "512"
    assert argv[argv.index("--load-format") + 1] == "dummy"
    assert argv[-4:] == ["--max-logprobs", "9", "--generation-config", "vllm"]
    assert document["secrets"] == {"VLLM_API_KEY": "KEY"}
    plain = run(variables, tmp_path, *arguments)
    assert plain.stdout.startswith("VLLM_NO_USAGE_STATS=1 ")
    assert 'VLLM_API_KEY="$KEY"' in plain.stdout
    assert "hush" not in done.stdout + plain.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "model is not set"),
        (["--model", "demo-100m", "--max-num-seqs", "0"], "flag --max-num-seqs"),
        (["--model", "demo-100m", "--host", "0.0.0.0"], "api_key_env"),
        (["--model", "demo-100m", "--", "--api-key", "x"], "What --api-key takes is a secret"),
        (["--model", "demo-100"], "demo-100m"),
        (["demo-100m", "--model", "demo-1m"], "model is 'demo-1m' before -- and 'demo-100m' after it"),
        (["--model", "demo-100m", "--max-num-seqs", "4", "--", "--max-num-seqs", "8"], "max_num_seqs is 4 before --"),
        (["--model", "demo-100m", "--", "--max-num-seqs", "many"], "after --: max_num_seqs = 'many'"),
        (["--model", "demo-100m", "--", "--hf-token", "hf_AbCdEfGhIjKlMnOpQr"], "environment variable HF_TOKEN"),
        (["--profile", "/dev/zero"], "no file but a device"),
    ],
)
def test_bad_usage_is_2(environment, tmp_path, arguments, words):
    done = run(environment, tmp_path, *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert words in done.stderr
    assert "AbCdEf" not in done.stdout + done.stderr


def test_options_of_vllm_after_the_dashes_set_what_is_ours(environment, tmp_path):
    done = run(
        environment, tmp_path, "--print-command", "--json", "--max-num-seqs", "8", "--", "demo-100m",
        "--max-num-batched-tokens", "2k", "--max-num-seqs=8", "--no-enable-prefix-caching", "--max-logprobs", "9",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    argv = json.loads(done.stdout)["argv"]
    assert argv[argv.index("--max-num-batched-tokens") + 1] == "2000"
    assert argv[-2:] == ["--max-logprobs", "9"]
    assert "--no-enable-prefix-caching" in argv
    assert [word for word in argv if word.startswith("--max-num-seqs")] == ["--max-num-seqs"]
