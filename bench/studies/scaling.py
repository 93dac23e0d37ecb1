"""How near `nbridge scale simulate` comes to two real servers: one demand step, the time that requests waited.

    python -m bench.studies.scaling [--cases …] [--rounds 3] [--out FOLDER]

One replica is measured by closed loads up to its places. Two of them stand behind HAProxy (least connections) and get
an open load by chance whose rate steps up and down again. What requests waited for a place is what the servers
themselves count (`vllm:request_queue_time_seconds`). The simulation gets the run that measured the replica, and the
demand: when each request came, or only how many a second were planned. Golden servers have a service time that is
known; the real ones are vLLM on the CPU, each measured while the other was under the same load.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.errors import BenchError
from bench.golden.running import golden
from bench.run.store import open_run
from bench.studies.chaos.doors import Replica, opened
from checkpoints.prepare import prepare
from monitoring.machine import describe
from serve.engine.server import start
from serve.engine.settings import parse

ROOT = Path(__file__).parents[2]
DOOR = "haproxy alone"  # without canaries, so that the servers count our requests and no others
PLACES = 4
PARTS_S = 40.0  # each of the three parts of the step
SEEDS = 5
TURNS = 3
NEAR = 0.10
# 50 tokens take 1 s; ten an event, so that a client that wakes late on a busy machine does not find several at once.
_GOLDEN = ("ttft_s=0.05", "gap_s=0.02375", "per_event=10", "--limit", str(PLACES))

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Two servers and a step: shares of what both carry before, in and after it. `tokens`: a load's output_tokens."""

    words: str
    real: bool
    tokens: str
    before: float
    within: float


_SAME, _SPREAD = "50", '{ kind = "lognormal", mean = 50, sigma = 0.6, low = 2, high = 400 }'
CASES = {
    "golden-over": Case("golden, answers of one length", False, _SAME, 0.5, 1.3),
    "golden-spread-over": Case("golden, answers that differ", False, _SPREAD, 0.5, 1.3),
    "golden-spread-below": Case("golden, answers that differ", False, _SPREAD, 0.5, 0.9),
    "vllm-over": Case("vLLM with demo-1m on the CPU", True, "96", 0.4, 1.3),
}


def tables(loads: Sequence[str]) -> str:
    """A plan for servers that run already."""
    return 'name = "step"\n[defaults.load]\nscenario = "completion"\nprompt_tokens = 16\n' + "".join(loads)


def closed(case: Case, requests: int) -> str:
    """Loads up to all places of one replica."""
    return tables(
        [
            f'[[loads]]\nname = "c{users}"\nconcurrency = {users}\nrequests = {requests * users}\n'
            f"output_tokens = {case.tokens}\n"
            for users in (1, 2, PLACES)
        ]
    )


def stepped(case: Case, rates_rps: Sequence[float], parts_s: float, seed: int) -> str:
    """The step, by chance."""
    rates = ", ".join(f"{rate:.4g}" for rate in rates_rps)
    return tables(
        [
            f'[[loads]]\nname = "step"\nkind = "open"\narrival = "step"\nrates_rps = [{rates}]\n'
            f"seconds = {parts_s * len(rates_rps):g}\noutput_tokens = {case.tokens}\nwarmup_requests = 0\n"
            f"seed = {seed}\nmax_in_flight = 2000\n"
        ]
    )


def run(folder: Path, name: str, plan: str, url: str) -> Path:
    """The run folder of a plan against a server."""
    file, out = folder / f"{name}.toml", folder / name
    file.write_text(plan, encoding="utf-8")
    argv = ["bench", str(file), "--target", url, "--no-report", "--out", str(out), "--json"]
    document = json.loads(_nbridge(argv, accept=(0, 1)))
    return out / str(document["run_id"])


def simulated(run_folder: Path, demand: Path, seed: int) -> float:
    """What requests wait on average, as `nbridge scale simulate` has it for two replicas."""
    argv = ["scale", "simulate", "--from-run", str(run_folder), "--demand", str(demand), "--seed", str(seed), "--json"]
    argv += ["--start-s", "30", "--max-ttft", "600s", "--least", "2", "--most", "2"]
    found = json.loads(_nbridge(argv))["autoscalers"]["rendered"]
    if found["refused"]:
        raise BenchError("The simulation refused requests; the servers did not: take a smaller step.")
    return float(found["wait_mean_s"])


def _nbridge(argv: Sequence[str], accept: Sequence[int] = (0,)) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "nbridge", *argv], capture_output=True, text=True, check=False, cwd=ROOT
    )
    if done.returncode not in accept:
        raise BenchError(f"nbridge {argv[0]} ended with status {done.returncode} and said: {done.stderr[-500:]}")
    return done.stdout


@contextmanager
def servers(case: Case, folder: Path) -> Iterator[list[str]]:
    """Two servers: their addresses."""
    with ExitStack() as stack:
        if case.real:
            values = {"model": prepare("demo-1m").path, "served_model_name": "m", "port": 0, "max_num_seqs": PLACES}
            with ThreadPoolExecutor() as pool:
                begun = [
                    pool.submit(start, parse(values, "the study"), log_path=folder / f"server-{name}.log")
                    for name in ("a", "b")
                ]
                made = [one.result() for one in begun]
            yield [stack.enter_context(one).base_url for one in made]
        else:
            logs = [folder / f"golden-{name}.jsonl" for name in ("a", "b")]
            yield [stack.enter_context(golden(log, *_GOLDEN, "--model", "m")).url for log in logs]


def queued(urls: Sequence[str]) -> tuple[float, float]:
    """Seconds that requests have waited at these servers since their start, and how many did or did not."""
    waited_s = requests = 0.0
    for url in urls:
        page = httpx.get(f"{url}/metrics", timeout=30, trust_env=False).text
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name == "vllm:request_queue_time_seconds_sum":
                    waited_s += sample.value
                elif sample.name == "vllm:request_queue_time_seconds_count":
                    requests += sample.value
    return waited_s, requests


def replica(case: Case, folder: Path, urls: Sequence[str], requests: int) -> tuple[Path, float]:
    """The run that measures one replica, and the requests/s of its heaviest load, by Little's law."""
    plan, why = closed(case, requests), ""
    for turn in range(TURNS):
        if case.real:  # they share the machine, so one is measured beside the other
            with ThreadPoolExecutor() as pool:
                both = [pool.submit(run, folder, f"replica-{turn}-{n}", plan, url) for n, url in enumerate(urls)]
                found = both[0].result()
                both[1].result()
        else:
            found = run(folder, f"replica-{turn}", plan, urls[0])
        cells = open_run(found).cells
        if all(cell["outcome"] == "ok" for cell in cells):
            heaviest = cells[-1]["metrics"]
            return found, heaviest["mean_in_flight"] / heaviest["e2e_s"]["mean"]
        why = next(str(cell.get("reason")) for cell in cells if cell["outcome"] != "ok")
        sys.stderr.write(f"the replica is measured again: {why}\n")
    raise BenchError(f"No valid measurement of one replica in {TURNS} turns: {why}")


def rounds(
    case: Case, folder: Path, count: int, *, parts_s: float = PARTS_S, requests: int = 100, seeds: int = SEEDS
) -> Generator[Json]:
    """Steps at two servers, each beside its simulations."""
    with servers(case, folder) as urls:
        measured, each_rps = replica(case, folder, urls, requests)
        rates = [2 * each_rps * share for share in (case.before, case.within, case.before)]
        plan = folder / "planned.csv"
        edges = [(end_s, rate) for n, rate in enumerate(rates) for end_s in (n * parts_s, (n + 1) * parts_s - 1e-3)]
        plan.write_text("seconds,rps\n" + "".join(f"{at},{rate}\n" for at, rate in edges), encoding="utf-8")
        planned = [simulated(measured, plan, seed) for seed in range(seeds)]
        replicas = [Replica(name, folder, urlsplit(url).port or 0) for name, url in zip("ab", urls, strict=True)]
        with opened(DOOR, folder, replicas) as door:
            for number in range(count):
                before_s, already = queued(urls)
                ran = open_run(run(folder, f"step-{number}", stepped(case, rates, parts_s, number), door.url))
                after_s, all_of_them = queued(urls)
                cell = ran.cells[0]
                records = ran.requests(cell["id"])
                came = sorted(records["scheduled_s"].to_pylist())
                came_file = folder / f"came-{number}.csv"
                came_file.write_text("seconds\n" + "".join(f"{at}\n" for at in came), encoding="utf-8")
                yield {
                    "replica_rps": each_rps,
                    "rates_rps": rates,
                    "requests": len(came),
                    "failed": cell["metrics"]["requests"]["failed"],
                    # A few more than ours: by them the bench learns how the servers speak, before it sends anything.
                    "counted": all_of_them - already,
                    "measured_s": (after_s - before_s) / len(came),
                    "simulated_s": [
                        simulated(measured, came_file, seed) for seed in range(1 if case.tokens == _SAME else seeds)
                    ],
                    "planned_s": planned,
                    "validity": cell.get("validity"),
                }


def summary(found: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Per case: what was measured and simulated, averaged over the rounds, and by how much they differ."""
    rows = []
    for name in dict.fromkeys(one["case"] for one in found):
        mine = [one for one in found if one["case"] == name]
        measured_s = statistics.fmean(one["measured_s"] for one in mine)
        told = [statistics.fmean(one["simulated_s"]) for one in mine]
        rows.append(
            {
                "case": name,
                "rounds": len(mine),
                "requests": sum(one["requests"] for one in mine),
                "replica_rps": mine[0]["replica_rps"],
                "measured_s": measured_s,
                "simulated_s": statistics.fmean(told),
                "off": statistics.fmean(told) / measured_s - 1,
                "off_each": [one_s / one["measured_s"] - 1 for one_s, one in zip(told, mine, strict=True)],
                "planned_s": statistics.fmean(mine[0]["planned_s"]),
                "planned_range_s": [min(mine[0]["planned_s"]), max(mine[0]["planned_s"])],
            }
        )
    return rows


def table(document: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    heads = [
        "servers",
        "step",
        "rounds",
        "requests",
        "waited, measured",
        "simulated",
        "off",
        "each round",
        "as planned",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for one in document["summary"]:
        case = CASES[one["case"]]
        low, high = one["planned_range_s"]
        cells = [
            case.words,
            f"{case.before:.0%} → {case.within:.0%} → {case.before:.0%}",
            one["rounds"],
            one["requests"],
            f"{one['measured_s']:.3g} s",
            f"{one['simulated_s']:.3g} s",
            f"{one['off']:+.1%}",
            ", ".join(f"{off:+.1%}" for off in one["off_each"]),
            f"{one['planned_s']:.3g} s ({low:.3g} to {high:.3g})",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    said = ["yes" if abs(one["off"]) <= NEAR else "NO" for one in document["summary"]]
    named = [f"{one['case']} {word}" for one, word in zip(document["summary"], said, strict=True)]
    return "\n".join([*lines, "", f"Within {NEAR:.0%}: {', '.join(named)}."]) + "\n"


def main() -> None:
    """Measure case by case and write down after each round."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--out", type=Path, default=Path("runs/scaling"), help="folder for scaling.json and scaling.md")
    asked.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--requests", type=int, default=100, help="of each user, when one replica is measured")
    options = asked.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "scaling.json"
    document: Json = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rounds": []}
    document |= {"machine": describe(), "cases": {name: asdict(case) for name, case in CASES.items()}}
    document["rounds"] = [one for one in document["rounds"] if one["case"] not in options.cases]
    for name in options.cases:
        with (
            tempfile.TemporaryDirectory(prefix="nbridge-scaling-") as folder,
            contextlib.closing(rounds(CASES[name], Path(folder), options.rounds, requests=options.requests)) as made,
        ):
            for one in made:
                about = {"case": name, "at": datetime.now(UTC).isoformat(timespec="seconds")}
                document["rounds"].append({**about, **one, "load_average": round(os.getloadavg()[0], 1)})
                document["summary"] = summary(document["rounds"])
                sys.stderr.write(f"{time.strftime('%H:%M:%S')} {name}: {one['measured_s']:.3f} s measured, ")
                sys.stderr.write(f"{statistics.fmean(one['simulated_s']):.3f} s simulated\n")
                file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
                (options.out / "scaling.md").write_text(table(document), encoding="utf-8")
    sys.stdout.write(table(document))


if __name__ == "__main__":
    main()
