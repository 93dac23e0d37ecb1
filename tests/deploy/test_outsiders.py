"""The Gateway API's route and the prometheus-adapter's rules, by their schemas; the queries by Prometheus itself."""

import copy
import json
import os
import re
import shutil
import subprocess

import pytest
import yaml
from manifests import KUBERNETES, of_kind, option
from outsiders import ADAPTER, HTTP_ROUTE

jsonschema = pytest.importorskip("jsonschema")
pytestmark = pytest.mark.slow

RULES = KUBERNETES / "options" / "hpa" / "prometheus-adapter.yaml"
# What the adapter fills in, as it would for the pods of one namespace.
FILLED = {
    ".LabelMatchers": 'namespace="llm",pod=~"nbridge-server-a|nbridge-server-b"',
    ".GroupBy": "pod",
}


def route():
    (found,) = of_kind(option("route"), "HTTPRoute")
    return found


def adapter():
    return yaml.safe_load(RULES.read_text(encoding="utf-8"))


def wrong(document, schema):
    return [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(document)
    ]


def seconds(text):
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|h|m|s)", text))


def test_the_route_is_valid_and_leads_to_the_door():
    assert wrong(route(), HTTP_ROUTE) == []
    (rule,) = route()["spec"]["rules"]
    # The API's own rule: what a backend may take is within what a request may take.
    assert seconds(rule["timeouts"]["backendRequest"]) <= seconds(rule["timeouts"]["request"])
    (service,) = [one for one in of_kind(gateway(), "Service") if one["metadata"]["name"] == "nbridge-gateway"]
    (backend,) = rule["backendRefs"]
    assert backend["name"] == service["metadata"]["name"]
    assert backend["port"] in [one["port"] for one in service["spec"]["ports"]]


def gateway():
    return [one for one in yaml.safe_load_all((KUBERNETES / "gateway" / "gateway.yaml").read_text()) if one]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("hostnames", 0), "llm.example.com:443"),
        (("rules", 0, "timeouts", "request"), "900"),
        (("rules", 0, "timeouts", "request"), "1.5s"),
        (("rules", 0, "matches", 0, "path", "type"), "Prefix"),
        (("rules", 0, "backendRefs", 0, "serviceName"), "nbridge-gateway"),
        (("rules", 0, "backendRefs", 0, "port"), "80"),
    ],
)
def test_a_mistake_in_a_route_is_found(place, value):
    document = copy.deepcopy(route())
    within = document["spec"]
    for step in place[:-1]:
        within = within[step]
    within[place[-1]] = value
    assert len(wrong(document, HTTP_ROUTE)) == 1


def test_the_adapters_rules_are_valid_and_their_templates_are_its_own():
    document = adapter()
    assert wrong(document, ADAPTER) == []
    for rule in document["rules"]["custom"]:
        told = set(re.findall(r"<<(.*?)>>", rule["metricsQuery"]))
        # The rest of what the adapter knows (LabelValuesByName, GroupBySlice) is for queries that need more.
        assert told <= {".Series", ".LabelMatchers", ".GroupBy"} and {".LabelMatchers", ".GroupBy"} <= told
        # A pod's metric needs the labels that stand for pod and namespace, and series that have them.
        assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}
        assert all(f'{label}!=""' in rule["seriesQuery"] for label in rule["resources"]["overrides"])
    document["rules"]["custom"][0]["metricQuery"] = document["rules"]["custom"][0].pop("metricsQuery")
    assert len(wrong(document, ADAPTER)) == 2  # one is missing, one is unknown


def test_prometheus_reads_the_queries_that_the_adapter_makes(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("prometheus is not installed")
    rules = []
    for rule in adapter()["rules"]["custom"]:
        series = re.match(r"[a-zA-Z_:][a-zA-Z0-9_:]*", rule["seriesQuery"]).group()
        query = rule["metricsQuery"]
        for name, value in {**FILLED, ".Series": series}.items():
            query = query.replace(f"<<{name}>>", value)
        assert "<<" not in query
        rules += [
            {"record": rule["name"]["as"], "expr": query},
            {"record": f"asked_{series}", "expr": rule["seriesQuery"]},
        ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "adapter", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and f"{len(rules)} rules found" in done.stdout, done.stdout + done.stderr


# Only the module of the route is loaded; of those that it asks for, only what it calls, and its schema is printed.
PROGRAM = """
const modules = require("module");
const load = modules._load;
let told;
const others = {
  Model: class {}, addSchema() {}, createTypeMetaGuard() {},
  setSchema(one, id, register) { register(); },
  register(id, schema) { told = schema; },
};
modules._load = (name, ...rest) => name.includes("/v1/HTTPRoute.js") ? load(name, ...rest) : others;
require(process.argv[1] + "/package/gateway.networking.k8s.io/v1/HTTPRoute.js");
console.log(JSON.stringify(told));
"""


@pytest.mark.skipif(not os.environ.get("NBRIDGE_CONTAINERS"), reason="asks npm's registry: `make test-deploy` only")
def test_the_route_is_valid_by_the_schema_that_the_gateway_api_publishes(tmp_path):
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm is not installed: the route is held against the schema in outsiders.py only")
    # Made from the CRDs of Gateway API 1.0, with its experimental channel, in which timeouts were then.
    package = "@kubernetes-models/gateway-api@0.5.1"
    subprocess.run(["npm", "pack", "--silent", package], cwd=tmp_path, check=True, timeout=300)
    subprocess.run(["tar", "xzf", *[one.name for one in tmp_path.glob("*.tgz")]], cwd=tmp_path, check=True)
    done = subprocess.run(["node", "-e", PROGRAM, tmp_path], capture_output=True, text=True, check=True, timeout=60)
    published = json.loads(done.stdout)
    assert published["properties"]["spec"]["properties"]["rules"]["items"]["properties"]["timeouts"]
    published["properties"]["metadata"] = {"type": "object"}  # a reference to another package
    assert wrong(route(), strict(published)) == []
    mistaken = copy.deepcopy(route())
    mistaken["spec"]["rules"][0]["backendRefs"][0]["serviceName"] = "nbridge-gateway"
    assert wrong(mistaken, strict(published))


def strict(schema):
    """The same schema, in which a key that is not listed is an error: a cluster drops it without a word."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    is_object = isinstance(made.get("properties"), dict) and made.get("type") == "object"
    return {**made, "additionalProperties": False} if is_object else made
