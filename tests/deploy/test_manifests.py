"""The Kubernetes manifests: rendered, valid by the API's and the operators' schemas, and by rules of our own."""

import re
import tomllib

import pytest
import yaml
from manifests import KUBERNETES, OPTIONS, OVERLAYS, kustomized, of_kind, option, overlay, pods, selects

from deploy.rendering import cluster_rules
from gateway.settings import parse
from monitoring.alerting import rulefiles
from monitoring.alerting.thresholds import load

pytestmark = pytest.mark.slow

OURS = ("ScaledObject", "ServiceMonitor", "PrometheusRule", "HTTPRoute")
RENDERED = [("overlay", name) for name in OVERLAYS] + [("option", name) for name in OPTIONS]


def manifests_of(kind: str, name: str):
    return overlay(name) if kind == "overlay" else option(name)


@pytest.mark.parametrize(("kind", "name"), RENDERED)
def test_every_object_is_valid_by_its_schema(kind, name):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for one in manifests_of(kind, name):
        if one["kind"] not in OURS:
            # Strict: a key that the API does not know is an error. 1.30 is the oldest that is still patched somewhere.
            kubernetes_validate.validate(one, "1.30", strict=True)


@pytest.mark.parametrize(("kind", "name"), RENDERED)
def test_every_operators_object_is_valid_and_nothing_of_it_is_unknown(kind, name):
    keda = pytest.importorskip("cloudcoil.models.keda.v1alpha1")
    operator = pytest.importorskip("cloudcoil.models.prometheus_operator.v1")
    models = {
        "ScaledObject": keda.ScaledObject,
        "ServiceMonitor": operator.ServiceMonitor,
        "PrometheusRule": operator.PrometheusRule,
    }
    for one in of_kind(manifests_of(kind, name), *models):
        read = models[one["kind"]].model_validate(one)
        # The models pass over what they do not know; so what comes back must be all that went in.
        back = read.model_dump(mode="json", by_alias=True, exclude_unset=True)
        assert back["spec"] == one["spec"], one["metadata"]["name"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_pod_is_careless(name):
    found = pods(overlay(name))
    assert found
    for workload, template in found.items():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, workload
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] > 1000, workload
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not [volume for volume in spec.get("volumes", []) if "hostPath" in volume]
        for container in spec["containers"]:
            image, _, tag = container["image"].rpartition(":")
            assert image and re.fullmatch(r"[0-9][\w.-]*|[0-9a-f]{64}", tag), f"{workload}: {container['image']}"
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]) & set(container["resources"]["requests"])
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
            for variable in container.get("env", []):
                secret = re.search(r"KEY$|KEYS$|TOKEN$|PASSWORD$", variable["name"])
                assert "value" not in variable or not secret, f"{workload}: {variable['name']} stands in the manifest"


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_pod_has_time_to_drain(name):
    for workload, template in pods(overlay(name)).items():
        spec = template["spec"]
        container = spec["containers"][0]
        if "lifecycle" not in container:
            assert workload == "nbridge-gpu-exporter"  # which serves nobody
            continue
        before_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        if container["name"] == "server":
            drain_s = next(int(arg.partition("=")[2]) for arg in container["args"] if arg.startswith("--drain-s="))
            probe = container["readinessProbe"]
            assert before_s > probe["periodSeconds"] * probe["failureThreshold"]
        else:
            drain_s = gateway_settings(name).limits.drain_s
        assert spec["terminationGracePeriodSeconds"] >= before_s + drain_s + 15


@pytest.mark.parametrize("name", OVERLAYS)
def test_probes_are_those_that_tell_a_hang_from_work(name):
    for workload, template in pods(overlay(name)).items():
        container = template["spec"]["containers"][0]
        if container["name"] != "server":
            continue
        asked = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")}
        assert asked == {"startup": "/health", "readiness": "/health/detail", "liveness": "/health/live"}, workload
        start = container["startupProbe"]
        timeout_s = next(
            int(arg.partition("=")[2]) for arg in container["args"] if arg.startswith("--start-timeout-s=")
        )
        # A start that fails ends with a reason in the log, not with the kubelet's kill.
        assert start["periodSeconds"] * start["failureThreshold"] >= timeout_s


def gateway_settings(name: str):
    maps = [one for one in of_kind(overlay(name), "ConfigMap") if one["metadata"]["name"].startswith("nbridge-gateway")]
    return parse(tomllib.loads(maps[0]["data"]["gateway.toml"]), name)


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_must_reach_each_other_does(name):
    manifests = overlay(name)
    services = {one["metadata"]["name"]: one for one in of_kind(manifests, "Service")}
    templates = pods(manifests)
    settings = gateway_settings(name)
    container = templates["nbridge-gateway"]["spec"]["containers"][0]
    data = container["args"][container["args"].index("--data") + 1]
    # Its folder is one in a volume: the volume itself is root's, and could not be closed to others.
    assert any(data.startswith(f"{one['mountPath']}/") for one in container["volumeMounts"])
    assert settings.gateway.api_keys_env and all(one.api_key_env for one in settings.server)
    door = templates["nbridge-gateway"]["metadata"]["labels"]
    policies = of_kind(manifests, "NetworkPolicy")
    for server in settings.server:
        host = server.url.removeprefix("http://").partition(":")[0]
        selector = services[host]["spec"]["selector"]
        behind = [one for one in templates.values() if selects({"matchLabels": selector}, one["metadata"]["labels"])]
        assert len(behind) == 1, host
        container = behind[0]["spec"]["containers"][0]
        names = {one["name"]: one.get("value") for one in container["env"]}
        assert server.model == names.get("NBRIDGE_SERVE_SERVED_MODEL_NAME", names["NBRIDGE_SERVE_MODEL"])
        labels = behind[0]["metadata"]["labels"]
        own = [one for one in policies if selects(one["spec"]["podSelector"], labels)]
        assert own, "a server that anyone may ask"
        sources = [
            peer["podSelector"]
            for one in own
            for rule in one["spec"]["ingress"]
            for peer in rule["from"]
            if "podSelector" in peer
        ]
        assert any(selects(source, door) for source in sources), f"the gateway may not ask {host}"
        out = [one for one in policies if selects(one["spec"]["podSelector"], door)]
        targets = [
            peer["podSelector"]
            for one in out
            for rule in one["spec"]["egress"]
            for peer in rule.get("to", [])
            if "podSelector" in peer
        ]
        assert any(selects(target, labels) for target in targets), f"the gateway may not leave for {host}"
    volumes = {claim["metadata"]["name"] for claim in of_kind(manifests, "PersistentVolumeClaim")}
    for template in templates.values():
        for volume in template["spec"].get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in volumes


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_budget_policy_and_monitor_selects_something(name):
    manifests = overlay(name)
    labels = [one["metadata"]["labels"] for one in pods(manifests).values()]
    for one in of_kind(manifests, "PodDisruptionBudget"):
        assert sum(selects(one["spec"]["selector"], each) for each in labels) == 1, one["metadata"]["name"]
    for one in of_kind(manifests, "NetworkPolicy"):
        assert any(selects(one["spec"]["podSelector"], each) for each in labels), one["metadata"]["name"]
    services = of_kind(manifests, "Service")
    for one in of_kind(manifests, "ServiceMonitor"):
        found = [service for service in services if selects(one["spec"]["selector"], service["metadata"]["labels"])]
        assert found, one["metadata"]["name"]
        for service in found:
            ports = {port["name"] for port in service["spec"]["ports"]}
            assert {endpoint["port"] for endpoint in one["spec"]["endpoints"]} <= ports
            assert service["metadata"]["labels"][one["spec"]["jobLabel"]] in ("vllm", "gpu", "gateway")


@pytest.mark.parametrize("name", ["prod", "multi-model"])
def test_scaling_goes_down_one_at_a_time_after_the_drain_and_is_held_by_work(name):
    manifests = overlay(name)
    deployments = {one["metadata"]["name"]: one for one in of_kind(manifests, "Deployment")}
    scaled = of_kind(manifests, "ScaledObject")
    assert scaled
    for one in scaled:
        spec = one["spec"]
        target = deployments[spec["scaleTargetRef"]["name"]]
        assert "replicas" not in target["spec"], "a number in the Deployment would undo the autoscaler's at each apply"
        down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        assert [(policy["type"], policy["value"]) for policy in down["policies"]] == [("Pods", 1)]
        assert (
            down["policies"][0]["periodSeconds"] >= target["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        )
        assert spec["minReplicaCount"] >= 1
        queries = " ".join(trigger["metadata"]["query"] for trigger in spec["triggers"])
        for metric in ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"):
            assert metric in queries  # with the colon: vllm_… exists nowhere
        service = {named["metadata"]["name"] for named in of_kind(manifests, "Service")}
        assert set(re.findall(r'service="([^"]+)"', queries)) == {spec["scaleTargetRef"]["name"]} <= service
        assert {trigger["metricType"] for trigger in spec["triggers"]} == {"AverageValue"}


def test_the_operators_rules_are_those_of_everywhere():
    settings = load()
    assert cluster_rules.FILE.read_text(encoding="utf-8") == cluster_rules.text(settings), (
        "python -m deploy.rendering.cluster_rules"
    )
    there = {one["name"]: one["rules"] for one in yaml.safe_load(cluster_rules.text(settings))["spec"]["groups"]}
    here = {}
    for text in rulefiles.render(settings).values():
        here |= {one["name"]: one["rules"] for one in yaml.safe_load(text)["groups"]}
    assert there == here


def test_the_adapters_rules_name_what_the_autoscaler_asks_for():
    rules = yaml.safe_load((KUBERNETES / "options/hpa/prometheus-adapter.yaml").read_text(encoding="utf-8"))["rules"]
    given = {rule["name"]["as"] for rule in rules["custom"]}
    asked = {
        metric["pods"]["metric"]["name"]
        for metric in of_kind(option("hpa"), "HorizontalPodAutoscaler")[0]["spec"]["metrics"]
    }
    assert asked <= given and not [name for name in given if ":" in name]


def test_a_name_suffix_reaches_what_is_scaled(tmp_path):
    folder = tmp_path / "kubernetes"
    import shutil

    shutil.copytree(KUBERNETES, folder)
    (folder / "mine").mkdir()
    (folder / "mine" / "kustomization.yaml").write_text(
        "nameSuffix: -x\nbases: [../base, ../options/hpa]\n", encoding="utf-8"
    )
    scaler = of_kind(kustomized(folder / "mine"), "HorizontalPodAutoscaler")[0]
    assert scaler["spec"]["scaleTargetRef"]["name"] == "nbridge-server-x"
