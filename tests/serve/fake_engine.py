"""A stand-in for vLLM's API server: its log lines, its HTTP interface and its stubborn child processes.

Like vLLM it has an engine core as a child and a worker below that; here both ignore SIGTERM. Like vLLM it ends
itself when its engine core is gone, and it does not end its engine core when it is killed itself.

Behaviours: "serve"; "crash" prints the file FAKE_LOG and exits with 1; "never" never listens and ignores
SIGTERM; "unhealthy" answers 503 on /health; "other-model" names another root; "detached" also has a grandchild
in a session of its own.
"""

import argparse
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

METRICS = """\
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{block_size="128",enable_prefix_caching="True",kv_cache_max_concurrency="16.0",\
kv_cache_memory_bytes="1073741824",kv_cache_size_tokens="65536",num_cpu_blocks="None",num_gpu_blocks="512"}} 1.0
vllm:num_requests_running{{engine="0",model_name="m"}} {running}.0
vllm:num_requests_waiting{{engine="0",model_name="m"}} 0.0
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--behaviour", default=os.environ.get("FAKE_BEHAVIOUR", "serve"))
    parser.add_argument(
        "--running",
        type=int,
        default=int(os.environ.get("FAKE_RUNNING", "0")),
        help="how often /metrics tells of a running request",
    )
    return parser.parse_known_args()[0]


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def live_until_killed() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        signal.pause()


def start_engine_core(behaviour: str) -> int:
    core = os.fork()
    if core == 0:
        if os.fork() == 0:
            if behaviour == "detached":
                os.setsid()
            live_until_killed()
        live_until_killed()
    return core


class Api(BaseHTTPRequestHandler):
    args: argparse.Namespace

    def do_GET(self) -> None:
        key = os.environ.get("VLLM_API_KEY")
        if key and self.path.startswith("/v1") and self.headers.get("Authorization") != f"Bearer {key}":
            self.answer(401, "{}")
        elif self.path == "/health":
            self.answer(503 if self.args.behaviour == "unhealthy" else 200, "")
        elif self.path == "/metrics":
            self.answer(200, METRICS.format(running=self.args.running))
            self.args.running = max(0, self.args.running - 1)
            say(f"metrics asked, {self.args.running} left")
        elif self.path == "/v1/models":
            root = "/elsewhere" if self.args.behaviour == "other-model" else self.args.model
            self.answer(200, json.dumps({"data": [{"id": self.args.served_model_name, "root": root}]}))

    def answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    args = arguments()
    say("(APIServer pid=1) INFO 11-22 08:35:04 [api_utils.py:347]   █▄█▀ █     █     █     █  version 0.32.0")
    if args.behaviour == "crash":
        say(Path(os.environ["FAKE_LOG"]).read_text(encoding="utf-8"))
        sys.exit(1)
    if args.behaviour == "never":
        live_until_killed()
    core = start_engine_core(args.behaviour)
    Api.args = args
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Api)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())

    def watch_engine_core() -> None:
        os.waitpid(core, 0)
        say(
            "(APIServer pid=1) ERROR 11-22 08:36:04 [core_client.py:818] Engine core proc EngineCore died "
            "unexpectedly, shutting down client."
        )
        server.shutdown()

    threading.Thread(target=watch_engine_core, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
