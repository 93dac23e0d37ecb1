"""`nbridge golden`."""

import asyncio
import json
import os
import ssl
from pathlib import Path
from typing import Annotated

import typer

from bench.errors import BenchError, PlanError
from bench.golden.behaviour import Behaviours, parse, split


class CannotListenError(BenchError):
    exit_code = 3


def golden(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="How requests are answered: ttft_s=0.1 gap_s=0.01 jitter=0 per_event=1 per_send=1 "
            "output_tokens=N dialect=vllm usage=chunk body=chunked stall_s=0 stall_after=1 status=200 retry_after_s=N "
            "then=FAULT after=0 share=1 seed=0 cached_tokens=0 halves=0; docs/golden.md explains them.",
        ),
    ] = None,
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8000,
    model: Annotated[str, typer.Option(help="The model's name in the API.")] = "golden",
    limit: Annotated[int | None, typer.Option(min=1, help="Requests served at once; the others wait.")] = None,
    limit_rps: Annotated[
        float | None, typer.Option(help="Requests taken up per second at most; the others wait.")
    ] = None,
    queue_limit: Annotated[int | None, typer.Option(min=0, help="Requests that may wait; the others get 429.")] = None,
    log: Annotated[Path | None, typer.Option(help="File to append what was sent and when to, as JSON lines.")] = None,
    metrics: Annotated[bool, typer.Option(help="Have a /metrics page, under vLLM's names.")] = True,
    api_key_env: Annotated[str | None, typer.Option(help="NAME of the variable that holds the API key.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file with certificate and key: serve HTTPS.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout when ready.")] = False,
) -> None:
    """A server of known truth: it streams made-up answers on a schedule and logs what it really sent, and when.

    A model's name may carry words of its own, for one request: "golden?ttft_s=0.2&per_event=4".
    """
    from bench.golden.server import serve
    from bench.golden.state import Settings

    default = split(words or [])
    behaviour = parse(default, "nbridge golden")
    if limit_rps is not None and limit_rps <= 0:
        raise PlanError(f"--limit-rps {limit_rps:g}: expected more than 0 requests per second.")
    settings = Settings(
        model=model, log=log, api_key=_key(api_key_env), limit=limit, limit_rps=limit_rps, queue_limit=queue_limit,
        metrics=metrics,
    )  # fmt: skip
    tls = None if certificate is None else _tls(certificate)
    shown = f"[{host}]" if ":" in host else host

    def ready(bound: int) -> None:
        url = f"http{'s' if tls else ''}://{shown}:{bound}"
        if as_json:
            said = {"url": url, "pid": os.getpid(), "log": None if log is None else str(log)}
            print(json.dumps({**said, "behaviour": behaviour.model_dump()}), flush=True)
        else:
            print(f"golden server on {url} (Ctrl-C ends it)", flush=True)

    try:
        asyncio.run(serve(settings, Behaviours(default), ready, host=host, port=port, tls=tls))
    except OSError as error:
        what = f"The log {log}" if error.filename is not None else f"{host}:{port}"
        verb = "cannot be written" if error.filename is not None else "cannot be listened on"
        raise CannotListenError(f"{what} {verb}: {error.strerror}.") from None


def _key(name: str | None) -> str | None:
    if name is not None and not os.environ.get(name):
        raise PlanError(f"--api-key-env {name}: the environment variable is not set; it should hold the API key.")
    return None if name is None else os.environ[name]


def _tls(certificate: Path) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        tls.load_cert_chain(certificate)
    except OSError as error:  # ssl.SSLError is one
        raise PlanError(f"--certificate {certificate}: no PEM file with a certificate and its key: {error}.") from None
    return tls
