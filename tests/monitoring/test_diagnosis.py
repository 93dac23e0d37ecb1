"""The doctor's findings on servers that we make up: the guide's troubleshooting cases, with evidence and remedy."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monitoring.alerting.thresholds import load
from monitoring.doctor.checks import Finding
from monitoring.doctor.diagnosis import Probe, diagnose
from monitoring.doctor.server_log import log_finding
from monitoring.health.figures import Gpu, Observation
from monitoring.health.verdict import examine
from monitoring.scrape.canary import Beat
from monitoring.scrape.metrics import parse
from monitoring.scrape.window import scrape

GIB = 2**30
LOGS = Path(__file__).parent.parent / "serve" / "logs"
FINE = Probe(text=" Paris, and", state=(0.3, 0.4))


def findings(before: str, after: str, probe: Probe = FINE, **seen: Any) -> dict[str, Finding]:
    scrapes = (scrape(0, parse(before)), scrape(10, parse(after)))
    given: dict[str, Any] = {"health_status": 200, "canary": Beat(latency_s=0.1), **seen}
    observed = Observation(scrapes=scrapes, **given)
    thresholds = load()
    health = examine(observed, thresholds, stalled_s=8)
    return {one.check: one for one in diagnose(observed, health, probe, thresholds)}


def served(*, slow: int = 0, queue: float = 0, prefill: float = 0, decode: float = 0, more: str = "") -> str:
    """A page after ten requests, `slow` of which took longer than 5 s, with the seconds they spent where."""
    return f"""vllm:e2e_request_latency_seconds_bucket{{le="5.0"}} {10 - slow}
vllm:e2e_request_latency_seconds_bucket{{le="+Inf"}} 10
vllm:e2e_request_latency_seconds_sum {queue + prefill + decode}
vllm:e2e_request_latency_seconds_count 10
vllm:request_queue_time_seconds_sum {queue}
vllm:request_prefill_time_seconds_sum {prefill}
vllm:request_decode_time_seconds_sum {decode}
vllm:iteration_tokens_total_count 100
vllm:iteration_tokens_total_sum 400
vllm:num_requests_running 4
vllm:num_requests_waiting 0
vllm:kv_cache_usage_perc 0.3
{more}
"""


IDLE = "vllm:num_requests_running 4\nvllm:num_requests_waiting 0\nvllm:iteration_tokens_total_count 0\n"


def test_a_server_that_is_well_has_nothing_but_ok() -> None:
    found = findings(IDLE, served(decode=20))
    assert {one.verdict for one in found.values()} == {"ok"}
    assert set(found) == {
        "Health",
        "Model output",
        "Hidden states",
        "Latency",
        "Batch",
        "KV cache",
        "Prefix cache",
        "GPU memory",
        "Heat",
    }
    assert found["Batch"].seen == "4.0 requests at once, 0.0 waiting, 4.0 tokens a step"


@pytest.mark.parametrize(
    ("spent", "words", "todo"),
    [
        ({"queue": 60.0, "decode": 20.0}, "75% waiting in the queue, 25% generating", "raise max_num_seqs"),
        ({"prefill": 60.0, "decode": 20.0}, "75% reading prompts", "prefix caching"),
        ({"decode": 80.0, "queue": 20.0}, "80% generating", "quantize"),
    ],
)
def test_slow_inference_names_the_part_that_costs_most(spent: dict[str, float], words: str, todo: str) -> None:
    latency = findings(IDLE, served(slow=2, **spent))["Latency"]
    assert latency.verdict == "warn"
    assert latency.seen.startswith("20% of 10 requests took more than 5 s")
    assert words in latency.seen
    assert todo in latency.todo


def test_a_batch_that_settings_keep_small() -> None:
    queue = "vllm:num_requests_waiting 6\n"
    batch = findings(IDLE.replace("waiting 0", "waiting 5"), served().replace("vllm:num_requests_waiting 0\n", queue))
    assert batch["Batch"].verdict == "warn"
    assert "the KV cache is only 30% full" in batch["Batch"].seen
    assert "max_num_seqs" in batch["Batch"].todo
    alone = findings(IDLE.replace("running 4", "running 1"), served().replace("running 4", "running 1"))["Batch"]
    assert (alone.verdict, "little load" in alone.seen) == ("ok", True)


def test_pressure_on_the_kv_cache() -> None:
    config = 'vllm:cache_config_info{kv_cache_max_concurrency="1.5",enable_prefix_caching="False"} 1\n'
    full = served(more=f"vllm:num_preemptions_total 12\n{config}").replace("usage_perc 0.3", "usage_perc 0.99")
    found = findings(IDLE, full)
    assert found["KV cache"].verdict == "warn"
    assert found["KV cache"].seen == "99% full at most, 12 preemptions; room for 1.5 requests of full length"
    assert "max_num_seqs" in found["KV cache"].todo
    assert (found["Prefix cache"].verdict, found["Prefix cache"].seen) == ("warn", "off")


def test_the_share_of_the_prefix_cache() -> None:
    hits = "vllm:prefix_cache_queries_total 100\nvllm:prefix_cache_hits_total 25\n"
    assert findings(IDLE, served(more=hits))["Prefix cache"].seen == "25% of prompt tokens came from it"


@pytest.mark.parametrize(
    ("probe", "check", "verdict", "words"),
    [
        (Probe(state=(0.0, 0.0)), "Hidden states", "fail", "all 2 values are 0"),
        (Probe(state_problem="HTTP 500: … is not finite (NaN …)"), "Hidden states", "fail", "not finite"),
        (Probe(text="!!!!!!!!"), "Model output", "warn", "one character over and over: '!!!!!!!!'"),
        (Probe(text=""), "Model output", "warn", "nothing but blanks"),
        (Probe(text_problem="HTTP 500"), "Model output", "warn", "HTTP 500"),
    ],
)
def test_zeros_and_numbers_that_are_none(probe: Probe, check: str, verdict: str, words: str) -> None:
    finding = findings(IDLE, served(), probe)[check]
    assert finding.verdict == verdict
    assert words in finding.seen
    assert finding.todo


@pytest.mark.parametrize(
    "probe", [Probe(text=" 2", token_count=1), Probe(text="!!!!!!!!", token_count=1), Probe(text="!!")]
)
def test_an_answer_that_is_too_short_is_not_judged(probe: Probe) -> None:
    found = findings(IDLE, served(), probe)["Model output"]
    assert (found.verdict, "too short" in found.seen) == ("ok", True)


def test_memory_that_cannot_be_read_has_no_room() -> None:
    unread = findings(IDLE, served(), gpus=[Gpu("0", readings={"temperature_celsius": 50.0})])["GPU memory"]
    assert (unread.verdict, unread.seen) == ("warn", "not to be read")
    room = {"memory_used_bytes": GIB, "memory_total_bytes": 80 * GIB}
    some = findings(IDLE, served(), gpus=[Gpu("0", readings=room), Gpu("1")])["GPU memory"]
    assert some.seen == "1 GPUs, each with room for a peak; of 1 more it cannot be read"


def test_each_engine_that_hangs_is_named() -> None:
    page = "".join(
        f'vllm:num_requests_running{{engine="{i}"}} {i}\nvllm:iteration_tokens_total_count{{engine="{i}"}} 5\n'
        for i in (10, 2, 1, 3)
    )
    words = findings(page, page)["Health"].seen
    assert [words.index(f"Engine {i} hangs") for i in (1, 2, 3, 10)] == sorted(
        words.index(f"Engine {i} hangs") for i in (1, 2, 3, 10)
    )


def test_what_was_not_asked_is_not_found() -> None:
    assert not {"Model output", "Hidden states"} & set(findings(IDLE, served(), Probe()))


def test_memory_and_heat_of_the_gpus() -> None:
    tight = {"memory_used_bytes": 79.5 * GIB, "memory_total_bytes": 80 * GIB, "temperature_celsius": 92.0}
    found = findings(IDLE, served(), gpus=[Gpu("0", readings=tight, throttled_ratio=0.25)])
    assert found["GPU memory"].seen == "GPU 0: 0.50 GiB of 80 free"
    assert "OutOfMemoryError" in found["GPU memory"].todo
    assert found["Heat"].seen == "GPU 0: 92 °C, slowed down for 25% of the time"
    assert (found["GPU memory"].verdict, found["Heat"].verdict, found["Health"].verdict) == ("warn", "warn", "warn")


def test_a_hang_is_a_failure_with_a_remedy() -> None:
    hung = "vllm:num_requests_running 4\nvllm:iteration_tokens_total_count 5\n"
    health = findings(hung, hung)["Health"]
    assert (health.verdict, health.todo.startswith("Restart the server")) == ("fail", True)


def test_a_server_that_is_down_is_told_as_such() -> None:
    seen = Observation(metrics_problem="no connection", health_problem="no connection")
    found = list(diagnose(seen, examine(seen, load(), stalled_s=8), Probe(), load()))
    assert [(one.check, one.verdict) for one in found] == [("Health", "fail")]


@pytest.mark.parametrize(
    ("log", "verdict", "words"),
    [
        ("kv_cache_too_small.log", "fail", "KV cache is too small"),
        ("hub_unreachable.log", "fail", "hub"),
        ("worker_killed.log", "fail", "killed"),
        ("started.log", "ok", "nothing in it"),
    ],
)
def test_a_servers_log_is_explained(log: str, verdict: str, words: str) -> None:
    finding = log_finding(LOGS / log)
    assert finding.verdict == verdict
    assert words in finding.seen


def test_the_command_reads_a_log_and_refuses_one_that_is_not_there(
    nbridge: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    answer = nbridge("doctor", "--log", LOGS / "kv_cache_too_small.log", "--json")
    (finding,) = json.loads(answer.stdout)
    assert (answer.returncode, finding["check"], finding["verdict"]) == (1, "Log", "fail")
    missing = nbridge("doctor", "--log", "nowhere.log")
    assert (missing.returncode, "nowhere.log" in missing.stderr) == (2, True)


def test_what_a_page_does_not_tell_is_not_called_0() -> None:
    # vLLM up to 0.7 has no counters of its prefix cache, only a gauge.
    found = findings(IDLE, served(more="vllm:gpu_prefix_cache_hit_rate 0.5\n"))
    assert found["Prefix cache"].seen == "the page does not tell how much came from it"
