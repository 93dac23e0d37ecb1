import io
import re
from pathlib import Path

from made_runs import RunFolder, add_measured, closed_load, closed_requests, valid
from rich.console import Console

from reports.report import read_report
from reports.statements.headline import headline
from reports.statements.verdict import not_measured, outcome_of, verdict
from reports.terminal import summary


def said(path: Path) -> str:
    return " ".join(verdict(read_report(path)))


def with_speeds(path: Path, speeds: dict[str, list[float]], *, weightless: bool = True) -> RunFolder:
    """Engines at 4 concurrent requests; one repeat for each time per token."""
    run = RunFolder(path)
    for name, token_times in speeds.items():
        for repeat, token_s in enumerate(token_times, 1):
            requests = closed_requests(users=4, count=24, ttft_s=0.1, token_s=token_s, seed=1)
            run.add(name, closed_load(4), requests, repeat=repeat, weightless=weightless)
    return run


def test_nine_good_cells(nine) -> None:
    text = " ".join(verdict(nine))
    best = nine.repeats("int8", nine.loads[2])[0]
    base = nine.repeats("bf16", nine.loads[2])[0]
    top = best.value("output_throughput_tok_s")
    factor = top / base.value("output_throughput_tok_s")
    assert text.startswith(
        "Three engine configurations of demo-100m (bf16, int8 and int4) have been measured under three loads; all nine "
        "cells are valid. Of the three measured engines, int8 delivered the most: "
        f"{top:.0f} output tokens/s at 16 concurrent requests ({factor:.1f} × bf16) with "
        "a median TTFT of "
    )
    assert "the shortest median TTFT was int8's" in text
    assert "One repeat per cell: differences below about 10 % are not established." in text
    assert "demo-100m ran with made-up weights: speed and memory are real, but no statement about quality" in text
    assert "went wrong" not in text


def test_every_failure_is_named(failing) -> None:
    text = " ".join(verdict(failing))
    assert "four of 11 cells gave a valid measurement" in text
    assert "out of memory: 1 cell (bf16-closed-c16-r1)" in text
    assert "unsupported by the engine: 3 cells (all of fp8)" in text
    assert "failed: 1 cell (int4-closed-c4-r1)" in text
    assert "invalid: 1 cell (int8-closed-c16-r1)" in text
    assert "not run yet: 1 cell (int4-closed-c16-r1)" in text
    assert "Invalid cells are left out of every comparison." in text
    assert "In 1 valid cell, 2 of 24 requests were not answered in full" in text
    assert "Of the two measured engines, int8 delivered the most" in text  # only its own cell at 16 is invalid
    assert "at 16 concurrent" not in text  # the invalid cell was the fastest


def test_nobody_is_crowned_where_a_better_one_may_be_missing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for users in (1, 4):
        add_measured(run, "bf16", users)
        add_measured(run, "int4", users)
        invalid = {"outcome": "invalid", "validity": valid(0.05), "reason": "saturated"} if users == 1 else {}
        add_measured(run, "int8", users, **invalid)
    text = said(run.write())
    assert (
        "Under the lightest load, 1 concurrent request, which engine shows its first token soonest is not established"
        in text
    )
    assert "because int8's measurement is invalid; the best valid one is " in text
    assert "the shortest" not in text
    # int8 delivers the most at four users, and that cell is valid: it is named
    assert "int8 delivered the most" in text


def test_throughput_is_not_crowned_past_an_invalid_rival(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for users in (1, 4):
        add_measured(run, "bf16", users)
        add_measured(run, "int4", users)
        add_measured(run, "int8", users, outcome="invalid", validity=valid(0.05), reason="saturated")
    text = said(run.write())
    assert "Which engine delivers the most is not established, because int8's measurement is invalid" in text
    assert "delivered the most" not in text


def test_nobody_is_crowned_by_a_heavier_load_where_the_lightest_is_invalid(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for users in (1, 4):
        invalid = {"outcome": "invalid", "validity": valid(0.05), "reason": "saturated"} if users == 1 else {}
        add_measured(run, "bf16", users)
        for name in ("int8", "int4"):
            add_measured(run, name, users, **invalid)
    text = said(run.write())
    assert "1 concurrent request, which engine shows its first token soonest is not established" in text
    assert "the shortest" not in text  # at four users, where all are valid, it would be int8's
    only_invalid = RunFolder(tmp_path / "none")
    for name in ("bf16", "int8"):
        add_measured(only_invalid, name, 1, outcome="invalid", validity=valid(0.05), reason="saturated")
        add_measured(only_invalid, name, 4)
    assert "bf16 and int8's measurements are invalid; there is no valid one beside." in said(only_invalid.write())


def test_the_highest_rate_is_not_ranked_past(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for rate in (2.0, 8.0):
        load = {**closed_load(4), "kind": "open", "concurrency": None, "rate_rps": rate, "name": f"q{rate:g}"}
        for name in ("bf16", "int8"):
            requests = closed_requests(users=4, count=24, ttft_s=0.1, token_s=0.02)
            spoilt = {"outcome": "invalid", "validity": valid(0.05), "reason": "late"} if rate > 2 else {}
            run.add(name, load, requests, **spoilt)
    text = said(run.write())
    assert "the highest rate offered, which engine answers soonest is not established" in text
    assert "answered soonest" not in text


def sentences(text: str) -> int:
    return len(re.findall(r"[.!?](?= [A-Z]|$)", text))


def test_the_headline_is_three_sentences_at_most(nine, failing, repeated, tmp_path: Path) -> None:
    text = " ".join(headline(nine))
    assert text.startswith("For throughput, take int8: ")
    assert "All nine cells are valid; one repeat per cell, so differences below about 10 % are not established." in text
    assert text.endswith(
        "Missing: quality, because the weights are made up; a p95, for which no valid cell has 200 answers."
    )
    assert "Missing: 7 cells (" in " ".join(headline(failing))
    one = read_report(with_speeds(tmp_path / "one", {"int8": [0.02]}).write())
    nothing = RunFolder(tmp_path / "nothing")
    nothing.add("int8", closed_load(4), None, outcome="failed", reason="died")
    for report in (nine, failing, repeated, one, read_report(nothing.write())):
        assert 1 <= sentences(" ".join(headline(report))) <= 3, headline(report)


def test_what_predicts_worse_is_said_beside_what_to_take(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for name in ("bf16", "int8"):
        add_measured(run, name, 4)
    run.judge("bf16", 1.0)
    run.judge("int8", 1.3)
    assert "int8 predicts worse than bf16" in " ".join(headline(read_report(run.write())))


def test_the_terminal_ends_with_table_and_verdict(failing) -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(summary(failing))
    lines = out.getvalue().splitlines()
    assert [line.split()[:3] for line in lines[:3]] == [["engine", "load", "valid"], ["bf16", "c1", "yes"],
                                                       ["bf16", "c4", "yes"]]  # fmt: skip
    (oom,) = [line for line in lines if "out of memory " in line and line.startswith("bf16")]
    assert oom.split()[-3:] == ["–", "–", "–"]
    assert "For throughput, take int8: 104 output tokens/s" in " ".join(lines)


def test_only_one_engine_worked(tmp_path: Path) -> None:
    run = with_speeds(tmp_path, {"int8": [0.02]})
    run.add("fp8", closed_load(4), None, outcome="unsupported", reason="no kernel")
    text = said(run.write())
    assert "Only int8 gave a valid measurement, so there is nothing to compare it with: it delivered up to" in text
    assert "×" not in text


def test_a_single_planned_engine_is_not_called_the_only_survivor(tmp_path: Path) -> None:
    text = said(with_speeds(tmp_path, {"int8": [0.02]}).write())
    assert text.startswith(
        "One engine configuration of demo-100m (int8) has been measured under one load; the only cell is"
    )
    assert "int8 delivered up to" in text
    assert "Only" not in text
    assert "One repeat" not in text


def test_nothing_worked(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for users in (1, 4):
        run.add("bf16", closed_load(users), None, outcome="failed", reason="no")
    text = said(run.write())
    assert "no cell gave a valid measurement: this report cannot say anything about performance." in text
    assert "failed: 2 cells (all of bf16)" in text
    assert "tokens/s" not in text
    assert "speed and memory are real" not in text


def test_all_invalid_claims_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    add_measured(run, "bf16", 4, outcome="invalid", validity=valid(0.05), reason="saturated")
    text = said(run.write())
    assert "cannot say anything about performance" in text
    assert "tokens/s" not in text


def test_no_cells(tmp_path: Path) -> None:
    assert said(RunFolder(tmp_path).write()) == ("This run has no cells: nothing was planned and nothing was measured.")


def test_engines_within_ten_percent_are_not_ranked(tmp_path: Path) -> None:
    text = said(with_speeds(tmp_path, {"a": [0.0200], "b": [0.0208]}).write())
    assert "The highest throughput was a's" in text
    assert "is too close to tell apart" in text
    assert "delivered the most" not in text


def test_five_repeats_tell_small_differences_apart(tmp_path: Path) -> None:
    slow = [0.0208, 0.0209, 0.0210, 0.0209, 0.0208]
    fast = [0.0200, 0.0201, 0.0200, 0.0201, 0.0200]
    text = said(with_speeds(tmp_path, {"a": slow, "b": fast}).write())
    assert "Of the two measured engines, b delivered the most" in text
    assert "Five repeats per cell: engines are told apart when their intervals do not overlap." in text


def test_few_repeats_are_insufficient(repeated) -> None:
    text = " ".join(verdict(repeated))
    assert "three repeats each; all 27 cells are valid" in text
    assert "Three repeats per cell: insufficient for a verdict on small differences (five are needed)." in text
    assert "int8 answered the most requests within the SLO (TTFT ≤ 500 ms, TPOT ≤ 60.0 ms)" in text


def test_trained_weights_without_a_quality_pass(tmp_path: Path) -> None:
    text = said(with_speeds(tmp_path, {"a": [0.02], "b": [0.04]}, weightless=False).write())
    assert "Quality was not measured: a faster engine may answer worse." in text
    assert "made-up" not in text


def test_too_few_requests_for_a_median_speak_of_the_mean(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.add("a", closed_load(1), closed_requests(users=1, count=4, ttft_s=0.1, token_s=0.02))
    text = said(run.write())
    assert "with a mean TTFT of" in text
    assert "median" not in text


def test_open_loop_is_judged_by_latency_not_by_throughput(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for name, ttft_s in (("a", 0.3), ("b", 0.1)):
        for rate in (1.0, 2.0):
            load = {"name": f"q{rate:g}", "kind": "open", "rate_rps": rate, "arrival": "poisson", "seconds": 20.0}
            run.add(name, load, closed_requests(users=2, count=20, ttft_s=ttft_s * rate, token_s=0.02))
    text = said(run.write())
    assert (
        "At 2 requests/s (Poisson arrivals), the highest rate offered, b answered soonest: median E2E latency" in text
    )
    assert "Under the lightest load, 1 request/s (Poisson arrivals), the shortest median TTFT was b's" in text
    assert "delivered the most" not in text


def test_stored_numbers_that_the_records_do_not_give(tmp_path: Path) -> None:
    run = with_speeds(tmp_path, {"a": [0.02], "b": [0.04]})
    run.cells[0]["metrics"]["ttft_s"]["mean"] *= 1.5
    path = run.write()
    report = read_report(path)
    assert [d.name for d in report.cells[0].differences] == ["ttft_s.mean"]
    assert report.cells[0].value("ttft_s.mean") < run.cells[0]["metrics"]["ttft_s"]["mean"]
    text = " ".join(verdict(report))
    assert (
        "differ from what the records give in 1 cell (a-closed-c4-r1); this report shows the recomputed ones." in text
    )


def test_unfinished_run_says_so(tmp_path: Path) -> None:
    text = said(with_speeds(tmp_path, {"a": [0.02]}).write(finished=None))
    assert "The run is not finished" in text


def test_an_unreadable_cell_does_not_take_the_others_down(tmp_path: Path) -> None:
    run = with_speeds(tmp_path, {"a": [0.02], "b": [0.04]})
    (tmp_path / "cells" / "b-closed-c4-r1" / "requests.parquet").write_bytes(b"not parquet")
    report = read_report(run.write())
    assert outcome_of(report.cells[1]) == "records unreadable"
    assert "records unreadable: 1 cell (b)" in not_measured(report)
    assert report.cells[0].measured


def test_long_names_are_cut_in_the_verdict(tmp_path: Path) -> None:
    text = said(with_speeds(tmp_path, {"x" * 300: [0.02], "b": [0.04]}).write())
    assert "x" * 100 not in text


def test_records_missing_for_an_ok_cell_are_reported(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.add("a", closed_load(4), None)
    assert "no requests recorded: 1 cell (a)" in said(run.write())
