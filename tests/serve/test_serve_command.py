import json
import sys

import forks
import pytest

from serve.engine.command import build, served_name
from serve.engine.options import OWNED_OPTIONS
from serve.engine.settings import EngineSettings, Speculative
from serve.plugin.key import KeyGuard

FULL = EngineSettings(
    model="/models/big",
    served_model_name="big",
    tokenizer="/models/tokenizer",
    revision="main",
    download_dir="/models",
    load_format="safetensors",
    trust_remote_code=True,
    host="0.0.0.0",
    port=9000,
    api_key_env="MY_KEY",
    dtype="float16",
    quantization="awq",
    kv_cache_dtype="fp8",
    max_model_len=8192,
    max_num_seqs=256,
    max_num_batched_tokens=8192,
    block_size=16,
    gpu_memory_utilization=0.9,
    enable_prefix_caching=True,
    enable_chunked_prefill=False,
    tensor_parallel_size=4,
    pipeline_parallel_size=2,
    data_parallel_size=2,
    speculative=Speculative(
        model="/models/draft",
        method="draft_model",
        num_speculative_tokens=5,
        draft_tensor_parallel_size=1,
        max_model_len=4096,
        quantization="awq",
        prompt_lookup_max=4,
        prompt_lookup_min=2,
    ),
    enforce_eager=True,
    enable_lora=True,
    lora_modules={"legal": "/adapters/legal", "a": "/adapters/with space"},
    max_lora_rank=64,
    max_loras=2,
    seed=7,
    log_requests=True,
    access_log=False,
    shutdown_timeout_s=20,
    extra_args=("--max-logprobs", "50"),
)

PARSE = """
import json, sys
from dataclasses import fields
try:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
except ImportError:
    from vllm.entrypoints.openai.cli_args import make_arg_parser
try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
except ImportError:
    from vllm.utils import FlexibleArgumentParser
from vllm.config import SpeculativeConfig
parser = make_arg_parser(FlexibleArgumentParser())
args = vars(parser.parse_args(json.loads(sys.argv[1])))
known = [option for action in parser._actions for option in action.option_strings]
print("RESULT" + json.dumps({
    "args": {key: value for key, value in args.items() if isinstance(value, (int, float, str, dict, list, type(None)))},
    "options": known,
    "speculative": [field.name for field in fields(SpeculativeConfig)],
}, default=vars))
"""


def options(argv: tuple[str, ...]) -> list[str]:
    return [word for word in argv if word.startswith("--")]


def test_a_cpu_server_is_eager_has_a_kv_space_and_no_gpu_flags():
    command = build(EngineSettings(model="/models/m", gpu_memory_utilization=0.9), device="cpu", python="python")
    assert command.argv == (
        "python", "-m", "vllm.entrypoints.openai.api_server", "--model", "/models/m", "--served-model-name", "m",
        "--host", "127.0.0.1", "--port", "8000", "--load-format", "auto", "--dtype", "auto", "--enforce-eager",
        "--worker-cls", "serve.hidden_states.worker.Worker",
    )  # fmt: skip
    assert command.environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert command.environment["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


def test_a_gpu_server_uses_graphs_and_a_share_of_the_memory():
    command = build(EngineSettings(model="/models/m", gpu_memory_utilization=0.9), device="gpu")
    assert "--enforce-eager" not in command.argv
    assert command.argv[command.argv.index("--gpu-memory-utilization") + 1] == "0.9"
    assert "VLLM_CPU_KVCACHE_SPACE" not in command.environment


def test_eager_mode_can_be_set_either_way_on_both_devices():
    for device in ("cpu", "gpu"):
        assert "--enforce-eager" in build(EngineSettings(model="m", enforce_eager=True), device=device).argv
        assert "--enforce-eager" not in build(EngineSettings(model="m", enforce_eager=False), device=device).argv


def test_three_valued_switches():
    assert (
        "--no-enable-prefix-caching" in build(EngineSettings(model="m", enable_prefix_caching=False), device="cpu").argv
    )
    assert "--enable-prefix-caching" in build(EngineSettings(model="m", enable_prefix_caching=True), device="cpu").argv
    assert not [o for o in build(EngineSettings(model="m"), device="cpu").argv if "prefix-caching" in o]


def test_adapters_are_named_to_vllm_and_switch_lora_on():
    argv = build(EngineSettings(model="m", lora_modules={"b": "/b", "a": "/a"}), device="cpu").argv
    at = argv.index("--lora-modules")
    assert [json.loads(word) for word in argv[at + 1 : at + 3]] == [
        {"name": "a", "path": "/a"}, {"name": "b", "path": "/b"},
    ]  # fmt: skip
    assert "--enable-lora" in argv
    assert not [word for word in build(EngineSettings(model="m"), device="cpu").argv if "lora" in word]


def test_the_key_is_neither_in_argv_nor_in_the_environment_additions(monkeypatch):
    monkeypatch.setenv("MY_KEY", "hush")
    command = build(FULL, device="gpu")
    assert "hush" not in repr(command)
    assert command.secrets == {"VLLM_API_KEY": "MY_KEY"}


def test_a_key_guards_the_whole_server_with_the_plugin_and_without():
    hooked = build(EngineSettings(model="m", api_key_env="MY_KEY"), device="cpu")
    assert "--middleware" not in hooked.argv  # the plugin brings the guard
    plain = build(EngineSettings(model="m", api_key_env="MY_KEY", hidden_states=False), device="cpu")
    assert plain.argv[plain.argv.index("--middleware") + 1] == f"{KeyGuard.__module__}.{KeyGuard.__qualname__}"
    assert "--middleware" not in build(EngineSettings(model="m", hidden_states=False), device="cpu").argv


def test_settings_may_add_to_the_environment():
    command = build(EngineSettings(model="m", environment={"VLLM_NO_USAGE_STATS": "0", "X": "1"}), device="cpu")
    assert command.environment["VLLM_NO_USAGE_STATS"] == "0"
    assert command.environment["X"] == "1"


def test_the_served_name_is_the_directory_or_the_hub_name():
    assert served_name(EngineSettings(model="/models/llama")) == "llama"
    assert served_name(EngineSettings(model="meta-llama/Llama-3.1-8B")) == "meta-llama/Llama-3.1-8B"
    assert served_name(EngineSettings(model="/models/llama", served_model_name="x")) == "x"


def test_every_option_we_write_is_kept_from_extra_arguments():
    for option in options(build(FULL, device="gpu").argv[3:-2]):
        # Of middleware there may be more than ours; vLLM takes all of it.
        assert option.replace("--no-", "--") in {*OWNED_OPTIONS, "--middleware"}


@pytest.mark.engine
def test_vllm_knows_every_option_we_write():
    argv = build(FULL, device="gpu").argv[3:]
    done = forks.run([sys.executable, "-c", PARSE, json.dumps(argv)], beside=forks.VLLM)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.partition("RESULT")[2])
    parsed = result["args"]
    for field in (
        "model", "tokenizer", "revision", "download_dir", "load_format", "trust_remote_code", "host", "port", "dtype",
        "quantization", "kv_cache_dtype", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "block_size",
        "gpu_memory_utilization", "enable_prefix_caching", "enable_chunked_prefill", "tensor_parallel_size",
        "pipeline_parallel_size", "data_parallel_size", "enforce_eager", "seed", "enable_lora", "max_lora_rank",
        "max_loras",
    ):  # fmt: skip
        assert parsed[field] == getattr(FULL, field), field
    assert parsed["served_model_name"] == ["big"]
    assert parsed["shutdown_timeout"] == 20
    assert parsed["enable_log_requests"] is True
    assert parsed["disable_uvicorn_access_log"] is True
    assert parsed["max_logprobs"] == 50
    adapters = {one["name"]: one["path"] for one in parsed["lora_modules"]}
    assert adapters == FULL.lora_modules
    assert parsed["speculative_config"] == FULL.speculative.model_dump()
    assert set(Speculative.model_fields) <= set(result["speculative"])
    assert set(OWNED_OPTIONS) <= set(result["options"])
