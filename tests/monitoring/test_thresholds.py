"""The settings of the rules: what is refused, in which words, and what a measured run derives."""

from pathlib import Path
from typing import Any

import pytest

from monitoring.alerting.derivation import derive
from monitoring.alerting.thresholds import Thresholds, load
from monitoring.errors import SettingsError


def own(tmp_path: Path, text: str) -> Thresholds:
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def test_own_values_are_laid_over_the_defaults(tmp_path: Path) -> None:
    settings = own(tmp_path, "[slo.e2e]\nthreshold_s = 10\n[gpu]\nxid_fatal = [79]")
    assert (settings.slo.e2e.threshold_s, settings.slo.e2e.budget_share) == (10, load().slo.e2e.budget_share)
    assert (settings.gpu.xid_fatal, settings.gpu.temperature_max_c) == ((79,), 85)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[slo.e2e]\nthreshold_s = 4",
            "slo.e2e.threshold_s = 4 is no bound of the server's histogram, so requests over it cannot be counted "
            "exactly; the nearest bounds are 2.5 or 5.",
        ),
        ("[slo.ttft]\nthreshold_s = 9999", "slo.ttft.threshold_s = 9999 is no bound of the server's histogram"),
        ("[engin]\nstalled_s = 9", "unknown setting engin = {'stalled_s': 9}; did you mean engine?"),
        ("[engine]\nstaled_s = 9", "unknown setting engine.staled_s = 9; did you mean stalled_s?"),
        ("[timing]\nwindow_s = '5m'", "timing.window_s = '5m': expected a valid number"),
        ("[timing]\nscrape_interval_s = 9", "[timing] scrape_interval_s must not exceed evaluation_interval_s"),
        ("[timing]\nwindow_s = 15", "[timing] window_s must be at least four scrape intervals"),
        ("[burn.slow]\nbad_share_max = 0.04", "would alert on slo.ttft within its budget_share = 0.05"),
        ("[gpu", "is not valid TOML"),
        ('[[receivers]]\nkind = "webhook"\nname = "a"', "needs exactly one of url, url_file, url_env"),
        ('[[receivers]]\nkind = "pigeon"\nname = "a"', "'webhook', 'email', 'chat'"),
        ('[[receivers]]\nkind = "chat"\nname = "../a"\nurl_env = "U"', "receivers.0.chat.name: String should match"),
        (
            '[[receivers]]\nkind = "email"\nname = "a"\nto = "a@b.c"\nsender = "a@b.c"\n'
            'smarthost = "m:25"\nusername = "u"',
            "username and one of password_file, password_env belong together",
        ),
        (
            '[[receivers]]\nkind = "webhook"\nname = "a"\nurl = "http://h/"\n' * 2,
            "receivers: the name 'a' is taken",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SettingsError) as error:
        own(tmp_path, text)
    assert told in str(error.value)
    assert "own.toml" in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        'kind = "chat"\nurl = "https://chat.example.org/S3CRET"',
        'kind = "chat"\nurl_env = "https://chat.example.org/S3CRET"',
        'kind = "webhook"\nurl = "https://me:S3CRET@example.org/"',
        'kind = "email"\nto = "a@b.c"\nsender = "a@b.c"\nsmarthost = "m:25"\npassword = "S3CRET"',
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError) as error:
        own(tmp_path, f'[[receivers]]\nname = "a"\n{text}')
    assert "S3CRET" not in str(error.value)


def test_a_budgets_factor_never_waits_for_most_requests_to_be_bad() -> None:
    fast = load().burn.fast
    # 1 % budget: 2 % of 30 days in an hour is 14.4 times; 14.4 % bad. 5 % budget: 14.4 times would be 72 % bad.
    assert fast.factor(0.01, 30) == pytest.approx(14.4)
    assert fast.factor(0.05, 30) * 0.05 == pytest.approx(0.25)


def cell(load_name: str, in_flight: float, rps: float, e2e: dict[str, float], **changed: Any) -> dict[str, Any]:
    latencies = {"ttft_s": {"max": 0.2, "p95": 0.1}, "itl_s": {"max": 0.9, "p95": 0.05}}
    found = {
        "engine": {"name": "bf16"},
        "load": {"name": load_name, "kind": "closed", "scenario": "chat", "prompt_tokens": {"mean": 64}},
        "outcome": "ok",
        "metrics": {
            "requests": {"ok": 100},
            "request_throughput_rps": rps,
            "mean_in_flight": in_flight,
            "e2e_s": e2e,
            **latencies,
        },
    }
    return {**found, **changed}


def run(*cells: dict[str, Any]) -> dict[str, Any]:
    return {"run_id": "R", "cells": list(cells)}


# Power: 1/1 = 1, 6/1.5 = 4, 8/4 = 2. The knee is c8.
LOADS = (
    cell("c1", 1, 1, {"mean": 1.0, "max": 1.2}),
    cell("c8", 8, 6, {"mean": 1.5, "max": 2.4}),
    cell("c32", 32, 8, {"mean": 4.0, "max": 6.0}),
)


def test_thresholds_come_from_the_knee_and_say_so() -> None:
    settings = load(derived=derive(run(*LOADS), load()))
    # e2e: 1.5 × 2.4 = 3.6 → 5; ttft: 1.5 × 0.1 = 0.15 → 0.25; itl: 1.5 × 0.05 = 0.075 → 0.075
    assert (settings.slo.e2e.threshold_s, settings.slo.ttft.threshold_s, settings.slo.itl.threshold_s) == (
        5,
        0.25,
        0.075,
    )
    assert settings.engine.waiting_max == 8  # 8 requests/s for 1 s
    assert settings.load is not None
    assert settings.load.in_flight_max == 8
    words = settings.derived["slo.e2e.threshold_s"]
    assert "From run R, engine bf16: maximum, for want of a p95 from 100 requests, 2.4 s at the knee c8" in words
    assert "1.2 s at the baseline c1; times 1.5, rounded up to the histogram's bound 5 s." in words
    assert "p95 0.1 s at the knee c8" in settings.derived["slo.ttft.threshold_s"]


def test_own_settings_win_over_the_run(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[slo.e2e]\nthreshold_s = 60", encoding="utf-8")
    settings = load(path, derived=derive(run(*LOADS), load()))
    assert settings.slo.e2e.threshold_s == 60
    assert "slo.e2e.threshold_s" not in settings.derived
    assert "slo.ttft.threshold_s" in settings.derived


def test_a_knee_at_the_highest_load_is_told_as_not_reached() -> None:
    words = derive(run(*LOADS[:2]), load())["derived"]["load.in_flight_max"]
    assert "at the knee c8 (the highest load measured: the true knee may lie beyond)" in words


@pytest.mark.parametrize(
    ("cells", "engine", "told"),
    [
        ((LOADS[0],), None, "measured 1 valid load of engine bf16; a knee needs at least two"),
        ((LOADS[0], {**LOADS[1], "outcome": "invalid"}), None, "measured 1 valid load"),
        ((*LOADS, {**LOADS[0], "engine": {"name": "int8"}}), None, "name one with --run-engine: bf16, int8"),
        (LOADS, "fp8", "no valid cell of engine 'fp8'; it has: bf16"),
        ((), None, "has no valid cell"),
        (
            (*LOADS, {**LOADS[0], "load": {"name": "c2", "kind": "closed", "scenario": "code"}}),
            None,
            "different kinds of requests (closed chat 64+? tokens; closed code ?+? tokens)",
        ),
    ],
)
def test_a_run_that_cannot_tell_is_refused(cells: tuple[dict[str, Any], ...], engine: str | None, told: str) -> None:
    with pytest.raises(SettingsError) as error:
        derive(run(*cells), load(), engine=engine)
    assert told in str(error.value)
