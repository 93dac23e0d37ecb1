"""Logs as people have them: the cause that each names, what hides it, and logs in which nothing failed."""

import gzip
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from monitoring.doctor.checks import Finding
from monitoring.doctor.server_log import finding, log_finding
from monitoring.logs.causes import causes
from monitoring.logs.reading import Reading, read

HERE = Path(__file__).parent
EXCERPTS = tomllib.loads((HERE / "log_excerpts.toml").read_text(encoding="utf-8"))
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.25 GiB. GPU 0 has 1.18 GiB free."
READY = "(APIServer pid=1) INFO:     Application startup complete."

# Causes of which no public excerpt is kept: lines as the programs write them.
LINES = {
    "ValueError: Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than desired GPU memory utilization "
    "(0.92, 72.9 GiB).": "gpu-memory-taken",
    "[ 1234.567890] Out of memory: Killed process 4711 (python3) total-vm:1234kB, anon-rss:1kB": "kernel-killed-it",
    "      Reason:       OOMKilled": "kernel-killed-it",
    "zmq.error.ZMQError: Too many open files": "open-files",
    "RuntimeError: can't start new thread": "threads",
    "PermissionError: [Errno 13] Permission denied: '/.cache'": "permission",
    "OSError: [Errno 98] Address already in use": "port-in-use",
    "socket.gaierror: [Errno -2] Name or service not known": "address",
    "systemd[1]: vllm.service: Main process exited, code=dumped, status=4/ILL": "cpu-instructions",
    "RuntimeError: An attempt has been made to start a new process before the current process has finished its "
    "bootstrapping phase.": "spawn-guard",
    "torch.AcceleratorError: CUDA error: invalid device ordinal": "gpu-number",
    "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4": "dtype",
    "kernel: NVRM: Xid (PCI:0000:3b:00): 74, pid=812, NVLink: fatal error detected on link 3": "nvlink",
    "torch.AcceleratorError: CUDA error: an illegal memory access was encountered": "illegal-access",
    "[rank2]:[E1120 22:31:23.331871748 ProcessGroupNCCL.cpp:632] [Rank 2] Watchdog caught collective operation timeout"
    ": WorkNCCL(SeqNum=203441, OpType=ALLREDUCE, Timeout(ms)=600000)": "nccl-timeout",
    "RuntimeError: Version mismatch: The cluster was started with: Ray: 2.40.0": "ray-version",
    "ray.exceptions.RayActorError: The actor died unexpectedly before finishing this task.": "ray-lost",
    "Warning  FailedScheduling  2m  default-scheduler  0/3 nodes are available: 3 Insufficient nvidia.com/gpu.": (
        "k8s-schedule"
    ),
    'Warning  Failed  5s  kubelet  Failed to pull image "vllm/vllm-openai:v9": not found': "k8s-image",
    "serve.errors.ContractError: this vLLM lacks a.b": "contract",
    "/usr/bin/python: No module named vllm": "vllm-missing",
    "ImportError: libnuma.so.1: cannot open shared object file: No such file or directory": "system-libraries",
    "A module that was compiled using NumPy 1.x cannot be run in NumPy 2.0.1 as it may crash.": "numpy",
    "ImportError: This modeling file requires the following packages that were not found: einops.": "custom-packages",
    "ImportError: Please install bitsandbytes>=0.46.1 by running `pip install bitsandbytes`": "bitsandbytes",
    "ModuleNotFoundError: No module named 'flash_attn'": "flash-attention",
    "ImportError: cannot import name 'AutoVideoProcessor' from 'transformers' (/v/x)": "transformers-version",
    "ModuleNotFoundError: No module named 'vllm._C'": "missing-module",
    "huggingface_hub.errors.GatedRepoError: 403 Client Error. (Request ID: Root=1)": "hub-refused",
    "requests.exceptions.SSLError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed": "hub-certificate",
    "OSError: We couldn't connect to 'https://huggingface.co' to load the files": "hub-unreachable",
    "RuntimeError: Cannot find any model weights with `/models/m`": "weights-missing",
    "ValueError: The repository org/m contains custom code which must be executed to correctly load it.": "custom-code",
    "ValueError: Model architectures ['NewForCausalLM'] are not supported for now.": "architecture",
    "Exception: data did not match any variant of untagged enum ModelWrapper at line 1251003 column 3": "tokenizer",
    'ValueError: "auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set': "tool-choice",
    "ValueError: User-specified max_model_len (32768) is greater than the derived max_model_len (8)": "max-model-len",
    "ValueError: Total number of attention heads (14) must be divisible by tensor parallel size (4).": "parallel-size",
    "OSError: org/m does not appear to have a file named config.json.": "expected-config",
    "ValueError: The quantization method awq_marlin is not supported for the current GPU. Minimum capability: 80.": (
        "quantization"
    ),
    "ValueError: No valid attention backend found for cuda with head_size 576": "attention-backend",
    "vllm: error: unrecognized arguments: --max-nun-seqs": "arguments",
    "torch._inductor.exc.InductorError: CompilationError: at 10:12": "compile",
    "Fatal Python error: Segmentation fault": "crashed",
    "Exception: WorkerProc initialization failed due to an exception in a background process.": "ended-silently",
    "NotImplementedError: Sliding window is here": "unsupported",
    "OSError: config.json is what it is": "model",
    "ValueError: max_num_seqs must be at least 1": "refused-option",
}  # fmt: skip


def name(said: Reading) -> str | None:
    return said.cause.name if said.cause else None


@pytest.mark.parametrize("one", EXCERPTS["log"], ids=lambda one: str(one["cause"]))
def test_a_public_log_names_its_cause(one: dict[str, str]) -> None:
    said = read(one["text"].split("\n"))
    assert (said.failed, name(said)) == (True, one["cause"])
    assert said.words
    assert any(said.words[:40] in line for line in one["text"].split("\n"))


@pytest.mark.parametrize("line", LINES, ids=list(LINES.values()))
def test_a_line_names_its_cause(line: str) -> None:
    assert name(read([line])) == LINES[line]


@pytest.mark.parametrize("number", range(len(EXCERPTS["healthy"])))
def test_nothing_is_found_in_the_log_of_a_server_that_is_well(number: int) -> None:
    said = read(EXCERPTS["healthy"][number]["text"].split("\n"))
    assert (said.failed, said.was_ready) == (False, True), said.words
    assert finding(said) == Finding("Log", "ok", "nothing in it that ended the server")


def test_each_cause_has_an_example_and_says_what_to_do() -> None:
    assert {one.name for one in causes()} == {*LINES.values(), *(one["cause"] for one in EXCERPTS["log"])}
    for cause in causes():
        assert cause.says.endswith(".")
        assert len(cause.todo) > 20
        assert len(cause.says) < 160


@pytest.mark.parametrize(
    "line",
    [
        OOM,
        f"vllm-1  | (EngineCore_DP0 pid=812) ERROR 11-20 10:02:31 [core.py:708] {OOM}",
        f"[pod/vllm-0/vllm] (EngineCore pid=8) ERROR 11-20 10:02:31 [core.py:708] {OOM}",
        f"2025-11-20T10:02:31.123456789Z (EngineCore pid=8) ERROR 11-20 10:02:31 [core.py:708] {OOM}",
        f"2025-11-20T10:02:31.123456789Z stderr F ERROR 11-20 10:02:31 [core.py:708] {OOM}",
        f"Nov 20 10:02:31 node1 vllm[812]: {OOM}",
        f"2025-11-20T10:02:31+0000 node1 python3[812]: ERROR 11-20 10:02:31 [core.py:708] {OOM}",
        f"[rank0]: {OOM}",
        f"[1,0]<stderr>: {OOM}",
        f"\x1b[0;36m(EngineCore pid=8)\x1b[0;0m ERROR 11-20 10:02:31 [core.py:708] {OOM}",
        f"[0;36m(EngineCore pid=8)[0;0m ERROR 11-20 10:02:31 [core.py:708] {OOM}",
        f"#033[31m{OOM}#033[0m",
        f"(RayWorkerWrapper pid=812, ip=10.0.0.5) ERROR 04-11 11:26:12 [worker_base.py:620] {OOM}",
        f"(MapWorker(MapBatches(vLLMEngineActor)) pid=8, ip=10.0.0.5) (EngineCore pid=8) ERROR 03-08 17:27:28 "
        f"[core.py:1] {OOM}",
        f"vllm-7f9c-x2 vllm ERROR 11-20 10:02:31 [core.py:708] {OOM}",  # stern's, which has no mark of its own
        f"[2025-11-20 10:02:31 TP0] Scheduler hit an exception: {OOM}",
        f"2025-11-20 10:02:31,123 - engine - ERROR - {OOM}",
        f"2025-11-20 10:02:31.123 | ERROR    | engine:run:12 - {OOM}",
        f"2025-08-13 04:39:39,841 - __main__ - INFO - {OOM}",  # a program that logs another's words
        json.dumps({"log": f"ERROR 11-20 10:02:31 [core.py:708] {OOM}\n", "stream": "stderr", "time": "2025"}),
        json.dumps({"timestamp": "2025", "level": "ERROR", "fields": {"message": OOM}}),
        f"    | {OOM}",
    ],
)
def test_what_stands_before_a_line_hides_nothing(line: str) -> None:
    said = read(["INFO 11-20 10:01:50 [api_server.py:1839] vLLM API server version 0.11.0", line])
    assert name(said) == "gpu-memory"
    assert said.words == OOM or said.words == f"Scheduler hit an exception: {OOM}"


def test_the_cause_is_the_first_in_time_and_not_the_last_line() -> None:
    said = read(
        [
            "host:2777:5429 [0] misc/shmutils.cc:113 NCCL WARN Error while creating shared memory segment /dev/shm/x",
            "(Worker pid=8) ERROR 11-20 10:02:31 [w.py:1] torch.distributed.DistBackendError: NCCL error in: x",
            "(EngineCore pid=8) ERROR 11-20 10:02:33 [core.py:708] torch.OutOfMemoryError: CUDA out of memory.",
            "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'E': -9}",
        ]
    )
    assert name(said) == "shared-memory"


def test_the_source_code_in_a_stack_says_nothing() -> None:
    said = read(
        [
            "Traceback (most recent call last):",
            '  File "/v/vllm/worker.py", line 10, in load',
            '    raise RuntimeError("CUDA out of memory")',
            "           ^^^^^^^^^^^^",
            "KeyError: 'layers.0.mlp.weight'",
        ]
    )
    assert name(said) == "weights-shape"


def test_what_a_client_sent_is_no_word_of_the_engine() -> None:
    said = read(
        [
            READY,
            'INFO 11-20 10:02:31 [logger.py:1] Received request cmpl-1: prompt: "ERROR 11-20 10:02:31 [core.py:1] CUDA '
            'out of memory OOMKilled"',
            'INFO:     127.0.0.1:1 - "POST /v1/completions?x=OOMKilled HTTP/1.1" 200 OK',
            json.dumps({"event": "request", "text": OOM}),
            f"nbridge request text={OOM}",
        ]
    )
    assert not said.failed


def test_requests_that_fail_are_not_the_servers_end() -> None:
    refused = "ValueError: This model's maximum context length is 8192 tokens."
    assert not read([READY, "Traceback (most recent call last):", refused]).failed
    template = read([READY, "ERROR 08-14 16:17:00 [serving_chat.py:222] ChatTemplateResolutionError: no chat template"])
    assert name(template) == "chat-template"


def test_a_death_is_explained_by_what_stands_around_it() -> None:
    dead = "(APIServer pid=1) ERROR 11-20 11:40:12 [async_llm.py:480] EngineDeadError: EngineCore encountered an issue."
    said = read([READY, *["INFO: served"] * 500, "RuntimeError: CUDA error: unspecified launch failure", dead])
    assert (name(said), said.was_ready) == ("illegal-access", True)
    early = read([READY, "zmq.error.ZMQError: Too many open files", *["INFO: served"] * 500, dead])
    assert name(early) is None  # hours before: not what killed it
    assert early.failed
    assert name(read([READY, "TimeoutError: RPC call to execute_model timed out.", dead])) == "timeout"


def test_a_server_that_was_stopped_did_not_fail() -> None:
    said = read(
        [
            READY,
            "(EngineCore pid=8) INFO 08-21 10:24:34 [core.py:1214] [shutdown] trigger received signal=SIGTERM",
            "(APIServer pid=1) ERROR 08-21 10:24:34 [async_llm.py:704] AsyncLLM output_handler failed.",
            "(APIServer pid=1) ERROR 08-21 10:24:34 [async_llm.py:704] EngineDeadError: EngineCore ended.",
        ]
    )
    assert (said.failed, said.was_stopped) == (False, True)
    assert "somebody stopped" in finding(said).seen
    assert read(["Traceback (most recent call last):", "KeyboardInterrupt: terminated"]).was_stopped


def test_a_container_that_starts_again_and_again() -> None:
    start = "INFO 11-20 10:01:50 [api_server.py:1839] vLLM API server version 0.11.0"
    looping = read([start, "OSError: [Errno 28] No space left on device", start, OOM])
    assert (name(looping), looping.earlier) == ("gpu-memory", False)
    mended = read([start, OOM, start, READY])
    assert (name(mended), mended.earlier) == ("gpu-memory", True)
    assert finding(mended).verdict == "warn"


def test_warnings_count_only_where_the_start_failed() -> None:
    warning = "WARNING 06-13 11:42:20 _custom_ops.py:11] Failed to import: ImportError('_C.so: undefined symbol: x')"
    assert not read([warning]).failed
    assert name(read([warning, "AttributeError: 'NoneType' object has no attribute 'rms_norm'"])) == "undefined-symbol"


def test_what_is_not_known_is_said_with_the_lines_that_matter() -> None:
    raised = [f"Surprise{i}Error: number {i}" for i in range(8)]
    told = finding(read(["INFO: loading", *raised]))
    assert told.verdict == "fail"
    assert "not known here" in told.seen
    assert [line in told.seen for line in raised] == [True] * 5 + [False] * 3


def test_a_field_that_is_refused_keeps_its_name() -> None:
    said = read(
        [
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for SchedulerConfig",
            "max_num_seqs",
            "  Input should be greater than or equal to 1 [type=greater_than_equal, input_value=0]",
        ]
    )
    assert name(said) == "refused-option"
    assert said.words == "max_num_seqs Input should be greater than or equal to 1"


@pytest.mark.parametrize(
    "write",
    [
        lambda path, text: path.write_bytes(text.encode("utf-16")),  # PowerShell's >
        lambda path, text: path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()),
        lambda path, text: path.write_bytes(gzip.compress(text.encode())),
        lambda path, text: path.write_bytes(b"50%\r100%\r\xff\xfe\x00" + text.encode()),
    ],
)
def test_files_of_every_kind_are_read(tmp_path: Path, write: Callable[[Path, str], object]) -> None:
    write(tmp_path / "x.log", f"INFO: loading\n{OOM}\n")
    assert "GPU does not have the memory" in log_finding(tmp_path / "x.log").seen


@pytest.mark.slow
def test_a_log_that_is_longer_than_memory_should_be(tmp_path: Path) -> None:
    with (tmp_path / "x.log").open("w") as file:
        file.write(f"{OOM}\n")
        for number in range(60_000):  # its cause stands further from the end than any tail reaches
            file.write(
                f"(APIServer pid=1) ERROR 11-20 10:02:31 [a.py:1] AnyError: request {number} failed after that\n"
            )
    assert "GPU does not have the memory" in log_finding(tmp_path / "x.log").seen


def test_a_pipe_is_a_log() -> None:
    argv = [sys.executable, "-m", "nbridge", "doctor", "--log", "-", "--json"]
    answer = subprocess.run(argv, input=f"{OOM}\n", capture_output=True, text=True, check=False, cwd=HERE.parents[1])
    assert answer.returncode == 1
    assert "CUDA out of memory" in json.loads(answer.stdout)[0]["seen"]
