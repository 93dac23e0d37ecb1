"""Settings → nginx (open source), for those who run it already; and what is lost with it. Pure."""

import json
from urllib.parse import urlsplit

from gateway.errors import SettingsError
from gateway.haproxy.answers import RETRY_AFTER_S, error_body
from gateway.haproxy.render import backend_name, weights
from gateway.settings import Settings

FAILED_FOR_S = 10
LOST = (
    "no health checks: a server is out for 10 s after 3 failed requests, which other servers must answer first",
    "a hung server costs each request that meets it the whole time to its first token, again after every 10 s",
    "no agent: no canary, no proof of progress, no slow start, no retry budget, no capacity learned while running",
    "no adding, draining or removing servers without a reload, no nbridge swap, no loading of adapters",
    "no routing by the model's name or the prompt: one model, or the header x-nbridge-model",
    "no queue: more requests than the servers take are passed on to them all the same",
)


def rendered(settings: Settings, keys: list[str] | None = None) -> str:
    """nginx.conf, for its owner's eyes when there are keys. Raises SettingsError for clouds and servers' keys."""
    if settings.cloud or any(one.api_key_env for one in settings.server):
        raise SettingsError(
            "nginx reads no key from the environment, so it cannot render [[cloud]] or a server's api_key_env; "
            "use HAProxy, or servers without keys."
        )
    limits = settings.limits
    upstreams = "\n".join(_upstream(settings, model) for model in settings.models)
    names = "\n".join(f"    {json.dumps(model)} {backend_name(settings, model)};" for model in settings.models)
    first = backend_name(settings, settings.policy.default or settings.models[0])
    tokens = "".join(f"    {json.dumps(f'Bearer {key}')} 1;\n" for key in keys or [])
    guard = f"if ($known_key = 0) {{ return 401 {_quoted(error_body(401))}; }}" if keys else ""
    known = f"  map $http_authorization $known_key {{\n    default 0;\n{tokens}  }}\n" if keys else ""
    values = {name: getattr(limits, name) for name in ("body_bytes", "queue_s", "deadline_s")}
    errors = "\n".join(
        f"    error_page {status} @error{status};\n    location @error{status} {{ internal; "
        f"{f'add_header Retry-After {RETRY_AFTER_S} always; ' if status == 503 else ''}"
        f"return {status} {_quoted(error_body(status, **values))}; }}"
        for status in (413, 502, 503, 504)
    )
    return f"""# Rendered by `nbridge gateway render --engine nginx`; edit the settings it was made from.
# Lost beside HAProxy:
{chr(10).join(f"# - {one}" for one in LOST)}
worker_processes auto;
events {{ worker_connections {limits.connections}; }}
http {{
  default_type application/json;
{upstreams}
  map $http_x_nbridge_model $chosen {{
    default {first};
{names}
  }}
{known}  server {{
    listen {settings.gateway.host}:{settings.gateway.port};
    client_max_body_size {limits.body_bytes};
    client_body_timeout {limits.upload_s:g}s;
    client_header_timeout {limits.upload_s:g}s;
{errors}
    location = /health {{ return 200 '{{"status":"healthy"}}'; }}
    location ~ ^/v1/(un)?load_lora_adapter$ {{ return 404 {_quoted(error_body(404))}; }}
    location ~ ^/(v1|v2)/|^/(tokenize|detokenize|pooling|classify|score|rerank)$ {{
      {guard}
      proxy_pass http://$chosen;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "";
      proxy_buffering off;
      proxy_request_buffering on;
      proxy_connect_timeout 2s;
      proxy_read_timeout {limits.attempt_s:g}s;
      # Without non_idempotent no POST is ever tried elsewhere, and without http_500 a broken server takes them all.
      proxy_next_upstream error timeout invalid_header http_500 http_502 http_503 http_504 non_idempotent;
      proxy_next_upstream_tries {limits.retries + 1};
      proxy_next_upstream_timeout {limits.deadline_s:g}s;
    }}
    location / {{ return 404 {_quoted(error_body(404))}; }}
  }}
}}
"""


def _upstream(settings: Settings, model: str) -> str:
    servers = settings.servers_of(model)
    weight = weights(servers)
    lines = []
    for one in servers:
        parts = urlsplit(one.url)
        if parts.scheme == "https":
            raise SettingsError(f"server {one.name}: nginx is rendered for http servers only; use HAProxy.")
        where = f"{parts.hostname}:{parts.port or 80}" if ":" not in (parts.hostname or "") else parts.netloc
        lines.append(
            f"    server {where} weight={weight[one.name]} max_conns={one.places} max_fails=3 "
            f"fail_timeout={FAILED_FOR_S}s;"
        )
    body = "\n".join(["    least_conn;", *lines, "    keepalive 64;"])
    return f"  upstream {backend_name(settings, model)} {{\n{body}\n  }}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
