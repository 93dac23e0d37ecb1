"""A server of hidden states whose every answer is scripted: real HTTP over loopback, made-up numbers."""

import base64
import json
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HIDDEN_SIZE, NUM_LAYERS = 4, 4
# What a scripted answer may be: (status, headers, body), or "cut" (no answer at all), or "half" (cut in the body).
Step = Any


def vector(prompt: Any, layer: int) -> list[float]:
    """The made-up state of a prompt: its length, the layer, and two constants."""
    return [float(len(prompt)), float(layer), 1.0, -2.5]


def states_document(request: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A right answer to a request for last or all pooling, with `changes` to make it a wrong one."""
    prompts = request["prompts"]
    asked = [request["layer"]] if "layer" in request else request["layers"]
    layers = list(range(NUM_LAYERS)) if asked == "all" else [one % NUM_LAYERS for one in asked]
    counts = [len(prompt) for prompt in prompts]
    states: list[Any] = []
    for prompt, count in zip(prompts, counts, strict=True):
        rows: list[Any] = [vector(prompt, layer) for layer in layers]
        if request["pooling"] == "all":
            rows = [[row] * count for row in rows]
        states.append(rows[0] if "layer" in request else rows)
    document: dict[str, Any] = {
        "model": "fake",
        "layers": [{"layer": one, "hf_index": one + 1} for one in layers],
        "hidden_states": states,
        "prompt_tokens": counts,
        "metadata": {"num_prompts": len(prompts), "hidden_size": HIDDEN_SIZE, "dtype": "float32"},
    }
    if request["encoding_format"] == "base64":
        document |= {"hidden_states": [encoded(one) for one in states], "shapes": [shape(one) for one in states]}
    return document | changes


def encoded(nested: Any) -> str:
    flat = list(_flat(nested))
    return base64.b64encode(struct.pack(f"<{len(flat)}f", *flat)).decode()


def shape(nested: Any) -> list[int]:
    return [len(nested), *shape(nested[0])] if isinstance(nested, list) else []


def _flat(nested: Any) -> Iterator[float]:
    if isinstance(nested, list):
        for one in nested:
            yield from _flat(one)
    else:
        yield nested


def error(status: int, message: str, **headers: str) -> Step:
    body = json.dumps({"error": {"message": message, "type": "T", "param": None, "code": status}})
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, body.encode()


@dataclass
class Fake:
    """`script` gives the next answers (a function of the request's document, or a Step); after it, right ones."""

    base_url: str = ""
    script: list[Step | Callable[[Any], Step]] = field(default_factory=list)
    requests: list[tuple[str, Any, dict[str, str]]] = field(default_factory=list)
    answer: Callable[[dict[str, Any]], Any] = states_document
    health: Step = (
        200,
        {},
        json.dumps({"status": "healthy", "model": "fake", "num_layers": 4, "hidden_size": 4}).encode(),
    )
    lock: Any = field(default_factory=threading.Lock)
    under_way: int = 0
    most_under_way: int = 0

    def posted(self) -> list[Any]:
        return [document for _, document, _ in self.requests if document is not None]

    def reply(self, path: str, document: Any) -> Step:
        with self.lock:
            if self.script:
                step = self.script.pop(0)
                return step(document) if callable(step) else step
        if path == "/health":
            return self.health
        if path == "/version":
            return 200, {}, b'{"version": "0.32.0"}'
        if path == "/v1/models":
            return 200, {}, b'{"data": [{"id": "fake"}]}'
        return 200, {}, json.dumps(self.answer(document)).encode()


@contextmanager
def running() -> Iterator[Fake]:
    fake = Fake()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve(None)

        def do_POST(self) -> None:
            self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _serve(self, document: Any) -> None:
            with fake.lock:
                headers = {name.lower(): value for name, value in self.headers.items()}
                fake.requests.append((self.path, document, headers))
                fake.under_way += 1
                fake.most_under_way = max(fake.most_under_way, fake.under_way)
            step = fake.reply(self.path, document)
            with fake.lock:
                fake.under_way -= 1
            if step == "cut":
                self.close_connection = True
                return
            status, headers, body = (200, {}, b'{"model": ') if step == "half" else step
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) + (100 if step == "half" else 0)))
            self.end_headers()
            self.wfile.write(body)
            if step == "half":
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        fake.base_url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()
