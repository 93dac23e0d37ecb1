"""Schemas of what others read and no package on PyPI describes, written from their documentation; closed: a key that
is not here is an error. They hold what our files use, and leave out what they do not."""

from typing import Any

Schema = dict[str, Any]


def closed(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    """An object with these keys and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def listed(items: Schema, most: int = 16) -> Schema:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


TEXT: Schema = {"type": "string", "minLength": 1}
_NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
NAME: Schema = {"type": "string", "maxLength": 253, "pattern": f"^{_NAME}$"}
HOST: Schema = {"type": "string", "maxLength": 253, "pattern": rf"^(\*\.)?{_NAME}$"}
# GEP-2257: up to four parts, whole numbers of up to five digits.
DURATION: Schema = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}

# gateway.networking.k8s.io/v1, standard channel; timeouts are in it since v1.2.
HTTP_ROUTE = closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "gateway.networking.k8s.io/v1"},
    kind={"const": "HTTPRoute"},
    metadata=closed(("name",), name=NAME, namespace=NAME, labels={"type": "object"}, annotations={"type": "object"}),
    spec=closed(
        ("parentRefs", "rules"),
        parentRefs=listed(
            closed(
                ("name",), group=NAME, kind=TEXT, name=NAME, namespace=NAME, sectionName=NAME,
                port={"type": "integer", "minimum": 1, "maximum": 65535},
            ),
            32,
        ),
        hostnames=listed(HOST),
        rules=listed(
            closed(
                matches=listed(
                    closed(
                        path=closed(
                            type={"enum": ["Exact", "PathPrefix", "RegularExpression"]},
                            value={"type": "string", "maxLength": 1024, "pattern": "^/"},
                        ),
                        method={"enum": ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]},
                    ),
                    64,
                ),
                timeouts=closed(request=DURATION, backendRequest=DURATION),
                backendRefs=listed(
                    closed(
                        ("name", "port"), group={"type": "string"}, kind=TEXT, name=NAME, namespace=NAME,
                        port={"type": "integer", "minimum": 1, "maximum": 65535},
                        weight={"type": "integer", "minimum": 0, "maximum": 1_000_000},
                    )
                ),
            )
        ),
    ),
)  # fmt: skip

_RESOURCES = closed(
    template=TEXT,
    overrides={"type": "object", "additionalProperties": closed(("resource",), group=TEXT, resource=TEXT)},
)
_RULE = closed(
    ("seriesQuery", "resources", "name", "metricsQuery"),
    seriesQuery=TEXT,
    seriesFilters={"type": "array", "items": closed(**{"is": TEXT, "isNot": TEXT})},
    resources=_RESOURCES,
    name=closed(matches=TEXT, **{"as": {"type": "string", "pattern": "^[a-z][a-z0-9_]*$"}}),
    metricsQuery=TEXT,
    labelValueReplacements={"type": "array", "items": closed(find=TEXT, replace={"type": "string"})},
)
# Values of the chart prometheus-community/prometheus-adapter 4 or 5, of them those that name Prometheus and rules.
ADAPTER = closed(
    ("prometheus", "rules"),
    prometheus=closed(("url", "port"), url={"type": "string", "pattern": "^https?://[^:/]+$"}, path={"type": "string"},
                      port={"type": "integer", "minimum": 1, "maximum": 65535}),
    rules=closed(default={"type": "boolean"}, custom=listed(_RULE, 99), existing=TEXT, external=listed(_RULE, 99)),
)  # fmt: skip
