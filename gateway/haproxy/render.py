"""Settings → HAProxy's configuration and the files beside it. Pure: a mapping of file name to text."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gateway.haproxy.answers import (
    HEAD_BODY,
    HEAD_BYTES,
    KEY_REFUSED_BODY,
    RETRY_AFTER_S,
    STATUSES,
    error_body,
    error_file,
    models_document,
)
from gateway.policies.routing import AUTO
from gateway.settings import Server, Settings
from monitoring.scrape.address import resolved

CONFIG, LUA, USERS, TEXTS, CLOSED = "haproxy.cfg", "route.lua", "users.map", "texts.map", "closed.map"
ADAPTERS, USERS_FRONT = "adapters.map", "users"  # the frontend also counts who asks for which adapter
CLOUD_SOCKET, METRICS_SOCKET = "cloud.sock", "metrics.sock"
KEY_REFUSED, HEAD_TOO_LARGE = "key-refused.json", "431.json"
OPEN = "open"  # in CLOSED, of a backend whose cloud takes requests; else why it does not
AGENT_INTER_MS = 500
CHECK = "check inter 1s fall 2 rise 1"
CONNECT_S = 2
_ROUTE = Path(__file__).with_name("route.lua")
_REWRITE_BYTES = 16 << 10
_HEAD_BYTES = HEAD_BYTES + (16 << 10)  # headers, the request line and HAProxy's own marks beside a body
_LOG_BYTES, _LOGGED_PATH_BYTES = 8192, 500  # of a line, and of the path in it: a longer line would be cut off
_CROWDED = 0.8  # of all connections, from which on none is kept open for another request


@dataclass(frozen=True)
class Places:
    """Where things are on this machine: the folder of the files, the runtime socket, the agent's port."""

    folder: Path
    socket: Path
    agent_port: int | None

    @property
    def cloud(self) -> Path:
        """The socket of the door to clouds."""
        return self.socket.with_name(CLOUD_SOCKET)


def rendered(settings: Settings, places: Places, keys: Sequence[str] = ()) -> dict[str, str]:
    """Every file of the configuration by its name. `keys`: the users'; only their digests are written."""
    files = {
        CONFIG: _configuration(settings, places, keyed=bool(keys)),
        ADAPTERS: "".join(f"{one.name} {one.model}\n" for one in settings.adapter),
        LUA: f"local P = {_lua(_parameters(settings, places))}\n{_ROUTE.read_text(encoding='utf-8')}",
        TEXTS: f"models {models_document(listed(settings))}\nretries on\n",
    }
    in_clouds = [model for one in settings.cloud for model in one.models]
    files[CLOSED] = "".join(f"{backend_name(settings, model)} {OPEN}\n" for model in in_clouds)
    limits = {name: getattr(settings.limits, name) for name in ("body_bytes", "queue_s", "deadline_s")}
    files |= {f"{status}.http": error_file(status, **limits) for status in STATUSES}
    files |= {f"{status}.json": error_body(status, **limits) for status in STATUSES}
    files |= {KEY_REFUSED: KEY_REFUSED_BODY, HEAD_TOO_LARGE: HEAD_BODY}
    if keys:
        # HAProxy's hex is upper-case. Keys are long and random, so a plain digest tells nobody what they are.
        digests = [hashlib.sha256(key.encode()).hexdigest().upper() for key in keys]
        files[USERS] = "".join(f"{digest} user{number}\n" for number, digest in enumerate(digests, 1))
    return files


def listed(settings: Settings) -> list[str]:
    """The names that a request may ask for."""
    auto = [AUTO] if settings.policy.default and AUTO not in settings.models else []
    return [*settings.models, *settings.aliases, *(one.name for one in settings.adapter), *auto]


def backend_name(settings: Settings, model: str) -> str:
    """The backend of a model: its name with what HAProxy does not take replaced, made unique."""
    plain = [re.sub(r"[^A-Za-z0-9_.-]", "_", one) for one in settings.models]
    place = settings.models.index(model)
    again = plain[:place].count(plain[place])
    return f"model.{plain[place]}" + (f".{again}" if again else "")


def weights(servers: Sequence[Server]) -> dict[str, int]:
    """Server → HAProxy's weight, in proportion to capacity: the largest has 100, none less than 1."""
    most = max((one.capacity or 1.0 for one in servers), default=1.0)
    return {one.name: max(1, round(100 * (one.capacity or 1.0) / most)) for one in servers}


def server_words(server: Server, backend: str, weight: int, agent_port: int | None) -> str:
    """Address and options of a server, as they stand in the configuration and in `add server`."""
    parts = urlsplit(server.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    # A server that is added at run time must have a number for its name; `localhost` may be either loopback address.
    where = _numeric(host, port)
    words = [f"{where}:{port} weight {weight} maxconn {server.places} {CHECK}"]
    if parts.scheme == "https":
        words.append(f"ssl verify required ca-file @system-ca sni str({host}) check-sni {host} check-ssl")
    if agent_port is not None:
        # Without a newline: the runtime interface and the configuration read escapes differently.
        words.append(
            f"agent-check agent-addr 127.0.0.1 agent-port {agent_port} agent-inter {AGENT_INTER_MS}ms "
            f"agent-send {backend}/{server.name},"
        )
    return " ".join(words)


def _numeric(host: str, port: int) -> str:
    try:
        found = str(resolved(host, port)[0][1][0])
    except (OSError, IndexError):
        return host  # HAProxy then says that the name cannot be resolved
    return f"[{found}]" if ":" in found else found


def _parameters(settings: Settings, places: Places) -> dict[str, object]:
    models = {model: backend_name(settings, model) for model in settings.models}
    return {
        "models": models,
        "aliases": settings.aliases,
        "adapters": str(places.folder / ADAPTERS),
        "only": settings.models[0] if len(settings.models) == 1 else None,
        "affinity": settings.policy.affinity,
        "queue_limit": settings.limits.queue,
        "policy": settings.policy.model_dump(exclude={"affinity"}) if settings.policy.default else None,
    }


def _lua(value: object) -> str:
    """A Lua literal of plain data; what is None is left out."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # names hold no character that the two would escape differently
    if isinstance(value, Mapping):
        parts = [f"[{_lua(key)}] = {_lua(one)}" for key, one in value.items() if one is not None]
        return "{ " + ", ".join(parts) + " }"
    return repr(value)


def _configuration(settings: Settings, places: Places, *, keyed: bool) -> str:
    sections = [_global(settings, places), _defaults(settings, places), _front(settings, places, keyed=keyed)]
    sections += [_backend(settings, model, places) for model in settings.models]
    sections.append(_metrics(settings, places))
    return "# Rendered by `nbridge gateway`; edit the settings it was made from.\n" + "\n".join(sections)


def _metrics(settings: Settings, places: Places) -> str:
    ours, backend = "", ""
    if places.agent_port is not None:
        ours = "  use_backend metrics-of-the-agent if { path /nbridge/metrics }\n"
        where = places.socket.with_name(METRICS_SOCKET)
        backend = f"backend metrics-of-the-agent\n  server agent unix@{where}\n"
    known = "{ path /metrics } || { path /nbridge/metrics }" if ours else "{ path /metrics }"
    return (
        f"frontend metrics\n  bind {settings.gateway.metrics_host}:{settings.gateway.metrics_port}\n"
        "  option dontlog-normal\n"
        "  http-request use-service prometheus-exporter if { path /metrics }\n"
        f"  http-request return status 404 content-type application/json file {places.folder}/404.json unless {known}\n"
        f"{ours}{backend}"
    )


def _global(settings: Settings, places: Places) -> str:
    size = settings.limits.body_bytes + _HEAD_BYTES + _REWRITE_BYTES
    return f"""global
  maxconn {settings.limits.connections}
  stats socket {places.socket} mode 600 level admin expose-fd listeners
  log stdout len {_LOG_BYTES} format raw local0 info
  lua-load-per-thread {places.folder}/{LUA}
  # A whole body fits: it is read for its model, and kept until the first token, to be sent again elsewhere.
  tune.bufsize {size}
  tune.maxrewrite {_REWRITE_BYTES}
  # After a reload the old one ends with its last request.
  close-spread-time 5s
  hard-stop-after {_seconds(settings.limits.deadline_s)}
"""


def _defaults(settings: Settings, places: Places) -> str:
    limits = settings.limits
    errors = "\n".join(f"  errorfile {status} {places.folder}/{status}.http" for status in STATUSES)
    retry = "conn-failure empty-response junk-response 401 500 502 503 504"
    if places.agent_port is None:
        # Nobody else would see that an engine hangs. With an agent a long answer is not taken for a hang.
        retry += " response-timeout"
    return f"""defaults
  mode http
  log global
  option http-no-delay
  option abortonclose
  option contstats
  option redispatch 1
  option dontlognull
  retries {limits.retries}
  retry-on {retry if limits.retries else "none"}
  timeout connect {CONNECT_S}s
  timeout check 5s
  timeout client {_seconds(limits.deadline_s)}
  timeout http-keep-alive 300s
  timeout http-request {_seconds(limits.upload_s)}
  timeout queue {_seconds(limits.queue_s)}
  # Until an answer begins, and between two pieces of it; all attempts together end before the deadline.
  timeout server {_seconds(limits.attempt_s)}
{errors}
"""


def _front(settings: Settings, places: Places, *, keyed: bool) -> str:
    folder, limits = places.folder, settings.limits
    json_file = f"content-type application/json file {folder}"
    text_map = f"map({folder}/{TEXTS})"
    up = " || ".join(f"{{ nbsrv({backend_name(settings, model)}) gt 0 }}" for model in settings.models)
    text = '"%[{0},json(utf8s)]"'.format
    log = (
        f'{{"at":"%[date,utime(%Y-%m-%dT%H:%M:%SZ)]","user":{text("var(txn.nb_user)")},"method":"%HM",'
        f'"path":{text("var(txn.nb_path)")},"status":%ST,"model":{text("var(txn.nb_model)")},"server":"%s",'
        f'"reason":{text("var(txn.nb_reason)")},"retries":"%rc","queue_ms":%Tw,"head_ms":%Tr,"total_ms":%Ta,'
        f'"bytes":%B,"ended":"%ts","id":{text("var(txn.nb_id)")}}}'
    )
    lines = [
        f"bind {settings.gateway.host}:{settings.gateway.port}",
        "stick-table type string len 800 size 10k expire 1h store conn_cur",
        "log-format " + log.replace('"', '\\"').replace(" ", "\\ "),
        "http-request set-header x-request-id %[uuid()] unless "
        "{ req.hdr(x-request-id) -m reg ^[A-Za-z0-9_.:-]{1,128}$ }",
        "http-request set-var(txn.nb_id) req.hdr(x-request-id)",
        f"http-request set-var(txn.nb_path) path,bytes(0,{_LOGGED_PATH_BYTES})",
        "http-after-response set-header x-request-id %[var(txn.nb_id)] if { var(txn.nb_id) -m found }",
        "http-after-response set-header x-nbridge-backend %[var(txn.nb_model)]/%s if { var(txn.nb_backend) -m found }",
        "http-after-response set-header x-nbridge-reason %[var(txn.nb_reason)] if { var(txn.nb_reason) -m found }",
        # Who keeps connections for later leaves room for who asks now.
        f"http-after-response set-header connection close if {{ fe_conn ge {round(_CROWDED * limits.connections)} }}",
        f"http-request set-var(txn.nb_up) bool(true) if {up} || {{ stopping }}",
        'http-request return status 200 content-type application/json string "{\\"status\\":\\"healthy\\"}" '
        "if { path /health } { var(txn.nb_up) -m found }",
        f"http-request return status 503 {json_file}/503.json if {{ path /health }}",
    ]
    if keyed:
        lines += [
            f"http-request set-var(txn.nb_user) http_auth_bearer,sha2(256),hex,map_str({folder}/{USERS})",
            f"http-request return status 401 {json_file}/401.json hdr WWW-Authenticate Bearer "
            "unless { var(txn.nb_user) -m found }",
        ]
    not_found = f"http-request return status 404 {json_file}/404.json"
    too_large = f"http-request return status 413 {json_file}/413.json if"
    lines += [
        "http-request del-header authorization",
        "http-request return status 200 content-type application/json "
        f'lf-string "%[str(models),{text_map}]" if {{ method GET }} {{ path /v1/models }}',
        f"http-request return status 431 {json_file}/{HEAD_TOO_LARGE} if {{ req.hdrs,length gt {HEAD_BYTES} }}",
        f"{too_large} {{ req.hdr_val(content-length) gt {limits.body_bytes} }}",
        f"http-request wait-for-body time {_seconds(limits.upload_s)} if {{ method POST PUT PATCH }}",
        f"{too_large} {{ req.body_len gt {limits.body_bytes} }}",
        # What a server shows of itself and what changes it is not for users.
        f"{not_found} if {{ path,url_dec -m sub load_lora_adapter /../ }} || {{ path,url_dec -m end /.. }}",
        f"{not_found} unless {{ path_beg /v1/ /v2/ /inference/v1/ }} || "
        "{ path /tokenize /detokenize /pooling /classify /score /rerank /invocations /ping /version }",
        "http-request lua.route",
        # How many requests for an adapter are in work: it is unloaded when there are none.
        "http-request track-sc0 var(txn.nb_adapter) if { var(txn.nb_adapter) -m found }",
        # A cloud whose limit is spent is down, and says why.
        *_closed(settings, folder),
        *(
            f"http-request return status {status} content-type application/json {more}lf-string "
            f'"%[var(txn.nb_error)]" if {{ var(txn.nb_status) -m int {status} }}'
            for status, more in ((400, ""), (404, ""), (429, _retry_after()), (503, _retry_after()))
        ),
        "use_backend %[var(txn.nb_backend)]",
    ]
    return f"frontend {USERS_FRONT}\n" + "".join(f"  {line}\n" for line in lines)


def _closed(settings: Settings, folder: Path) -> list[str]:
    if not settings.cloud:
        return []
    said = f"var(txn.nb_wanted),map({folder}/{CLOSED},{OPEN})"
    return [
        "http-request return status 429 content-type application/json hdr x-should-retry false "
        f'lf-string "%[{said}]" if {{ var(txn.nb_status) -m int 503 }} !{{ {said} -m str {OPEN} }}'
    ]


def _retry_after() -> str:
    return f"hdr Retry-After {RETRY_AFTER_S} "


def _backend(settings: Settings, model: str, places: Places) -> str:
    name = backend_name(settings, model)
    tied = settings.policy.affinity != "none"
    lines = ["balance hash var(txn.nb_affinity)", "hash-type consistent", "hash-balance-factor 150"] if tied else []
    lines = lines or ["balance leastconn"]
    if settings.policy.default and AUTO not in settings.models:
        lines.append("filter lua.rename")
    lines += _to_cloud(settings, model, places) or _to_servers(settings, model, places)
    return f"backend {name}\n" + "".join(f"  {line}\n" for line in lines)


def _to_servers(settings: Settings, model: str, places: Places) -> list[str]:
    name, servers, lines = backend_name(settings, model), settings.servers_of(model), []
    if servers and servers[0].api_key_env:
        lines.append(f'http-request set-header Authorization "Bearer ${{{servers[0].api_key_env}}}"')
    # A hooked server then sends its head with the first token, and a hung one can be left for another until then.
    lines.append("http-request set-header x-nbridge-hold-head 1")
    # A failure of many servers must not double the load: the agent turns this when the budget is spent.
    off = f"{{ str(retries),map({places.folder}/{TEXTS}) -m str off }}"
    lines.append(f"http-request disable-l7-retry if {off}")
    # Users' keys are asked for in front: a server that wants another key has ours wrong, and not theirs.
    lines.append(
        "http-response return status 502 content-type application/json "
        f"file {places.folder}/{KEY_REFUSED} if {{ status 401 }}"
    )
    weight = weights(servers)
    return lines + [
        f"server {one.name} {server_words(one, name, weight[one.name], places.agent_port)}" for one in servers
    ]


def _to_cloud(settings: Settings, model: str, places: Places) -> list[str]:
    cloud = settings.cloud_of(model)
    if cloud is None:
        return []
    return [
        # Asked again elsewhere it would cost again: only where no connection came about.
        "retry-on conn-failure",
        f"http-request set-header x-nbridge-model {model}",
        f"option httpchk GET /health/{cloud.name}",
        f"server {cloud.name} unix@{places.cloud} maxconn {cloud.places} check inter 1s fall 1 rise 1",
    ]


def _seconds(value: float) -> str:
    return f"{round(value * 1000)}ms"
