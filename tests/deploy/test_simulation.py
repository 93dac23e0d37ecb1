"""What a run says of a replica, thresholds from it, and a day played: hand-worked, and the whole command once."""

import copy
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from recordings import RECORDED
from typer.testing import CliRunner

from deploy.errors import SettingsError
from deploy.scaling import demand
from deploy.scaling.autoscaler import Autoscaler, Direction, Metric, Policy
from deploy.scaling.cli import scale
from deploy.scaling.replica import Replica, growth, replica
from deploy.scaling.simulation import World, arrivals, play
from deploy.scaling.thresholds import scaling

DOCUMENT = json.loads((RECORDED / "run.json").read_text(encoding="utf-8"))


def made(**more) -> Replica:
    """Ends one request a second with one in work, and four with four or more; a first token takes 0.1 to 0.4 s."""
    facts = {
        "run": "r",
        "engine": "e",
        "curve": ((1.0, 1.0, 0.1), (4.0, 4.0, 0.4)),
        "capacity_rps": 4.0,
        "at_capacity": 4.0,
        "ttft_limit_s": 1.0,
        "start_s": 30.0,
        "memory_bytes": None,
        "has_gpu": False,
        "words": {},
    }
    return Replica(**{**facts, **more})


def test_a_replica_is_what_was_measured_and_nothing_beyond():
    one = made()
    assert [one.rate_rps(n) for n in (0, 0.5, 1, 2.5, 4, 40)] == [0, 0.5, 1, 2.5, 4, 4]
    assert [round(one.ttft_s(n), 3) for n in (0, 1, 2.5, 40)] == [0.1, 0.1, 0.25, 0.4]
    assert [one.in_work(rate) for rate in (0.5, 1, 2, 4, 9)] == [0.5, 1, 2, 4, 4]


def test_the_reference_run_says_what_int8_carries():
    one = replica(DOCUMENT, engine="int8", ttft_limit_s=1.0)
    assert (round(one.capacity_rps, 2), round(one.at_capacity), round(one.start_s, 1)) == (9.63, 16, 39.1)
    assert "no goodput" in one.words["capacity"] and "heaviest load measured" in one.words["capacity"]
    strict = replica(DOCUMENT, engine="int8", ttft_limit_s=0.3)
    assert (round(strict.capacity_rps, 2), "heaviest load measured" in strict.words["capacity"]) == (5.14, False)
    with_goodput = copy.deepcopy(DOCUMENT)
    for cell in with_goodput["cells"]:
        cell["metrics"]["goodput_rps"] = 3.5 if cell["id"] == "int8-c4-r1" else None
    assert replica(with_goodput, engine="int8", ttft_limit_s=1.0).capacity_rps == 3.5


@pytest.mark.parametrize(
    ("change", "engine", "limit_s", "words"),
    [
        (lambda run: None, None, 1.0, "several engines"),
        (lambda run: None, "fp4", 1.0, "no valid cell of engine 'fp4'"),
        (lambda run: None, "int8", 0.05, "no load kept the TTFT within 50.0 ms"),
        (lambda run: [cell.update(startup=None) for cell in run["cells"]], "int8", 1.0, "time to start is not known"),
        (
            lambda run: [cell["metrics"].update(ttft_s=None) for cell in run["cells"]],
            "int8",
            1.0,
            "time to first token",
        ),
        (lambda run: [cell.update(outcome="failed") for cell in run["cells"]], "int8", 1.0, "no valid cell"),
    ],
)
def test_what_a_run_does_not_say_is_said(change, engine, limit_s, words):
    run = copy.deepcopy(DOCUMENT)
    change(run)
    with pytest.raises(Exception, match=words) as error:
        replica(run, engine=engine, ttft_limit_s=limit_s)
    assert getattr(error.value, "exit_code", None) == 2


def test_a_run_of_a_server_that_ran_already_needs_its_time_to_start():
    run = copy.deepcopy(DOCUMENT)
    for cell in run["cells"]:
        cell.update(startup=None)
    with pytest.raises(SettingsError, match="give it with --start-s"):
        replica(run, engine="int8", ttft_limit_s=1.0)
    given = replica(run, engine="int8", ttft_limit_s=1.0, start_s=12.0)
    assert (given.start_s, given.words["start"]) == (12.0, "12.0 s, as given.")


def test_more_in_work_than_the_engine_has_places_waited_when_it_was_measured():
    run = copy.deepcopy(DOCUMENT)
    for cell in run["cells"]:
        cell["engine"]["max_num_seqs"] = 8
    one = replica(run, engine="int8", ttft_limit_s=1.0)
    # 16 were in work, so 8 were served, at that rate; between 4 and 16 the time to the first token is a straight line.
    assert (one.places, round(one.rate_rps(8), 2), round(one.rate_rps(99), 2)) == (8, 9.63, 9.63)
    four, eight, sixteen = (_ttft_s(n) for n in (4, 8, 16))
    assert one.ttft_s(8) == pytest.approx(eight) and four < eight < sixteen
    assert "More than 8 in work find no place" in one.words["curve"]


def _ttft_s(in_work: float) -> float:
    return replica(DOCUMENT, engine="int8", ttft_limit_s=1.0).ttft_s(in_work)


def test_growth_is_the_most_within_the_lag_and_not_of_a_quiet_night():
    day = ((0.0, 1.0), (100.0, 2.0), (200.0, 2.0), (300.0, 8.0), (400.0, 8.0))
    assert growth(day, 50) == (pytest.approx(2.5), 200.0)  # 2 → 5 in the first half of the steep piece
    assert growth(day, 100) == (pytest.approx(4.0), 200.0)
    assert growth(((0.0, 0.01), (10.0, 5.0), (20.0, 10.0)), 10) == (pytest.approx(2.0), 10.0)  # 500-fold from almost 0
    assert growth(((0.0, 5.0), (10.0, 1.0)), 5)[0] == 1.0


def test_thresholds_by_hand():
    # Lag 5 + 15 + 30 = 50 s; 200 requests come in it, two deviations of which are 2/√200 = 14.1 %; tolerance 10 %.
    steady = scaling(made(), day=((0.0, 2.0), (1000.0, 2.0)))
    assert steady.lag_s == 50
    assert steady.rate_rps == pytest.approx(4 / (1.1 * (1 + 2 / 200**0.5)), abs=0.01)  # 3.18
    assert steady.in_work == pytest.approx(3.1)  # here as many as the rate, rounded down to a tenth
    assert (steady.waiting, steady.least, steady.most) == (4, 1, 2)  # 4 requests/s × 1 s
    # Twice as many within the lag: half as much each, and a queue would be 100 longer before help comes.
    doubling = scaling(made(), day=((0.0, 2.0), (50.0, 4.0), (1000.0, 4.0)))
    assert doubling.rate_rps == pytest.approx(steady.rate_rps / 2, abs=0.02)
    assert doubling.waiting == 1 and "late signal" in doubling.words["waiting"]
    unknown = scaling(made(), day=None)
    assert (unknown.least, unknown.most) == (None, None) and "least" not in unknown.words


def test_requests_come_evenly_by_chance_or_when_they_came():
    day = ((0.0, 2.0), (3.0, 2.0))
    even = list(arrivals(World(made(), day, seed=None)))
    assert even == [[(0.25, 1), (0.75, 1)], [(1.25, 1), (1.75, 1)], [(2.25, 1), (2.75, 1)]]
    slow = list(arrivals(World(made(), ((0.0, 0.5), (4.0, 0.5)), seed=None)))  # half a request a second
    assert slow == [[], [(1.0, 1)], [], [(3.0, 1)]]
    came = list(arrivals(World(made(), day, (0.0, 0.5, 2.9))))
    assert came == [[(0.0, 1), (0.5, 1)], [], [(2.9, 1)]]
    hours = ((0.0, 2.0), (2 * 3600.0, 2.0))
    chance = [one for second in arrivals(World(made(work_cv=0.5), hours)) for one in second]
    assert chance == sorted(chance, key=lambda one: one[0])
    assert len(chance) == pytest.approx(14_400, rel=0.03)
    work = [work for _, work in chance]
    mean = sum(work) / len(work)
    assert mean == pytest.approx(1, rel=0.03)
    assert (sum((one - mean) ** 2 for one in work) / len(work)) ** 0.5 == pytest.approx(0.5, rel=0.05)


FIXED = Autoscaler((Metric("waiting", "total", 1e9),), 1, 1)


def test_one_replica_with_twice_its_load_refuses_half_of_it():
    # Even arrivals of 8/s, 4/s ended: 4/s pile up until 30 s of waiting (120) stand there, then 4/s are turned away.
    world = World(made(), ((0.0, 8.0), (300.0, 8.0)), seed=None)
    day = play(world, FIXED, 1)
    assert day.requests == 2400
    assert day.refused == pytest.approx(2400 - 300 * 4 - 124, abs=8)
    assert day.wait_max_s == pytest.approx(30, abs=1)
    # Within 1 s is whoever finds fewer than 4 × 0.6 s waiting: the first second and a half.
    assert 2400 - day.missed == pytest.approx(8, abs=8)
    assert (day.replica_hours, day.replicas_most, day.changes) == (pytest.approx(300 / 3600), 1, 0)


def test_a_light_load_waits_for_nothing_and_misses_nothing():
    day = play(World(made(), ((0.0, 2.0), (300.0, 2.0)), seed=None), FIXED, 1)
    assert (day.missed, day.refused, day.cut, day.wait_mean_s) == (0, 0, 0, 0)


def test_a_new_replica_helps_only_once_it_has_started():
    scaler = Autoscaler((Metric("waiting", "total", 2),), 1, 2, Direction(0, (Policy("Pods", 1, 15),)))
    step = ((0.0, 2.0), (60.0, 2.0), (61.0, 6.0), (350.0, 6.0))
    slow = play(World(made(start_s=120.0), step, seed=None), scaler, 1)
    quick = play(World(made(start_s=10.0), step, seed=None), scaler, 1)
    assert slow.missed > 3 * quick.missed > 0
    # 2/s pile up from 60 s on, up to 120; ordered at 75 s, there after 120 s more: the third minute is the worst.
    waiting = slow.minutes["waiting"]
    assert max(range(len(waiting)), key=waiting.__getitem__) == 2


def test_one_place_waits_as_long_as_queueing_theory_says():
    """Pollaczek and Khinchine: ρ S (1 + cv²) / (2 (1 - ρ)), with ρ = 0.8 and S = 1 s."""
    one = {"curve": ((1.0, 1.0, 0.1),), "capacity_rps": 1.0, "at_capacity": 1.0}
    for spread, wanted_s in ((0.0, 2.0), (0.5, 2.5), (1.0, 4.0)):
        world = World(made(**one, work_cv=spread), ((0.0, 0.8), (100_000.0, 0.8)), wait_limit_s=1e9)
        assert play(world, FIXED, 1).wait_mean_s == pytest.approx(wanted_s, rel=0.08)


def test_an_ended_replica_has_its_time_and_then_its_requests_are_cut():
    quick_down = Direction(0, (Policy("Pods", 1, 15),))
    scaler = Autoscaler((Metric("total_rps", "total", 100),), 1, 2, down=quick_down)
    slow = made(curve=((10.0, 0.1, 0.1),), capacity_rps=0.1, at_capacity=10.0, ttft_limit_s=1000.0)
    world = World(slow, ((0.0, 1.0), (15.0, 1.0), (16.0, 0.0), (200.0, 0.0)), seed=None, drain_s=60)
    day = play(world, scaler, 2)
    # Every other of 15 is at each when one is ended; with fewer than ten, each would take 100 s, and it has 60.
    assert day.cut in (7, 8)
    assert play(World(slow, world.day, seed=None, drain_s=1000), scaler, 2).cut == 0


def test_chance_is_the_same_for_the_same_seed():
    world = World(made(), ((0.0, 2.0), (120.0, 2.0)), seed=3)
    assert play(world, FIXED, 1) == play(world, FIXED, 1)
    assert play(World(made(), world.day, seed=4), FIXED, 1).requests != play(world, FIXED, 1).requests


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("second,rps\n0,1\n", "expected the columns seconds,rps"),
        ("seconds\n0\n", "two requests at least"),
        ("seconds\n0\n5\n4\n", "line 4: seconds 4 is before 5"),
        ("seconds\n0\nnoon\n", "line 3: seconds = 'noon'"),
        ("seconds,rps\n0,1\n", "two lines at least"),
        ("seconds,rps\n0,0\n9,0\n", "a rate above 0"),
        ("seconds,rps\n0,1\n0,2\n", "line 3: seconds 0 does not come after 0"),
        ("seconds,rps\n0,1\n5,-2\n", "line 3: rps = '-2'"),
        ("seconds,rps\n0,1\n5,nan\n", "line 3: rps = 'nan'"),
        ("seconds,rps\n0,1\n5\n", "line 3: rps = None"),
        ("seconds,rps\n0,1\n1e9,1\n", "more than 31 days"),
    ],
)
def test_a_demand_file_that_is_none_is_refused(tmp_path, text, words):
    path = tmp_path / "day.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=words):
        demand.read(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        demand.read(tmp_path / "none.csv")


def test_a_record_of_requests_is_a_demand_too(tmp_path):
    path = tmp_path / "came.csv"
    path.write_text("seconds\n" + "".join(f"{1000 + at / 2}\n" for at in range(241)), encoding="utf-8")
    found = demand.read(path)
    assert found.instants[:3] == (0.0, 0.5, 1.0) and len(found.instants) == 241
    assert found.day[0] == (0.0, pytest.approx(2.0, rel=0.02)) and found.day[-1][0] == 121
    assert demand.requests(found.day) == pytest.approx(241)


def test_the_command_plays_a_file_and_draws_it(tmp_path):
    file, picture = tmp_path / "hour.csv", tmp_path / "day.svg"
    file.write_text("seconds,rps\n100,2\n400,12\n1000,12\n1300,2\n", encoding="utf-8")
    argv = ["simulate", "--from-run", str(RECORDED), "--run-engine", "int8", "--demand", str(file)]
    answer = CliRunner().invoke(scale, [*argv, "--svg", str(picture), "--json"])
    document = json.loads(answer.stdout)
    assert (answer.exit_code, document["engine"], document["thresholds"]["most"]) == (0, "int8", 4)
    days = document["autoscalers"]
    assert next(iter(days)) == "rendered" and days["guide: 100 requests/s"]["replicas_most"] == 1
    assert len({one["requests"] for one in days.values()}) == 1
    assert days["rendered"]["missed"] < days["guide: 100 requests/s"]["missed"]
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    assert "One replica of int8 carries 9.63 requests/s" in CliRunner().invoke(scale, argv).stdout
    file.write_text("seconds\n" + "".join(f"{at / 4}\n" for at in range(4 * 90)), encoding="utf-8")
    document = json.loads(CliRunner().invoke(scale, [*argv, "--start-s", "7", "--json"]).stdout)
    assert (document["replica"]["start_s"], document["autoscalers"]["rendered"]["requests"]) == (7, 360)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--demand", "weekend"], "The demand file weekend cannot be read"),
        (["--max-ttft", "soon"], "--max-ttft: 'soon' is no duration"),
        (["--least", "5", "--most", "2"], "--most 2 is below"),
        (["--demand", "came.csv", "--even"], "says when each request came"),
    ],
)
def test_bad_options_are_said(more, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("came.csv").write_text("seconds\n0\n9\n", encoding="utf-8")
    answer = CliRunner().invoke(scale, ["simulate", "--from-run", str(RECORDED), "--run-engine", "int8", *more])
    assert isinstance(answer.exception, SettingsError) and words in str(answer.exception)
