"""Whom Prometheus scrapes and Alertmanager tells, under our control: pages that change, a webhook that listens.

Stand-ins for servers, GPU exporters and receivers, for the tests and for `bench.studies.alerting`.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class _Listening:
    """An HTTP server on a port of the loopback address (0: a free one), while `with` runs or until `close`."""

    def __init__(self, port: int = 0) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(*outer.get(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.answer(*outer.post(self.path, body))

            def answer(self, kind: str, text: str) -> None:
                payload = text.encode()
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """Nothing: a client that has gone is no failure of ours."""

        self._server = Server(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.instance = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.instance}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def get(self, _path: str) -> tuple[str, str]:
        return "text/plain", ""

    def post(self, _path: str, _body: bytes) -> tuple[str, str]:
        return "text/plain", ""

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Page(_Listening):
    """A target whose metrics are `lines`; it answers canaries as a vLLM server would, and HTML when `html` is set.

    Its pages, not its answers to canaries, take `delay_s`.
    """

    def __init__(self, *lines: str, port: int = 0, delay_s: float = 0) -> None:
        self.lines = list(lines)
        self.html: str | None = None
        self.delay_s = delay_s
        super().__init__(port)

    def get(self, path: str) -> tuple[str, str]:
        if path == "/v1/models":
            return "application/json", json.dumps({"data": [{"id": "fake"}]})
        time.sleep(self.delay_s)
        if self.html is not None:
            return "text/html", self.html
        return "text/plain; version=0.0.4", "\n".join(self.lines) + "\n"

    def post(self, _path: str, _body: bytes) -> tuple[str, str]:
        return "application/json", json.dumps({"choices": [{"text": "1"}], "usage": {"completion_tokens": 1}})


class Webhook(_Listening):
    """A receiver that keeps what it is sent, and every alert in it with the instant of its arrival."""

    def __init__(self) -> None:
        self.told: list[tuple[float, dict[str, Any]]] = []
        self.bodies: list[dict[str, Any]] = []
        super().__init__()

    def post(self, _path: str, body: bytes) -> tuple[str, str]:
        now = time.monotonic()
        self.bodies.append(json.loads(body))
        self.told += [(now, alert) for alert in self.bodies[-1].get("alerts", ())]
        return "text/plain", ""

    def first(
        self, alert: str, instance: str, status: str, *, since_s: float = 0
    ) -> tuple[float, dict[str, Any]] | None:
        """When it was first told of an alert in a status ("firing", "resolved"), and the alert; None before.

        What it was told before `since_s` (time.monotonic()) does not count.
        """
        wanted = (alert, instance, status)
        for at_s, told in list(self.told):
            labels = told["labels"]
            if at_s >= since_s and (labels["alertname"], labels.get("instance"), told["status"]) == wanted:
                return at_s, told
        return None


def vllm_page(*, running: int = 0, waiting: int = 0, steps: int = 0, slow: int = 0) -> list[str]:
    """The lines of a vLLM server's page that the engine and latency alerts read; `slow` requests took over 5 s."""
    labels = 'engine="0",model_name="fake"'
    e2e = "vllm:e2e_request_latency_seconds"
    return [
        f"vllm:num_requests_running{{{labels}}} {running}",
        f"vllm:num_requests_waiting{{{labels}}} {waiting}",
        f"vllm:iteration_tokens_total_count{{{labels}}} {steps}",
        f'vllm:engine_sleep_state{{{labels},sleep_state="awake"}} 1',
        f'{e2e}_bucket{{{labels},le="5.0"}} 0',
        f'{e2e}_bucket{{{labels},le="10.0"}} {slow}',
        f'{e2e}_bucket{{{labels},le="+Inf"}} {slow}',
        f"{e2e}_count{{{labels}}} {slow}",
    ]


def gpu_page(*, temperature_c: float) -> list[str]:
    """The lines of an exporter's page for one GPU. It does not say that a GPU is expected: its clock stands still."""
    gpu = '{gpu="0",uuid="GPU-fake",name="Fake H100"}'
    return [
        f"nbridge_gpu_last_collect_timestamp_seconds {time.time()}",
        f"nbridge_gpu_up{gpu} 1",
        f"nbridge_gpu_temperature_celsius{gpu} {temperature_c}",
    ]
