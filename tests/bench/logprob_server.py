"""A fake: a server of /tokenize and /v1/completions that says what the test decides. One token per character."""

import contextlib
import json
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bench.client.dialect import VLLM
from bench.target import Target

Answer = Callable[[str, dict[str, Any]], tuple[int, Any]]
START = 1  # a start token that /tokenize puts before a text when it is asked for special tokens


def prompt_logprobs(ids: list[int], told: dict[str, float] | None = None) -> dict[str, Any]:
    """As vLLM answers: every token has probability 1/2, token 0 a quarter."""
    tables: list[Any] = [None]
    for place, token in enumerate(ids[1:], start=1):
        table = {str(token): math.log(0.5), "0": math.log(0.25)} | (told or {})
        tables.append({key: {"logprob": value, "rank": place, "decoded_token": "x"} for key, value in table.items()})
    return {"choices": [{"text": "x", "prompt_logprobs": tables}]}


def echoed(ids: list[int]) -> dict[str, Any]:
    """As older OpenAI servers answer to `echo` with `logprobs`, with the one token that was generated at the end."""
    texts = [chr(token) for token in ids] + ["!"]
    logprobs = {
        "tokens": texts,
        "token_logprobs": [None, *[math.log(0.5)] * len(ids)],
        "top_logprobs": [None, *[{text: math.log(0.5), "\ufffd": math.log(0.25)} for text in texts[1:]]],
    }
    return {"choices": [{"text": "".join(texts), "logprobs": logprobs}]}


def vllm(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """A vLLM that answers rightly."""
    if path == "/tokenize":
        return 200, {"tokens": [START] * body["add_special_tokens"] + [ord(letter) for letter in body["prompt"]]}
    return 200, prompt_logprobs(body["prompt"])


@contextlib.contextmanager
def serving(answer: Answer = vllm) -> Iterator[tuple[Target, list[dict[str, Any]]]]:
    """The server as a target, and the bodies of the completions it was asked for."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v1/completions":
                asked.append(body)
            status, document = answer(self.path, body)
            raw = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield Target(url, "m", None, vocabulary=None, max_model_len=None, dialect=VLLM), asked
        server.shutdown()
