"""`nbridge render`: an overlay that kustomize takes, with derived figures and their words; a compose folder."""

import json
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from manifests import KUBERNETES, kustomized, of_kind, option, overlay
from recordings import RECORDED
from typer.testing import CliRunner

from deploy.errors import SettingsError
from deploy.rendering.cli import render
from deploy.rendering.compose import served_names
from deploy.rendering.kubernetes import PROMETHEUS, triggers
from gateway.settings import parse


def rendered(*argv: object) -> str:
    """What the command says on stderr."""
    answer = CliRunner().invoke(render, [str(word) for word in argv])
    if answer.exception and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.stderr


@pytest.fixture
def files_of_ours(tmp_path, monkeypatch):
    """A copy of the manifests: kustomize wants overlay and base under one root that it may read."""
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    monkeypatch.setattr("deploy.rendering.kubernetes.FOLDER", tmp_path / "kubernetes")
    return tmp_path


def test_an_overlay_from_a_run_is_taken_by_kustomize_with_the_runs_figures(files_of_ours):
    out = files_of_ours / "mine"
    argv = ("kubernetes", "--from-run", RECORDED, "--run-engine", "int8", "--out", out, "--namespace", "llm")
    said = rendered(*argv, "--peak-rps", 33)
    assert "capacity 9.63 requests/s: run 20261122T103945Z-default-f747" in said
    assert "not derived: KV cache" in said and "not derived: GPUs" in said and "Replicas:" not in said
    manifests = kustomized(out)
    assert {one["metadata"].get("namespace") for one in manifests} == {"llm"}
    deployment = next(one for one in of_kind(manifests, "Deployment") if one["metadata"]["name"] == "nbridge-server")
    spec = deployment["spec"]["template"]["spec"]
    container = spec["containers"][0]
    # Started in 39.1 s: (3 × 39.1 + 600) / 5 rounded up; 2.73 GiB × 1.25 and × 1.5625, rounded up.
    assert container["startupProbe"]["failureThreshold"] == 144
    assert container["startupProbe"]["httpGet"]["path"] == "/health"
    resources = container["resources"]
    assert (resources["requests"]["memory"], resources["limits"]["memory"]) == ("4Gi", "5Gi")
    assert resources["limits"]["nvidia.com/gpu"] == "1"
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert (variables["NBRIDGE_SERVE_MODEL"], variables["NBRIDGE_SERVE_QUANTIZATION"]) == ("demo-100m", "int8")
    assert (variables["NBRIDGE_SERVE_MAX_NUM_SEQS"], variables["NBRIDGE_HEALTH_STALL_S"]) == ("16", "12")
    assert variables["NBRIDGE_SERVE_HOST"] == "0.0.0.0"
    assert spec["terminationGracePeriodSeconds"] == 15 + 30 + 45 and "--drain-s=30" in container["args"]
    scaled = of_kind(manifests, "ScaledObject")[0]["spec"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (2, 6)
    thresholds = {one["name"]: float(one["metadata"]["threshold"]) for one in scaled["triggers"]}
    assert thresholds == {"waiting": 3, "in-work": 11.3, "rate": 7.9, "kv-cache": 0.7}
    assert "fallback" not in scaled and scaled["pollingInterval"] == 15  # the base's
    down = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 90}]
    rules = of_kind(manifests, "PrometheusRule")[0]
    assert [one["record"] for one in rules["spec"]["groups"][0]["rules"] if "record" in one]
    assert "LoadPastKnee" in json.dumps(rules)  # which only a measured run brings
    for name in ("server.yaml", "scaling.yaml", "rules.yaml"):
        assert "# From run 20261122T103945Z-default-f747, engine int8" in (out / name).read_text(encoding="utf-8")
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(deployment, "1.30", strict=True)
    kubernetes_validate.validate(yaml.safe_load((out / "hpa.yaml").read_text(encoding="utf-8")), "1.30", strict=True)


def test_without_a_demand_no_number_of_replicas_is_invented(files_of_ours):
    out = files_of_ours / "mine"
    said = rendered(
        "kubernetes", "--from-run", RECORDED, "--run-engine", "bf16", "--max-ttft", "2s", "--out", out, "--onto", "dev"
    )
    assert "not derived: Replicas: nothing is known of the demand" in said
    assert not (out / "scaling.yaml").exists()  # dev has no autoscaler
    assert kustomized(out)
    rendered("kubernetes", "--from-run", RECORDED, "--run-engine", "bf16", "--max-ttft", "2s", "--out", out)
    assert "minReplicaCount" not in (out / "scaling.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--onto", "staging"], "--onto 'staging': expected one of dev, prod"),
        (["--demand", "office"], "a shape without a height"),
        (["--demand", "none.csv"], "cannot be read"),
        (["--max-ttft", "1ms"], "has no goodput, and no load kept the TTFT"),
    ],
)
def test_what_cannot_be_rendered_is_said(tmp_path, more, words):
    with pytest.raises(SettingsError, match=words):
        rendered("kubernetes", "--from-run", RECORDED, "--run-engine", "int8", "--out", tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_the_committed_triggers_are_those_that_are_rendered():
    numbers = {"waiting": 5, "in_work": 16, "rate_rps": 2, "kv_share": 0.7, "prometheus": PROMETHEUS}
    committed = [option("keda")[0], *of_kind(overlay("multi-model"), "ScaledObject")]
    for one in committed:
        assert one["spec"]["triggers"] == triggers(one["metadata"]["name"], "default", **numbers)


def test_queries_are_sound(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    queries = [one["metadata"]["query"] for one in option("keda")[0]["spec"]["triggers"]]
    rules = [{"record": f"q{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "q", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def keys_of(folder: Path) -> dict[str, str]:
    lines = [line for path in sorted((folder / "keys").iterdir()) for line in path.read_text("utf-8").splitlines()]
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def test_a_compose_folder_has_keys_of_its_own_and_keeps_them(tmp_path):
    out = tmp_path / "here"
    said = rendered("compose", "--out", out, "--from-run", RECORDED, "--run-engine", "int8")
    made_once = [out / ".env", *(out / "keys").iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made_once} == {0o600}
    assert stat.S_IMODE((out / "keys").stat().st_mode) == 0o700
    env = (out / ".env").read_text(encoding="utf-8")
    assert "SERVER_MEMORY=5g\n" in env and "HEALTH_STALL_S=12\n" in env
    keys = keys_of(out)
    assert sorted(keys) == ["GF_SECURITY_ADMIN_PASSWORD", "NBRIDGE_API_KEY", "NBRIDGE_USER_KEYS"]
    assert len(set(keys.values())) == 3 and min(map(len, keys.values())) >= 32
    assert "USER_KEYS" not in (out / "keys" / "servers.env").read_text(encoding="utf-8")  # each gets its own
    for path in out.rglob("*"):
        if path.is_file() and path.parent.name != "keys":
            assert not [one for one in keys.values() if one in path.read_text(encoding="utf-8")], path
    assert not [one for one in keys.values() if one in said]
    rendered("compose", "--out", out)
    assert keys_of(out) == keys
    rendered("compose", "--out", tmp_path / "other")
    assert not set(keys_of(tmp_path / "other").values()) & set(keys.values())


def test_a_compose_folder_fits_together(tmp_path):
    rendered("compose", "--out", tmp_path, "--model", "meta/Llama-8B", "--model", "qwen-7b")
    settings = parse(tomllib.loads((tmp_path / "gateway.toml").read_text(encoding="utf-8")), "gateway.toml")
    compose = yaml.safe_load((tmp_path / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    assert {one.url.removeprefix("http://").partition(":")[0] for one in settings.server} <= set(services)
    values = (tmp_path / ".env").read_text(encoding="utf-8")
    assert [one.model for one in settings.server] == ["Llama-8B", "qwen-7b"]
    for one in settings.server:
        assert f"={one.model}\n" in values
    for name, service in services.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert {"cpus", "mem_limit", "restart"} <= set(service), name
        assert not service["image"].endswith("latest") and ":" in service["image"]
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (tmp_path / source).exists(), source
        for file in service.get("env_file", []):
            assert (tmp_path / file).exists()
        for variable, value in (service.get("environment") or {}).items():
            assert (
                not re.search("PASSWORD|KEYS?$|TOKEN", variable)
                or str(value).startswith("$")
                or variable.endswith("_ENV")
            )
    # What a server may take to drain is less than what it is given.
    assert services["server-a"]["stop_grace_period"] == "165s"
    scraped = yaml.safe_load((tmp_path / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    targets = {
        target
        for job in scraped["scrape_configs"]
        for one in job.get("static_configs", [])
        for target in one["targets"]
    }
    assert {target.partition(":")[0] for target in targets} - {"localhost"} <= set(services)


def test_prometheus_and_alertmanager_take_their_files(tmp_path):
    promtool, amtool = shutil.which("promtool"), shutil.which("amtool")
    if promtool is None or amtool is None:
        pytest.skip("promtool or amtool is not installed")
    rendered("compose", "--out", tmp_path)
    rules = [str(path) for path in sorted((tmp_path / "prometheus" / "rules").glob("*.yml"))]
    for argv in (
        [promtool, "check", "config", str(tmp_path / "prometheus" / "prometheus.yml")],
        [promtool, "check", "rules", *rules],
        [amtool, "check-config", str(tmp_path / "alertmanager" / "alertmanager.yml")],
    ):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_two_models_of_one_name_are_told_apart():
    assert served_names(("a/x", "b/x")) == ("x-a", "x-b")
    with pytest.raises(SettingsError, match="given 1 times"):
        rendered("compose", "--out", "unused", "--model", "x")


def test_the_dockerfile_is_clean():
    hadolint = Path(__import__("sys").executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [hadolint, KUBERNETES.parent / "containers" / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
