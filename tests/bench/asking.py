"""One request of the streaming client to a golden server, and what the server says of it."""

import subprocess
from pathlib import Path
from time import perf_counter as now
from typing import Any

from golden import Golden

from bench.client import stream
from bench.client.connection import Connection
from bench.client.target import target_of

MODEL = "golden?ttft_s=0.02&gap_s=0.004"


def ask(
    server: Golden | str,
    options: str = "",
    *,
    connection: Connection | None = None,
    endpoint: str = "completions",
    prompt: Any = "one two three",
    max_tokens: int = 8,
    timeout_s: float = 300.0,
) -> dict[str, Any]:
    if connection is None:
        connection = Connection(target_of(server if isinstance(server, str) else server.url))
    body = {"prompt": prompt, "max_tokens": max_tokens, "scenario": "test"}
    model = MODEL + ("&" + options if options else "")
    what = stream.request(connection.target, body, request_id="r", model=model, endpoint=endpoint)
    return stream.complete(connection, what, scheduled_s=now(), timeout_s=timeout_s)


def truth(server: Golden) -> dict[str, Any]:
    """What the server says about its last completion."""
    return server.log()[-1]


def assert_in_order(record: dict[str, Any]) -> None:
    instants = ("scheduled", "sent", "headers", "first_token", "last_token", "ended")
    times = [record[name] for name in instants if record[name] is not None]
    assert times == sorted(times)
    assert record["chunk_s"] == sorted(record["chunk_s"])


def certificate(folder: Path) -> Path:
    pem = folder / "self-signed.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", pem, "-out", folder / "cert.pem"], check=True, capture_output=True)
    pem.write_text(pem.read_text() + (folder / "cert.pem").read_text())
    return pem
