"""The wheel for a vLLM that is not ours: what is in it, and a real server that has nothing else of ours."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import vllm_alone

from bench.studies.hidden_truth import Reference, place_of, relative_error
from checkpoints.prepare import prepare
from serve.processes import port
from serve.processes.process import OwnedProcess
from tools.guest import wheel as guest
from tools.imports import ROOMS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engine")]  # built and installed once

WORKER = "nbridge_vllm.serve.hidden_states.worker.Worker"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return guest.build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel was installed into, by pip and without anything beside it."""
    folder = tmp_path_factory.mktemp("guest")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--target", folder, wheel], check=True)
    return folder


def test_it_takes_one_name_in_site_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition("/")[0] for name in archive.namelist()}
        facts = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
    version = tomllib.loads((guest.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert names == {"nbridge_vllm", f"nbridge_vllm-{version}.dist-info"}
    assert "\nRequires-Dist: nvidia-ml-py>=13\n" in facts
    assert facts.count("Requires-Dist") == 1
    assert "\nLicense-Expression: MIT\n" in facts


def test_all_that_it_imports_is_in_it_or_comes_with_vllm(installed: Path) -> None:
    brought = vllm_alone.modules(vllm_alone.required(vllm_alone.vllm(), "nvidia-ml-py").values())
    known = {name.partition(".")[0] for name in brought} | set(sys.stdlib_module_names)
    missing = set()
    for path in (installed / "nbridge_vllm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0 and node.module
                names = {node.module}
            else:
                names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            for name in names:
                ours = installed / name.replace(".", "/")
                is_there = ours.is_dir() or ours.with_suffix(".py").is_file()
                if not (is_there if name.startswith("nbridge_vllm") else name.partition(".")[0] in known):
                    missing.add((str(path.relative_to(installed)), name))
    assert missing == set()


def test_it_holds_what_the_server_runs_and_no_more() -> None:
    found = guest.reached()
    # By the entry point, by an import, by the string in endpoint.py, as a package on the way.
    assert {"serve.plugin.guest", "serve.plugin.endpoint", "serve.hidden_states.worker", "monitoring"} <= found
    assert not {name.partition(".")[0] for name in found} - {"serve", "monitoring", "inputs"}
    assert not {name for name in found if name.startswith(("serve.engine", "serve.client", "serve.cli"))}
    defaults = guest.ROOT / "monitoring" / "rules" / "thresholds.toml"
    assert guest.files_beside("monitoring.alerting.thresholds") == {defaults}


MOVED = {"serve", "serve.errors", "serve.plugin", "serve.plugin.routes"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from serve.errors import A\n", "from nbridge_vllm.serve.errors import A\n"),
        ("from serve import errors\n", "from nbridge_vllm.serve import errors\n"),
        ("def f():\n    from \\\n        serve.plugin import routes\n", None),
        ("import serve.errors as e, json\n", "import nbridge_vllm.serve.errors as e, json\n"),
        ("x = 'é'; from serve.errors import A\n", "x = 'é'; from nbridge_vllm.serve.errors import A\n"),
        ("W = 'serve.plugin.routes.Route'\n", "W = 'nbridge_vllm.serve.plugin.routes.Route'\n"),
        ("W = f'{w} --cls serve.errors.A: {a}'\n", "W = f'{w} --cls nbridge_vllm.serve.errors.A: {a}'\n"),
        ('"""See\n`serve.plugin`."""\n', '"""See\n`nbridge_vllm.serve.plugin`."""\n'),
        ("a = 1  # as in serve.errors\n", "a = 1  # as in nbridge_vllm.serve.errors\n"),
        # Not ours: a value's attribute, another package's module, a file, an English word, a module that stays.
        ("serve.errors.append(1)\n", "serve.errors.append(1)\n"),
        ("from other.serve.errors import A\n", "from other.serve.errors import A\n"),
        ("from serves import errors\n", "from serves import errors\n"),
        ("P = 'serve/errors.py', '/x/serve.errors'\n", "P = 'serve/errors.py', '/x/serve.errors'\n"),
        ("# who may serve. A server\n", "# who may serve. A server\n"),
        ("# see serve.engine.failure\n", "# see serve.engine.failure\n"),
        ("def g(e):\n    raise A from serve.errors\n", "def g(e):\n    raise A from serve.errors\n"),
    ],
)
def test_every_mention_of_a_moved_module_moves(before: str, after: str | None) -> None:
    expected = after or before.replace("serve.plugin", "nbridge_vllm.serve.plugin")
    assert guest.renamed(before, MOVED) == expected


def test_what_would_break_under_another_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(guest.CannotBuild, match=r"line 2: write `from … import …` instead of `import serve.errors`"):
        guest.renamed("import json\nimport serve.errors\n", MOVED)
    path = tmp_path / "serve" / "made.py"
    path.parent.mkdir()
    monkeypatch.setattr(guest, "ROOT", tmp_path)
    monkeypatch.setitem(guest.MODULES, "serve.made", path)
    for code, why in (
        ("HERE = __file__\n", "cannot be followed"),
        ("from importlib.resources import files\n", "cannot be followed"),
        ("P = Path(__file__).resolve().parent / 'gone.toml'\n", r"gone\.toml, which does not exist"),
        ("P = Path(__file__).parents[1] / name\n", "is no room"),
        ("argv = [python, warden.__file__]\n", "cannot be followed"),
    ):
        path.write_text(code)
        with pytest.raises(guest.CannotBuild, match=why):
            guest.files_beside("serve.made")
    (path.parent / "rules").mkdir()
    (path.parent / "rules" / "a.yml").touch()
    path.write_text("P = [Path(__file__).parent / 'rules' / name for name in names]\n")
    assert guest.files_beside("serve.made") == {path.parent / "rules" / "a.yml"}
    (path.parent / "a.toml").touch()
    path.write_text("P = Path(__file__).with_name('a.toml')\n")
    assert guest.files_beside("serve.made") == {path.parent / "a.toml"}


@pytest.mark.parametrize(
    ("name", "module"), [("starlette", "starlette.applications"), ("referencing", "referencing.jsonschema")]
)
def test_packages_of_others_work_under_another_name(name: str, module: str, tmp_path: Path) -> None:
    """They import themselves by their full name, as our rooms do; what imports by `import x.y` stays out."""
    spec = importlib.util.find_spec(name)
    assert spec and spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    files = [path.relative_to(root.parent) for path in root.rglob("*.py") if "test" not in str(path.relative_to(root))]
    moved = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files}
    shutil.copytree(root, tmp_path / guest.PACKAGE / name)
    for path in files:
        source = guest.renamed((root.parent / path).read_text(encoding="utf-8"), moved)
        (tmp_path / guest.PACKAGE / path).write_text(source, encoding="utf-8")
    code = f"import sys, {guest.PACKAGE}.{module}; print([one for one in sys.modules if one.split('.')[0] == {name!r}])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


@pytest.mark.slow
def test_beside_the_whole_project_one_plugin_answers(installed: Path) -> None:
    """vLLM loads every entry point called nbridge, in the order of sys.path; metrics can be registered once."""
    # The import takes 10 s, so both orders are tried in copies of one process.
    code = (
        "import os, sys\n"
        "from vllm.plugins import load_endpoint_plugins\n"
        f"guest = {str(installed)!r}\n"
        f"sys.path.append({str(guest.ROOT)!r})\n"
        "for order, path in ('guest first', [guest, *sys.path]), ('guest last', [*sys.path, guest]):\n"
        "    if os.fork():\n"
        "        os.wait()\n"
        "    else:\n"
        "        sys.path[:] = path\n"
        "        for one in load_endpoint_plugins(('generate',)):\n"
        "            print('taken:', order, type(one).__module__, one.name, flush=True)\n"
        "        os._exit(0)\n"
    )
    environment = {**os.environ, "VLLM_PLUGINS": "nbridge"}
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, cwd=installed, capture_output=True, text=True, check=False
    )
    said = ended.stdout + ended.stderr
    taken = [line for line in said.splitlines() if line.startswith("taken:")]
    ours = "serve.plugin.endpoint nbridge"
    assert taken == [f"taken: guest first {ours}", f"taken: guest last {ours}"], said
    assert "Failed to" not in said
    # Said where vLLM came to the guest last.
    assert (
        f"neural-bridge {metadata.version('neural-bridge')} is installed beside nbridge_vllm and answers in its place"
        in said
    )


@pytest.mark.engine
@pytest.mark.timeout(900)
def test_a_vllm_with_nothing_else_of_ours_answers_with_true_states(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = vllm_alone.make(tmp_path / "alone", vllm_alone.vllm(), "nvidia-ml-py")
    checkpoint = prepare("demo-1m").path
    monkeypatch.chdir(tmp_path)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for room in ROOMS:
        (theirs / f"{room}.py").write_text("raise RuntimeError('this module is not Neural Bridge')\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "NBRIDGE_"))} | {
        "PYTHONPATH": f"{theirs}:{installed}",
        "PYTHONSAFEPATH": "1",
        "VLLM_PLUGINS": "nbridge",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    # Nothing of ours can be imported but the guest: our rooms' names belong to somebody else, who minds.
    code = f"import importlib.util as u; print([s and s.origin for s in map(u.find_spec, {[*ROOMS, 'nbridge']!r})])"
    found = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert ast.literal_eval(found) == [*(str(theirs / f"{room}.py") for room in ROOMS), None]
    number = port.pick("127.0.0.1")
    argv = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint, "--dtype", "float32"]
    argv += ["--served-model-name", "demo-1m", "--port", str(number), "--host", "127.0.0.1", "--enforce-eager"]
    argv += ["--max-num-seqs", "8", "--worker-cls", WORKER]
    log = tmp_path / "server.log"
    with (
        OwnedProcess(argv, environment=environment, log_path=log) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{number}", timeout=120, trust_env=False) as client,
    ):
        health = first_answer(client, process, log)
        assert (health["status"], health["hidden_states"]["mode"]) == ("healthy", "dynamic")
        assert client.get("/health/detail").json()["status"] == "healthy"
        reference = Reference(checkpoint)
        ids = [5, 9, 200, 31, 77]
        body = {"prompts": [ids], "layers": ["embeddings", 0, -2, "final_norm"]}
        answer = client.post("/v1/hidden_states", json=body).raise_for_status().json()
        places = [place_of(layer, reference.num_layers) for layer in body["layers"]]
        found = np.asarray(answer["hidden_states"][0], np.float32)
        assert relative_error(found, reference.expected(ids, places, "last")) < 1e-5
        assert 'nbridge_hidden_states_requests_total{outcome="ok",pooling="last"} 1.0' in client.get("/metrics").text


def first_answer(client: httpx.Client, process: OwnedProcess, log: Path) -> dict[str, Any]:
    """/health of a server that has just been started, as soon as it answers."""
    while True:
        assert process.exit_status() is None, log.read_text(encoding="utf-8")[-3000:]
        try:
            return dict(client.get("/health").raise_for_status().json())
        except httpx.TransportError:
            time.sleep(0.25)
