import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serve.engine.options import extra_args_problem
from serve.engine.passed_on import sort_out
from serve.engine.settings import EngineSettings, is_loopback, load_profile, parse
from serve.errors import SettingsError


def profile(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "engine.toml"
    path.write_text(text)
    return path


def test_flags_win_over_environment_and_that_over_the_file(tmp_path):
    path = profile(tmp_path, 'model = "m"\nmax_num_seqs = 1\nmax_model_len = 1\nblock_size = 1\n')
    settings = load_profile(
        path,
        environ={"NBRIDGE_SERVE_MAX_NUM_SEQS": "2", "NBRIDGE_SERVE_MAX_MODEL_LEN": "2", "HOME": "/"},
        flags={"max_num_seqs": 3, "dtype": None},
    )
    assert (settings.max_num_seqs, settings.max_model_len, settings.block_size) == (3, 2, 1)
    assert settings.dtype == "auto"


def test_every_option_of_the_guide_can_be_set(tmp_path):
    settings = load_profile(
        profile(
            tmp_path,
            """
            model = "meta-llama/Llama-3.1-70B-Instruct"
            tensor_parallel_size = 4
            pipeline_parallel_size = 2
            max_model_len = 8192
            gpu_memory_utilization = 0.9
            enable_prefix_caching = true
            dtype = "float16"
            quantization = "awq"
            kv_cache_dtype = "fp8"
            max_num_seqs = 256
            max_num_batched_tokens = 8192
            block_size = 16
            extra_args = ["--max-logprobs", "50"]
            [speculative]
            model = "meta-llama/Llama-3.1-8B-Instruct"
            num_speculative_tokens = 5
            [environment]
            VLLM_LOGGING_LEVEL = "DEBUG"
            """,
        ),
        environ={},
    )
    assert settings.speculative is not None
    assert settings.speculative.num_speculative_tokens == 5
    assert settings.extra_args == ("--max-logprobs", "50")
    assert EngineSettings(**settings.model_dump()) == settings


def test_the_environment_takes_tables_and_lists_as_json():
    settings = load_profile(
        None,
        environ={
            "NBRIDGE_SERVE_MODEL": "m",
            "NBRIDGE_SERVE_ENFORCE_EAGER": "true",
            "NBRIDGE_SERVE_GPU_MEMORY_UTILIZATION": "0.8",
            "NBRIDGE_SERVE_EXTRA_ARGS": '["--max-logprobs", "5"]',
            "NBRIDGE_SERVE_SPECULATIVE": '{"method": "ngram", "num_speculative_tokens": 3}',
        },
    )
    assert settings.enforce_eager is True
    assert settings.gpu_memory_utilization == 0.8
    assert settings.extra_args == ("--max-logprobs", "5")
    assert settings.speculative is not None
    assert settings.speculative.method == "ngram"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('model = "m"\nmax_num_seq = 4', ("engine.toml", "max_num_seq", "4", "max_num_seqs")),
        ('model = "m"\nmax_num_seqs = "4"', ("engine.toml", "max_num_seqs", "'4'", "integer")),
        ('model = "m"\nmax_num_seqs = true', ("engine.toml", "max_num_seqs", "True", "integer")),
        ('model = "m"\nmax_num_seqs = 0', ("engine.toml", "max_num_seqs", "0", "greater than 0")),
        ('model = "m"\ndtype = "int8"', ("engine.toml", "dtype", "'int8'", "'bfloat16'")),
        ('model = "m"\ngpu_memory_utilization = 90', ("engine.toml", "gpu_memory_utilization", "90", "less than")),
        ('model = "m"\nport = 70000', ("engine.toml", "port", "70000", "65535")),
        ("port = 1", ("model", "is not set", "demo-100m")),
        ('model = "m"\n[speculative]\nnum_tokens = 5\nmodel = "d"', ("num_tokens", "num_speculative_tokens")),
        ('model = "m"\n[speculative]\nnum_speculative_tokens = 5', ("speculative", "ngram")),
        ('model = "m"\napi_key_env = "sk-123"', ("api_key_env", "NAME")),
        ('model = "m"\n[environment]\nHF_TOKEN = "x"', ("environment", "HF_TOKEN", "secret")),
        ('model = "m"\n[environment]\nVLLM_CPU_KVCACHE_SPACE = "9"', ("cpu_kv_cache_gib",)),
        ('model = "m"\nlora_modules = "a=b"', ("engine.toml", "lora_modules", "'a=b'")),
        ('model = "m"\n[lora_modules]\nm = "/m"', ("'m' is the served model's own name",)),
        ('model = "m"\nmax_lora_rank = 17\nenable_lora = true', ("max_lora_rank", "17", "16")),
        ('model = "m"\nmax_loras = 2', ("max_loras", "enable_lora")),
        ("model = ", ("engine.toml", "TOML")),
    ],
)
def test_an_error_names_file_key_value_and_what_was_expected(tmp_path, text, named):
    with pytest.raises(SettingsError) as caught:
        load_profile(profile(tmp_path, text), environ={})
    for words in named:
        assert words in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("environ", "flags", "named"),
    [
        ({"NBRIDGE_SERVE_MAX_NUM_SEQS": "many"}, {}, ("NBRIDGE_SERVE_MAX_NUM_SEQS", "'many'", "integer")),
        ({"NBRIDGE_SERVE_MAX_NUM_SEQS": "-1"}, {}, ("NBRIDGE_SERVE_MAX_NUM_SEQS", "greater than 0")),
        ({"NBRIDGE_SERVE_MAX_NUM_SEQUENCES": "4"}, {}, ("NBRIDGE_SERVE_MAX_NUM_SEQUENCES", "max_num_seqs")),
        ({"NBRIDGE_SERVE_EXTRA_ARGS": "--a"}, {}, ("NBRIDGE_SERVE_EXTRA_ARGS", "JSON")),
        ({}, {"max_num_seqs": 0}, ("flag --max-num-seqs", "0", "greater than 0")),
    ],
)
def test_an_error_names_the_variable_or_the_flag(environ, flags, named):
    with pytest.raises(SettingsError) as caught:
        load_profile(None, environ={"NBRIDGE_SERVE_MODEL": "m", **environ}, flags=flags)
    for words in named:
        assert words in str(caught.value)


def test_a_profile_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"absent\.toml"):
        load_profile(tmp_path / "absent.toml", environ={})


@pytest.mark.parametrize(
    "argument",
    [
        "--host", "--port=9", "--api-key", "--api_key=x", "--api-k", "--trust-remote-code", "--no-trust-remote-code",
        "--trust_remote_code", "--model", "-tp", "-tp=2", "-q", "--max-num-seqs", "--max-num-s", "--seed",
        "--no-enable-prefix-caching", "--speculative-config.model", "-sc.method=ngram", "--quant", "--config",
        "--uds", "--ssl-keyfile", "--headless", "--shutdown-timeout",
    ],
)  # fmt: skip
def test_extra_arguments_cannot_override_settings(argument):
    assert extra_args_problem([argument])
    with pytest.raises(SettingsError, match="extra_args"):
        parse({"model": "m", "extra_args": ["--max-logprobs", "5", argument]}, "test")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-logprobs", "50"],
        ["--enable-tokenizer-info-endpoint"],
        ["--tokenizer-mode", "slow"],
        ["--tokenizer-revision=main"],
        ["--quantization-config", "{}"],
        ["--generation-config", "vllm"],
        ["-O0"],
        ["--logits-processors", "-1"],
    ],
)
def test_other_extra_arguments_pass(arguments):
    assert list(parse({"model": "m", "extra_args": arguments}, "test").extra_args) == arguments


SECRETS = [
    (["--hf-token", "hf_AbCdEfGhIjKlMnOpQrStUv"], "environment variable HF_TOKEN"),
    (["--hf_token=anything"], "environment variable HF_TOKEN"),
    (["--api-key=anything"], "api_key_env"),
    (["--some-password", "anything"], "environment variable"),
    (["--model-loader-extra-config.aws_secret_access_key", "anything"], "environment variable"),
    (["--model-loader-extra-config", '{"aws_secret_access_key": "anything"}'], "environment variable"),
    (["--hf-overrides", '{"token": "hf_AbCdEfGhIjKlMnOpQrStUv"}'], "HF_TOKEN"),
    (["--otlp-traces-endpoint", "http://me:anything@collector:4317"], "environment variable"),
    (["--kv-transfer-config={'api_key': 'anything'}"], "environment variable"),
    (["--default-chat-template-kwargs", "Bearer anything-long"], "environment variable"),
]


@pytest.mark.parametrize(("arguments", "named"), SECRETS)
def test_a_secret_never_reaches_a_command_line_nor_the_complaint(arguments, named):
    with pytest.raises(SettingsError, match="secret") as caught:
        parse({"model": "m", "extra_args": ["--max-logprobs", "5", *arguments]}, "test")
    assert named in str(caught.value)
    assert "anything" not in str(caught.value)
    assert "AbCdEf" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--hf-token"],  # the one that `hf auth login` has kept
        ["--long-prefill-token-threshold", "4096"],
        ["--max-num-scheduled-tokens", "9"],
        ["--tokens-only"],
        ["--limit-mm-per-prompt", '{"image": 4}'],
        ["--otlp-traces-endpoint", "http://collector:4317"],
        ["--kv-transfer-config", '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'],
        ["--allowed-origins", '["https://example.org"]'],
    ],
)
def test_what_only_sounds_like_a_secret_passes(arguments):
    assert list(parse({"model": "m", "extra_args": arguments}, "test").extra_args) == arguments


def test_a_secret_among_the_environment_is_not_repeated_either():
    for name in ("HF_TOKEN", "HARMLESS"):
        with pytest.raises(SettingsError, match="looks like a secret") as caught:
            parse({"model": "m", "environment": {name: "hf_AbCdEfGhIjKlMnOpQrStUv"}}, "test")
        assert "AbCdEf" not in str(caught.value)


# Commands as people give them to `vllm serve` (vLLM's documentation, model cards, issue reports), and what they set.
AFTER = {
    "Qwen/Qwen3-8B --max-model-len 32768": ({"model": "Qwen/Qwen3-8B", "max_model_len": "32768"}, ""),
    "--model m --tensor-parallel-size 8 --enable-expert-parallel": (
        {"model": "m", "tensor_parallel_size": "8"},
        "--enable-expert-parallel",
    ),
    "deepseek-ai/DeepSeek-V3 -tp 8 --trust-remote-code --gpu-memory-utilization 0.95": (
        {
            "model": "deepseek-ai/DeepSeek-V3",
            "tensor_parallel_size": "8",
            "trust_remote_code": True,
            "gpu_memory_utilization": "0.95",
        },
        "",
    ),
    "--max_num_batched_tokens=8k --max-model-len 128K --port=8001": (
        {"max_num_batched_tokens": "8000", "max_model_len": "131072", "port": "8001"},
        "",
    ),
    "--no-enable-prefix-caching --enforce-eager --disable-uvicorn-access-log --enable-log-requests": (
        {"enable_prefix_caching": False, "enforce_eager": True, "access_log": False, "log_requests": True},
        "",
    ),
    "--enable-auto-tool-choice --tool-call-parser hermes --dtype bfloat16 --seed -1": (
        {"dtype": "bfloat16", "seed": "-1"},
        "--enable-auto-tool-choice --tool-call-parser hermes",
    ),
    '--speculative-config {"method":"ngram","num_speculative_tokens":5} --max-logprobs 3': (
        {"speculative": {"method": "ngram", "num_speculative_tokens": 5}},
        "--max-logprobs 3",
    ),
    "-sc.method ngram --speculative-config.num-speculative-tokens=4": (
        {"speculative": {"method": "ngram", "num_speculative_tokens": 4}},
        "",
    ),
    '--enable-lora --lora-modules sql=/a {"name":"b","path":"/b","base_model_name":"m"} --max-loras 2': (
        {"enable_lora": True, "lora_modules": {"sql": "/a", "b": "/b"}, "max_loras": "2"},
        "",
    ),
    "--quantization awq --kv-cache-dtype fp8 -q awq": ({"quantization": "awq", "kv_cache_dtype": "fp8"}, ""),
}


@pytest.mark.parametrize("words", AFTER)
def test_what_stands_after_the_dashes_sets_our_settings_and_the_rest_goes_to_vllm(words):
    settings, rest = AFTER[words]
    found = sort_out(words.split(" "))
    assert found.settings == settings
    assert " ".join(found.rest) == rest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--max-num-seqs 4 --max-num-seqs 8", "max_num_seqs is given as '4' and as '8'"),
        ("--enforce-eager --no-enforce-eager", "enforce_eager"),
        ("m --model other", "model is given as 'm' and as 'other'"),
        ("--port", "--port needs a value"),
        ("--port --seed 3", "--port needs a value"),
        ("--max-model-len 1.5K", "no decimals"),
        ("--served-model-name a b", "only one"),
        ("--lora-modules /a", "NAME=DIRECTORY"),
        ('--lora-modules {"name":"a"}', "NAME=DIRECTORY"),
        ("--speculative-config ngram", "JSON object"),
    ],
)
def test_what_says_two_things_or_nothing_is_refused(words, said):
    with pytest.raises(SettingsError, match=said):
        sort_out(words.split(" "))


def test_a_profile_is_a_small_file_and_no_device(tmp_path):
    for path, said in ((Path("/dev/zero"), "a device"), (tmp_path, "a folder")):
        with pytest.raises(SettingsError, match=said):
            load_profile(path, environ={})
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(SettingsError, match="larger than 1 MiB"):
        load_profile(large, environ={})


def test_a_profile_may_come_through_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as writer:
        writer.submit(pipe.write_text, 'model = "m"\n')
        assert load_profile(pipe, environ={}).model == "m"


def test_a_bare_word_would_be_a_second_model():
    with pytest.raises(SettingsError, match="the setting model"):
        parse({"model": "m", "extra_args": ["other"]}, "test")


def test_a_server_that_others_can_reach_needs_a_key_or_a_plain_word():
    with pytest.raises(SettingsError, match="api_key_env"):
        parse({"model": "m", "host": "0.0.0.0"}, "test")
    assert parse({"model": "m", "host": "0.0.0.0", "api_key_env": "MY_KEY"}, "test").api_key_env == "MY_KEY"
    assert parse({"model": "m", "host": "::", "allow_no_api_key": True}, "test").host == "::"


def test_loopback_hosts():
    assert all(map(is_loopback, ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org"]))


def test_a_checkpoint_replaces_model_and_quantization_but_not_what_was_set(tmp_path):
    asked = EngineSettings(model="demo-100m", quantization="int8")
    got = asked.resolved(path="/cache/x", name="demo-100m", load_format="dummy", quantization=None)
    assert (got.model, got.served_model_name, got.load_format, got.quantization) == (
        "/cache/x", "demo-100m", "dummy", None,
    )  # fmt: skip
    named = EngineSettings(model=str(tmp_path), served_model_name="mine", load_format="safetensors")
    got = named.resolved(path=str(tmp_path), name=str(tmp_path), load_format="auto", quantization="fp8")
    assert (got.served_model_name, got.load_format, got.quantization) == ("mine", "safetensors", "fp8")
    unnamed = EngineSettings(model=str(tmp_path))
    got = unnamed.resolved(path=str(tmp_path), name=str(tmp_path), load_format="auto", quantization=None)
    assert got.served_model_name == tmp_path.name


def test_a_precision_named_as_quantization_becomes_the_dtype():
    got = EngineSettings(model="m", quantization="fp16").resolved(
        path="/x", name="m", load_format="auto", quantization=None
    )
    assert (got.dtype, got.quantization) == ("float16", None)
    got = EngineSettings(model="m", quantization="int8").resolved(
        path="/x", name="m", load_format="auto", quantization=None
    )
    assert got.dtype == "auto"
