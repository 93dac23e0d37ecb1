from pathlib import Path

from serve.engine.startup import StartupFacts, cache_facts, gather, line_facts
from serve.processes.log_file import LogReader, roll, tail

GIB = 1 << 30
LOGS = Path(__file__).with_name("logs")


def facts_of(*lines: str) -> dict[str, object]:
    return gather(map(line_facts, lines)).as_dict()


def test_a_real_start_on_the_cpu():
    lines = (LOGS / "started.log").read_text(encoding="utf-8").splitlines()
    assert facts_of(*lines) == {
        "engine_version": "0.32.0",
        "max_model_len": 4096,
        "engine_init_s": 3.76,
        "kv_cache_tokens": 1_048_576,
        "max_concurrency": 256.0,
    }


def test_the_gpu_lines_of_a_start():
    worker = "(Worker pid=7) INFO 11-22 08:36:24 [gpu_worker.py:759] "
    assert facts_of(
        worker + "Using FLASH_ATTN attention backend out of potential backends: ['FLASH_ATTN', 'FLASHINFER'].",
        worker + "Loading weights took 1.50 seconds",
        worker + "Model loading took 14.99 GiB memory and 5.250000 seconds",
        worker + "Available KV cache memory: 50.5 GiB",
        worker + "GPU KV cache size: 413,696 tokens, Maximum concurrency for 8,192 tokens per request: 50.50x",
        worker + "Graph capturing finished in 12 secs, took 0.50 GiB",
        worker + "torch.compile took 20.25 s in total",
        worker + "init engine (profile, create kv cache, warmup model) took 40.12 s (compilation: 20.25 s)",
        worker + "Free memory on device (78.5/80.0 GiB) on startup. Desired GPU memory utilization is (0.9, 72.0 GiB). "
        "Actual usage is 15.2 GiB for consumed memory (weights + non-torch), 1.25 GiB for peak activation, and 0.5 GiB "
        "for CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=1` (1.0 GiB) to fit.",
    ) == {
        "attention_backend": "FLASH_ATTN",
        "weights_bytes": round(14.99 * GIB),
        "load_s": 5.25,
        "kv_cache_bytes": round(50.5 * GIB),
        "kv_cache_tokens": 413_696,
        "max_concurrency": 50.5,
        "cuda_graph_s": 12.0,
        "cuda_graph_bytes": GIB // 2,
        "compile_s": 20.25,
        "engine_init_s": 40.12,
        "gpu_memory_total_bytes": 80 * GIB,
        "gpu_memory_requested_bytes": 72 * GIB,
        "activation_peak_bytes": round(1.25 * GIB),
    }


def test_the_older_wording_is_understood_too():
    assert facts_of(
        "INFO 01-01 00:00:00 [api_server.py:1] vLLM API server version 0.26.1",
        "INFO 01-01 00:00:00 [x.py:1] Using FLASHINFER backend.",
        "INFO 01-01 00:00:00 [x.py:1] GPU KV cache size: 1,024 tokens",
        "INFO 01-01 00:00:00 [x.py:1] Maximum concurrency for 512 tokens per request: 2.00x",
    ) == {
        "engine_version": "0.26.1",
        "attention_backend": "FLASHINFER",
        "kv_cache_tokens": 1024,
        "max_concurrency": 2.0,
    }


def test_other_versions_and_backends_are_not_taken_for_the_engines():
    assert facts_of("NCCL version 2.27.5", "Using Triton backend for sampling", "CUDA version 13.0") == {}


def test_cache_labels_override_and_none_is_absent():
    metrics = (
        "# TYPE vllm:cache_config_info gauge\n"
        'vllm:cache_config_info{block_size="16",cache_dtype="auto",enable_prefix_caching="False",'
        'kv_cache_max_concurrency="1.5",kv_cache_memory_bytes="4096",kv_cache_size_tokens="32",'
        'num_cpu_blocks="None",num_gpu_blocks="None"} 1.0\n'
    )
    assert gather([{"kv_cache_bytes": 1}, cache_facts(metrics)], ready_s=2.0) == StartupFacts(
        ready_s=2.0, block_size=16, prefix_caching=False, max_concurrency=1.5, kv_cache_bytes=4096, kv_cache_tokens=32
    )
    assert cache_facts("") == {}


def test_lines_arrive_whole_once_and_split_at_carriage_returns(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\ntw")
    reader = LogReader(path)
    assert list(reader.new_lines()) == ["one"]
    with path.open("ab") as file:
        file.write(b"o\n10%\r20%\r\n\xff\nrest")
        file.flush()
        assert list(reader.new_lines()) == ["two", "10%", "20%", "\ufffd"]
        file.write(b"x" * 200_000)
        file.flush()
        assert sum(map(len, reader.new_lines())) > 100_000  # a line without an end does not pile up
    reader.close()
    assert tail(path, 3) == "xxx"


def test_a_log_that_grew_too_large_begins_anew_under_its_writer(tmp_path):
    path = tmp_path / "log"
    with path.open("ab") as writer:
        reader = LogReader(path)
        writer.write(b"one\n" * 300)
        writer.flush()
        assert len(list(reader.new_lines())) == 300
        reader.shorten(1200)  # exactly as large: stays
        assert path.stat().st_size == 1200
        reader.shorten(1199)
        assert path.stat().st_size == 0
        writer.write(b"two\n")
        writer.flush()
        assert (list(reader.new_lines()), path.read_bytes()) == (["two"], b"two\n")
    reader.close()


def test_a_log_is_rolled_under_its_writer(tmp_path):
    path, older = tmp_path / "a.log", tmp_path / "a.log.1"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"one\n")
        assert not roll(path, 4)  # exactly as large: stays
        writer.write(b"two\n")
        assert roll(path, 4)
        assert (path.read_bytes(), older.read_bytes()) == (b"", b"one\ntwo\n")
        writer.write(b"three\n")
        assert path.read_bytes() == b"three\n"  # without a hole before it
        assert roll(path, 4)
        assert (path.read_bytes(), older.read_bytes()) == (b"", b"three\n")
        # What cannot be kept is lost, and the log does not grow all the same.
        older.unlink()
        older.mkdir()
        writer.write(b"four\n")
        assert roll(path, 4)
        assert path.read_bytes() == b""
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.log", "a.log.1"]
