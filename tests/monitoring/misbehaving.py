"""A small server that misbehaves as it is told, for the canary, scrapes and the check-up."""

import http.server
import json
import socket
import threading
import time
from email.utils import formatdate
from typing import Any

PAGE = """# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 7
vllm:num_requests_running{engine="0",model_name="m"} 0
vllm:num_requests_waiting{engine="0",model_name="m"} 0
process_start_time_seconds 1000
"""
TOKEN = json.dumps({"choices": [{"text": "a"}]})
Answer = tuple[int, str, str]  # status, content type, body


class FakeServer:
    """Answers by path; None as an answer hangs until the test ends, "drip" gives a byte now and then."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | str | None] = {
            "/metrics": (200, "text/plain", PAGE),
            "/health": (200, "application/json", ""),
            "/v1/models": (200, "application/json", json.dumps({"data": [{"id": "m"}]})),
            "/v1/completions": (200, "application/json", TOKEN),
        }
        self.asked: list[tuple[str, Any, str | None]] = []
        self.clock_ahead_s = 0.0
        self.ended = threading.Event()
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, document: Any) -> None:
                fake.asked.append((self.path, document, self.headers.get("Authorization")))
                answer = fake.answers.get(self.path, (404, "text/plain", "no"))
                if answer is None:
                    fake.ended.wait()
                    return
                if isinstance(answer, str):
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
                    while not fake.ended.wait(0.05):
                        self.wfile.write(b"#")
                        self.wfile.flush()
                    return
                status, kind, body = answer
                self.send_response_only(status)
                self.send_header("Date", formatdate(time.time() + fake.clock_ahead_s, usegmt=True))
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None: ...

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.ended.set()
        self.http.shutdown()
        self.http.server_close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def patience_s(answer: Answer | str | None) -> float:
    """Little with a server that will not answer; with one that does, as much as a busy machine may need."""
    return 20 if isinstance(answer, tuple) else 0.3


HTML = (200, "text/html; charset=utf-8", "<!DOCTYPE html><html><body>Login</body></html>")
