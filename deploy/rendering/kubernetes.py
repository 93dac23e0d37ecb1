"""A kustomize overlay with the figures of a run, on top of one of ours: patches, each with its derivation."""

import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.errors import SettingsError
from deploy.rendering import cluster_rules
from deploy.rendering.measured import PRE_STOP_S, Figures
from deploy.scaling.autoscaler import Direction, Policy
from deploy.scaling.contenders import rendered
from monitoring.alerting.rulefiles import to_yaml
from monitoring.alerting.thresholds import Thresholds

FOLDER = Path(__file__).parents[1] / "kubernetes"
PROMETHEUS = "http://prometheus-operated.monitoring.svc:9090"
_WIDTH = 118
Json = dict[str, Any]


def triggers(
    service: str, namespace: str, *, waiting: float, in_work: float, rate_rps: float, kv_share: float, prometheus: str
) -> list[Json]:
    """KEDA's triggers over the servers behind a Service, each a total that is shared out over the replicas."""
    labels = f'{{namespace="{namespace}", service="{service}"}}'
    queries = {
        "waiting": (f"sum(vllm:num_requests_waiting{labels})", waiting),
        "in-work": (
            f"sum(avg_over_time(vllm:num_requests_running{labels}[1m]))"
            f" + sum(avg_over_time(vllm:num_requests_waiting{labels}[1m]))",
            in_work,
        ),
        "rate": (f"sum(rate(vllm:e2e_request_latency_seconds_count{labels}[1m]))", rate_rps),
        "kv-cache": (f"sum(vllm:kv_cache_usage_perc{labels})", kv_share),
    }
    return [
        {
            "type": "prometheus",
            "name": name,
            "metricType": "AverageValue",
            "metadata": {
                "serverAddress": prometheus,
                "query": query,
                "threshold": f"{threshold:g}",
                "ignoreNullValues": "false",
            },
        }
        for name, (query, threshold) in queries.items()
    ]


def files(
    found: Figures,
    out: Path,
    *,
    onto: str,
    namespace: str,
    prometheus: str,
    settings: Thresholds | None,
) -> dict[str, str]:
    """File name → text of an overlay in `out`. Raises SettingsError for an overlay of ours that there is none of."""
    base = FOLDER / "overlays" / onto
    if not (base / "kustomization.yaml").is_file() or onto == "multi-model":
        known = [one.name for one in sorted(base.parent.iterdir()) if one.name != "multi-model"]
        raise SettingsError(f"--onto {onto!r}: expected one of {', '.join(known)} (multi-model: render each model's).")
    scaled = onto == "prod"
    head = _comment(
        f"From run {found.replica.run}, engine {found.replica.engine}, by `nbridge render kubernetes`. Render it anew "
        "after another measurement; what you change here is lost then."
    )
    texts = {"server.yaml": head + _server(found)}
    if scaled:
        texts["scaling.yaml"] = head + _scaled_object(found, namespace, prometheus)
        if settings is not None:
            texts["rules.yaml"] = head + _rules(settings)
    texts["hpa.yaml"] = head + _hpa(found)
    patches = [name for name in texts if name != "hpa.yaml"]
    texts["kustomization.yaml"] = head + to_yaml(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": namespace,
            "bases": [os.path.relpath(base, out.absolute())],
            "patchesStrategicMerge": patches,
        }
    )
    return texts


def _server(found: Figures) -> str:
    words = found.words
    memory = ""
    if found.memory_request_gib is not None:
        memory = f"""\
          resources:
{_comment(words["memory"], 12)}            requests:
              memory: {found.memory_request_gib}Gi
            limits:
              memory: {found.memory_limit_gib}Gi
"""
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: nbridge-server
spec:
  template:
    spec:
{_comment(words["grace"], 6)}      terminationGracePeriodSeconds: {found.grace_s}
      containers:
        - name: server
{_comment("Drain: " + words["drain"], 10)}          args:
            - serve
            - --drain-s={found.drain_s}
            - --start-timeout-s={found.start_failures * 5 - 10}
            - --log-file=/tmp/server.log
            - --log-limit-mib=256
            - --show-log
          env:
{_comment(words["stall"], 12)}            - name: NBRIDGE_HEALTH_STALL_S
              value: "{found.stall_s}"
{_comment("The engine that was measured: the figures are of no other.", 12)}{_variables(found.engine)}\
          startupProbe:
{_comment(words["start_probe"], 12)}            failureThreshold: {found.start_failures}
          lifecycle:
            preStop:
              exec:
                command: ["sleep", "{PRE_STOP_S}"]
{memory}"""


def _variables(values: Mapping[str, str]) -> str:
    return "".join(
        f"            - name: {name}\n              value: {json.dumps(value)}\n" for name, value in values.items()
    )


def _scaled_object(found: Figures, namespace: str, prometheus: str) -> str:
    one = found.scaling
    scaler = rendered(one, least=one.least or 1, most=one.most or 1, drain_s=found.drain_s)
    numbers = {}
    if one.least is not None:
        numbers = {"minReplicaCount": max(2, one.least), "maxReplicaCount": max(2, one.most or 1)}
    spec = {
        **numbers,
        "advanced": {
            "horizontalPodAutoscalerConfig": {
                "behavior": {"scaleUp": _direction(scaler.up), "scaleDown": _direction(scaler.down, found.grace_s)}
            }
        },
        "triggers": triggers(
            "nbridge-server",
            namespace,
            waiting=one.waiting,
            in_work=one.in_work,
            rate_rps=one.rate_rps,
            kv_share=one.kv_share,
            prometheus=prometheus,
        ),
    }
    told = ["rate_rps", "in_work", "waiting", "kv_share", "lag", "down_window", "capacity"]
    notes = "".join(_comment(f"{key.replace('_', ' ')}: {found.words[key]}") for key in told)
    if numbers:
        notes += _comment(f"fewest: {found.words['least']} Two at least, so that one can fail.")
        notes += _comment(f"most: {found.words['most']}")
    notes += "".join(_comment(f"not derived: {line}") for line in found.open)
    document = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "nbridge-server"},
        "spec": spec,
    }
    return notes + to_yaml(document)


def _hpa(found: Figures) -> str:
    note = _comment(
        "Instead of KEDA: put this in place of options/hpa/hpa.yaml; it is no part of this overlay. "
        f"Requests per second: {found.words['rate_rps']} In work: {found.words['in_work']}"
    )
    one = found.scaling
    scaler = rendered(one, least=one.least or 1, most=one.most or 1, drain_s=found.drain_s)
    metrics = [("requests_per_second", f"{round(one.rate_rps * 1000)}m"), ("requests_in_work", f"{one.in_work:g}")]
    document = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "nbridge-server"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "nbridge-server"},
            "minReplicas": max(2, one.least or 2),
            "maxReplicas": max(2, one.most or 10),
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {"metric": {"name": name}, "target": {"type": "AverageValue", "averageValue": value}},
                }
                for name, value in metrics
            ],
            "behavior": {"scaleUp": _direction(scaler.up), "scaleDown": _direction(scaler.down, found.grace_s)},
        },
    }
    return note + to_yaml(document)


def _rules(settings: Thresholds) -> str:
    notes = "".join(_comment(words) for words in settings.derived.values())
    document = cluster_rules.document(settings)
    del document["metadata"]["labels"]
    return notes + to_yaml(document)


def _direction(one: Direction, period_least_s: float = 0) -> Json:
    def policy(said: Policy) -> Json:
        return {"type": said.kind, "value": said.value, "periodSeconds": int(max(said.period_s, period_least_s))}

    return {
        "stabilizationWindowSeconds": int(one.stabilization_s),
        "selectPolicy": one.select,
        "policies": [policy(said) for said in one.policies],
    }


def _comment(text: str, indent: int = 0) -> str:
    """A text as comment lines of YAML."""
    edge = " " * indent + "# "
    return "\n".join(textwrap.wrap(text, _WIDTH, initial_indent=edge, subsequent_indent=edge)) + "\n"


def written(texts: Mapping[str, str], out: Path) -> Sequence[str]:
    """Write the files; their names. Raises SettingsError when that cannot be done."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--out {out}: {error.strerror}.") from None
    return sorted(texts)
