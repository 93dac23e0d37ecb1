"""What HAProxy answers by itself, in the shape of OpenAI's errors, and the list of models. Pure."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

RETRY_AFTER_S = 2
# status → reason phrase, type, code, message
_ERRORS = {
    400: ("Bad Request", "invalid_request_error", "bad_request", "The request is not HTTP as it should be."),
    401: (
        "Unauthorized",
        "invalid_request_error",
        "invalid_api_key",
        "The API key is missing or wrong: send the header 'Authorization: Bearer <key>'.",
    ),
    403: ("Forbidden", "invalid_request_error", "forbidden", "That is not allowed here."),
    404: ("Not Found", "invalid_request_error", "not_found", "There is no such route here."),
    408: ("Request Timeout", "invalid_request_error", "slow_upload", "The request did not arrive whole in time."),
    413: (
        "Payload Too Large",
        "invalid_request_error",
        "body_too_large",
        "The body is larger than {body_bytes} bytes.",
    ),
    429: ("Too Many Requests", "rate_limit_error", "queue_full", "Too many requests wait; try again later."),
    500: ("Internal Server Error", "server_error", "gateway_error", "The gateway failed."),
    502: ("Bad Gateway", "server_error", "bad_answer", "The server broke off, or its answer is not HTTP."),
    503: (
        "Service Unavailable",
        "service_unavailable",
        "no_server",
        "No server took the request: none is up, or none had a place within {queue_s:g} s.",
    ),
    504: ("Gateway Timeout", "server_error", "no_first_token", "No server answered within {deadline_s:g} s."),
}
STATUSES = tuple(_ERRORS)
KEY_REFUSED_BODY = json.dumps(
    {
        "error": {
            "message": "A server refused the gateway's key; that is for the gateway's owner to mend.",
            "type": "server_error",
            "param": None,
            "code": "server_key_refused",
        }
    }
)


HEAD_BYTES = 32 << 10  # of all headers of a request; more than anybody's client sends
HEAD_BODY = json.dumps(
    {
        "error": {
            "message": f"The request's headers are larger than {HEAD_BYTES} bytes.",
            "type": "invalid_request_error",
            "param": None,
            "code": "headers_too_large",
        }
    }
)


def error_body(status: int, **values: float) -> str:
    """The JSON document of an error; `values` are the limits that its words name."""
    _, kind, code, message = _ERRORS[status]
    return json.dumps({"error": {"message": message.format(**values), "type": kind, "param": None, "code": code}})


def error_file(status: int, **values: float) -> str:
    """A whole HTTP answer, as HAProxy's `errorfile` wants it."""
    body = error_body(status, **values)
    lines = [f"HTTP/1.1 {status} {_ERRORS[status][0]}", "Content-Type: application/json", "Cache-Control: no-cache"]
    if status in (429, 503):
        lines.append(f"Retry-After: {RETRY_AFTER_S}")
    if status == 401:
        lines.append("WWW-Authenticate: Bearer")
    return "\r\n".join([*lines, f"Content-Length: {len(body.encode())}", "", body])


def models_document(names: Iterable[str], told: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """`GET /v1/models` joined over all servers, without blanks; `told` is what servers said of a model themselves."""
    told = told or {}
    ours = {"object": "model", "created": 0, "owned_by": "nbridge"}
    entries = [{**ours, **told.get(name, {}), "id": name} for name in names]
    return json.dumps({"object": "list", "data": entries}, separators=(",", ":"))
