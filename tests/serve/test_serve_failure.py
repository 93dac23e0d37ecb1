from pathlib import Path

import pytest

from monitoring.logs.causes import causes
from monitoring.logs.reading import WORDS_LIMIT
from serve import errors
from serve.engine import failure
from serve.processes.memory_kills import NOT_LOOKED, MemoryKills, MemoryVerdict

LOGS = Path(__file__).with_name("logs")

# The logs are vLLM 0.32's own, on a CPU, with frames left out.
REAL = {
    "bad_argument": (errors.BadArgument, "unrecognized arguments: --max-nun-seqs"),
    "bitsandbytes_not_installed": (errors.Unsupported, "Unknown quantization method: bitsandbytes"),
    "cpu_memory_too_small": (errors.OutOfMemory, "requested memory for kv (9000.0 GiB)"),
    "heads_not_divisible": (errors.BadArgument, "must be divisible by tensor parallel size (64)"),
    "engine_core_killed": (errors.StartFailed, "Failed core proc(s): {'EngineCore': -9}"),
    "hub_unreachable": (errors.BadModel, "Name or service not known"),
    "kv_cache_too_small": (errors.OutOfMemory, "estimated maximum model length is 1048448"),
    "missing_directory": (errors.BadModel, "'/models/nothere'"),
    "missing_weights": (errors.MissingWeights, "Cannot find any model weights with `/models/tiny`"),
    "no_config": (errors.BadModel, "Invalid repository ID or local directory specified"),
    "no_tokenizer": (errors.BadModel, "backend tokenizer"),
    "port_in_use": (errors.PortInUse, "Address already in use"),
    "unknown_model_type": (errors.BadModel, "model type `nosuchmodel`"),
    "unknown_quantization": (errors.Unsupported, "Unknown quantization method: nonsense"),
    "unsupported_architecture": (errors.BadModel, "['NoSuchModelForCausalLM'] are not supported"),
    "worker_killed": (errors.StartFailed, "WorkerProc initialization failed"),
    "unsupported_fp8": (errors.Unsupported, "_C::static_scaled_fp8_quant()"),
}

# Lines as vLLM, torch and huggingface_hub write them where this machine cannot.
LINES = {
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB": (
        errors.OutOfMemory
    ),
    "ValueError: Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than desired GPU memory utilization "
    "(0.92, 72.9 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.": (
        errors.OutOfMemory
    ),
    "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`": errors.OutOfMemory,
    "ValueError: The model's max seq len (8192) is larger than the maximum number of tokens that can be stored in KV "
    "cache (4096).": errors.OutOfMemory,
    "terminate called after throwing an instance of 'std::bad_alloc'": errors.OutOfMemory,
    "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory": (
        errors.OutOfMemory
    ),
    "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1)": errors.Unauthorized,
    "OSError: You are trying to access a gated repo.": errors.Unauthorized,
    "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error. (Request ID: Root=1)": errors.BadModel,
    "ValueError: The quantization method awq_marlin is not supported for the current GPU. Minimum capability: 80.": (
        errors.Unsupported
    ),
    "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0.": errors.Unsupported,
    "ImportError: Please install bitsandbytes>=0.46.1 by running `pip install bitsandbytes>=0.46.1`": (
        errors.Unsupported
    ),
    "/usr/bin/python: Error while finding module specification for 'vllm.entrypoints.openai.api_server' "
    "(ModuleNotFoundError: No module named 'vllm')": errors.MissingPackage,
    "/usr/bin/python: No module named vllm": errors.MissingPackage,
    "ModuleNotFoundError: No module named 'vllm._C'": errors.MissingPackage,
    "RuntimeError: something entirely new": errors.StartFailed,
}


@pytest.mark.parametrize("name", sorted(REAL))
def test_a_real_log_gives_the_kind_and_the_engines_own_words(name):
    kind, words = REAL[name]
    found = failure.classify((LOGS / f"{name}.log").read_text(encoding="utf-8"), 1)
    assert found.error is kind
    assert found.engine_words is not None
    assert words in found.engine_words
    assert found.next_step
    assert len(found.engine_words) <= WORDS_LIMIT + 1
    assert "[type=" not in found.engine_words


def test_every_real_log_is_tested():
    assert {path.stem for path in LOGS.glob("*.log")} == {*REAL, "started"}


@pytest.mark.parametrize("line", LINES)
def test_a_line_gives_the_kind(line):
    assert failure.classify(f"(EngineCore pid=9) ERROR 11-22 08:36:26 [core.py:1510] {line}", 1).error is LINES[line]


def test_each_cause_is_an_error_of_ours():
    kinds = {errors.StartFailed.kind, *(one.kind for one in errors.StartFailed.__subclasses__())}
    assert {cause.kind for cause in causes()} <= kinds


def test_a_timeout_is_not_blamed_on_memory():
    log = "INFO: served\nTimeoutError: RPC call to execute_model timed out.\nEngineDeadError: EngineCore ended\n"
    found = failure.died(log, None)
    assert "timeout" in found.summary
    assert "memory" not in found.summary + found.next_step


def test_every_kind_has_its_own_exit_code_and_name():
    assert (errors.OutOfMemory.exit_code, errors.OutOfMemory.kind) == (3, "oom")
    assert (errors.Unsupported.exit_code, errors.Unsupported.kind) == (3, "unsupported")
    assert (errors.MissingWeights.exit_code, errors.MissingWeights.kind) == (2, "missing_weights")
    assert (errors.Unauthorized.exit_code, errors.Unauthorized.kind) == (2, "unauthorized")
    assert (errors.MissingPackage.exit_code, errors.MissingPackage.kind) == (3, "missing_package")
    assert (errors.StartFailed.exit_code, errors.StartFailed.kind) == (4, "failed")


RAN_OUT = MemoryVerdict(True, "The kernel killed it because memory ran out (counter).")
NOT_MEMORY = MemoryVerdict(False, "By the kernel's count it was not for want of memory (counter).")


@pytest.mark.parametrize("name", ["engine_core_killed", "worker_killed"])
def test_a_silent_end_is_called_memory_only_when_the_kernel_counted_it(name):
    log = (LOGS / f"{name}.log").read_text(encoding="utf-8")
    found = failure.classify(log, 1, RAN_OUT)
    assert found.error is errors.OutOfMemory
    assert "because memory ran out" in found.summary
    assert "max_model_len" in found.next_step
    for memory in (NOT_MEMORY, NOT_LOOKED):
        found = failure.classify(log, 1, memory)
        assert (found.error, found.summary.partition(",")[0]) == (
            errors.StartFailed,
            "A process of the server was killed by signal 9." if name == "engine_core_killed" else
            "A process of the server was killed",
        )  # fmt: skip
        assert memory.words in found.next_step


def test_killed_without_a_word_says_by_what_it_is_known():
    found = failure.classify("INFO: loading\n", -9, NOT_MEMORY)
    assert (found.error, found.engine_words) == (errors.StartFailed, "INFO: loading")
    assert found.summary == "A process of the server was killed by signal 9."
    assert found.next_step.startswith("By the kernel's count it was not for want of memory")
    assert failure.classify("INFO: loading\n", -9, RAN_OUT).error is errors.OutOfMemory
    assert failure.classify("KeyError: 'a'\n", 1, RAN_OUT).error is errors.StartFailed


def test_a_death_by_signal_9_says_what_the_kernel_counted():
    for memory in (RAN_OUT, NOT_MEMORY, NOT_LOOKED):
        found = failure.died("INFO: served\n", -9, memory)
        assert found.error is errors.EngineDied
        assert "signal 9" in found.summary
        assert found.next_step.startswith(memory.words)


V2, V1 = "0::/user.slice/a.scope\n", "4:memory:/docker/abc\n1:cpu:/x\n0::/\n"


def kernel(tmp_path: Path, group: str, files: dict[str, str]) -> MemoryKills:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(group)
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return MemoryKills(tmp_path / "proc", tmp_path / "cgroup")


EVENTS = "low 0\nhigh 0\nmax 12\noom 1\noom_kill {}\noom_group_kill 0\n"
GROUPS = {
    "version 2": (V2, "cgroup/user.slice/a.scope/memory.events", EVENTS),
    "version 2 in a container": ("0::/\n", "cgroup/memory.events", EVENTS),
    "version 1": (V1, "cgroup/memory/docker/abc/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_the_control_groups_counter_decides(kind, tmp_path):
    group, name, text = GROUPS[kind]
    vmstat = "pgfault 1\noom_kill 7\n"
    kills = kernel(tmp_path, group, {name: text.format(3), "proc/vmstat": vmstat})
    assert kills.verdict().happened is False
    # Another group's process: the machine's counter rises, ours does not.
    (tmp_path / "proc" / "vmstat").write_text("pgfault 1\noom_kill 8\n")
    assert kills.verdict().happened is False
    (tmp_path / name).write_text(text.format(4))
    verdict = kills.verdict()
    assert verdict.happened is True
    assert "3 before the start, 4 now" in verdict.words
    assert name in verdict.words


def test_without_the_groups_counter_the_machines_rules_out_or_leaves_open(tmp_path):
    kills = kernel(tmp_path, V2, {"proc/vmstat": "oom_kill 7\n"})
    assert kills.verdict().happened is False
    (tmp_path / "proc" / "vmstat").write_text("oom_kill 9\n")
    verdict = kills.verdict()
    assert (verdict.happened, "dmesg" in verdict.words) == (None, True)


def test_without_any_counter_nothing_is_claimed(tmp_path):
    verdict = kernel(tmp_path, "", {"proc/vmstat": "pgfault 1\n"}).verdict()
    assert (verdict.happened, "not known" in verdict.words) == (None, True)
    assert MemoryKills(tmp_path / "none", tmp_path / "none").verdict().happened is None


def test_an_unknown_failure_keeps_the_lines_that_matter_and_the_status():
    found = failure.classify("ValueErrors are fine\nKeyError: 'a'\nOSError: b\n", 3)
    assert found.error is errors.StartFailed
    assert found.engine_words == "KeyError: 'a' … OSError: b"
    assert "not known here" in found.summary
    assert "exit status 3" in found.summary


def test_an_empty_log_has_no_words():
    assert failure.classify("", 1).engine_words is None


def test_the_message_says_what_the_engine_said_what_to_do_and_where_the_log_is():
    error = failure.classify((LOGS / "kv_cache_too_small.log").read_text(encoding="utf-8"), 1).to_error(Path("x.log"))
    text = str(error)
    assert text.startswith("The KV cache is too small")
    assert "larger than the available KV cache memory (1.0 GiB)" in text
    assert "max_model_len" in text
    assert "x.log" in text
    assert "\n" not in text


def test_a_death_is_explained_by_what_follows_the_engines_obituary():
    log = (
        "(APIServer pid=1) ERROR 11-22 08:36:26 [serving.py:1] ValueError: a bad request, long ago\n"
        "(EngineCore pid=2) ERROR 11-22 08:36:26 [core.py:1512] EngineCore encountered a fatal error.\n"
        "(EngineCore pid=2) ERROR 11-22 08:36:26 [core.py:1512] torch.OutOfMemoryError: CUDA out of memory.\n"
        "(APIServer pid=1) ERROR 11-22 08:36:26 [async.py:1] vllm.v1.engine.exceptions.EngineDeadError: EngineCore\n"
    )
    found = failure.died(log, None)
    assert found.error is errors.EngineDied
    assert found.engine_words == "torch.OutOfMemoryError: CUDA out of memory."
    assert "max_num_seqs" in found.next_step


def test_a_death_for_want_of_a_kernel_is_no_accident():
    log = (
        "(Worker pid=3) ERROR 11-26 21:08:50 [x.py:1] AttributeError: '_OpNamespace' '_C' object has no attribute "
        "'cpu_gemm_wna16'\n(EngineCore pid=2) ERROR 11-26 21:08:50 [core.py:1512] EngineCore encountered an error.\n"
    )
    found = failure.died(log, None)
    assert (found.error, found.error.kind) == (errors.EngineUnfit, "unsupported")
    assert "no kernel for this quantization on this processor" in found.summary
    assert "cpu_gemm_wna16" in found.engine_words


def test_a_silent_death_names_the_signal():
    found = failure.died("INFO: served\n", -11)
    assert found.engine_words is None
    assert "signal 11" in found.summary
