"""A golden server: a real loopback HTTP server that streams completions with known timing and logs when it sent what.

Run as its own process, so that its clock readings owe nothing to the client; both read CLOCK_MONOTONIC. What it does
with a request stands in the model name, as a query: "golden?ttft_s=0.02&gap_s=0.005&per_event=4&then=hang&after=3".

    ttft_s, gap_s   seconds before the first event and between events
    per_event       tokens per event; max_tokens of them in all
    per_send        events per send
    halves          1: every event in two sends, 2 ms apart
    usage           continuous, final or none
    body            chunked, extended (chunk extensions and a trailer), length or close
    then, after     what goes wrong after so many events: see `go_wrong`
    status          answer this status with an OpenAI error
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import parse_qsl

PROBE_ID = "9be00000-"  # bench.client.probe's


class Hangup(Exception):
    """The server ends the connection here."""


class Server:
    def __init__(self, log: Path, api_key: str | None) -> None:
        self.log_file = log.open("a", encoding="utf-8", buffering=1)
        self.api_key = api_key
        self.connections = self.requests = self.tokens = 0

    def log(self, entry: dict[str, Any]) -> None:
        self.log_file.write(json.dumps(entry) + "\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = Connection(self, self.connections, reader, writer)
        with suppress(Hangup, ConnectionError, asyncio.IncompleteReadError):
            while True:
                await connection.one()
        writer.close()


class Connection:
    def __init__(self, server: Server, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.number, self.reader, self.writer = server, number, reader, writer
        self.close_on_next = False

    async def one(self) -> None:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        received_s = perf_counter()
        if self.close_on_next:
            raise Hangup
        entry = {
            "connection": self.number,
            "method": method,
            "path": path,
            "received_s": received_s,
            "authorized": headers.get("authorization") == f"Bearer {self.server.api_key}",
            "headers": sorted(set(headers) - {"authorization"}),
            "events": [],
        }
        if path.endswith("/metrics"):
            text = f"# TYPE golden_requests_total counter\ngolden_requests_total {self.server.requests}\n"
            text += f"# TYPE golden_tokens_total counter\ngolden_tokens_total {self.server.tokens}\n"
            return await self.plain(200, text, "text/plain; version=0.0.4")
        if path.endswith("/v1/models"):
            return await self.plain(200, json.dumps({"data": [{"id": os.environ.get("GOLDEN_MODEL", "golden")}]}))
        if method != "POST" or not path.partition("?")[0].endswith("/completions"):
            return await self.plain(404, error(f"no such path {path}"))
        entry["body"] = asked = json.loads(body)
        if self.server.api_key is not None and not entry["authorized"]:
            self.server.log(entry)
            return await self.plain(401, error(f"Incorrect API key: {headers.get('authorization')}"))
        self.server.requests += 1
        options = dict(parse_qsl(asked["model"].partition("?")[2]))
        if headers.get("x-request-id", "").startswith(PROBE_ID):
            # A probe learns the dialect of a server that is well; what goes wrong goes wrong under the load.
            options = {name: value for name, value in options.items() if name not in ("then", "status")}
        await self.complete(asked, options, entry)
        return None

    async def send(self, data: bytes) -> float:
        sent_s = perf_counter()
        self.writer.write(data)
        await self.writer.drain()
        return sent_s

    async def plain(self, status: int, text: str, media: str = "application/json", more: str = "") -> None:
        body = text.encode()
        head = f"HTTP/1.1 {status} Golden\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
        await self.send(head.encode() + body)

    async def complete(self, asked: dict[str, Any], options: dict[str, str], entry: dict[str, Any]) -> None:
        status, then = int(options.get("status", "200")), options.get("then")
        if status != 200 or then in ("plain", "redirect", "die"):
            self.server.log(entry)
            if then == "die":
                os._exit(0)
            if then == "redirect":
                return await self.plain(307, "", more="Location: http://elsewhere/v1/completions\r\n")
            if then == "plain":
                return await self.plain(200, json.dumps({"choices": [{"text": "all at once"}]}))
            return await self.plain(status, error(f"status {status} as asked"))
        stream = Stream(asked, options)
        await self.head(stream)
        self.close_on_next = then == "close_on_next"
        gap_s, due_s = float(options.get("gap_s", "0")), entry["received_s"] + float(options.get("ttft_s", "0"))
        per_send = int(options.get("per_send", "1"))
        batch: list[tuple[bytes, int]] = []
        for index, (event, tokens) in enumerate(stream.events()):
            if then is not None and index == int(options.get("after", "0")):
                await self.go_wrong(then, stream, entry)
            batch.append((event, tokens))
            if len(batch) < per_send and index + 1 < stream.count:
                continue
            await asyncio.sleep(max(0.0, due_s - perf_counter()))
            due_s += gap_s
            data = b"".join(stream.framed(event) for event, _ in batch)
            if options.get("halves"):
                await self.send(data[: len(data) // 2])
                await asyncio.sleep(0.002)
                data = data[len(data) // 2 :]
            sent_s = await self.send(data)
            entry["events"] += [[sent_s, tokens] for _, tokens in batch]
            self.server.tokens += sum(tokens for _, tokens in batch)
            batch = []
        self.server.log(entry)
        closing = stream.closing(then)
        if stream.body == "length":
            await self.send(closing)
            return None
        more = b"HTTP/1.1 what?" if then == "trailing" else b""
        await self.send(stream.framed(closing) + stream.end() + more)
        if stream.body == "close" or then == "close_after":
            raise Hangup
        return None

    async def head(self, stream: Stream) -> None:
        lines = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream; charset=utf-8"]
        if stream.body == "length":
            lines.append(f"Content-Length: {stream.length()}")
        elif stream.body == "close":
            lines.append("Connection: close")
        else:
            lines.append("Transfer-Encoding: chunked")
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def go_wrong(self, then: str, stream: Stream, entry: dict[str, Any]) -> None:
        if then in ("hang", "cut", "reset"):
            self.server.log(entry)
        if then == "hang":
            await self.reader.read()
            raise Hangup
        if then == "cut":
            raise Hangup
        if then == "reset":
            linger = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.writer.transport.abort()
            raise Hangup
        if then == "garbage":
            await self.send(stream.framed(b"data: {broken\n\n"))
        if then == "bad_chunk":
            await self.send(b"xyz\r\nnot a chunk\r\n")
        if then == "break_off":
            self.server.log(entry)
            await self.send(stream.framed(b"data: [DONE]\n\n") + stream.end())
            raise Hangup
        if then == "error_event":
            await self.send(stream.framed(f"data: {error('the engine fell over')}\n\n".encode()))


def error(message: str) -> str:
    return json.dumps({"error": {"message": message, "type": "golden", "param": None, "code": None}})


class Stream:
    """The events of one answer and how they are framed."""

    def __init__(self, asked: dict[str, Any], options: dict[str, str]) -> None:
        self.asked, self.body = asked, options.get("body", "chunked")
        self.usage = options.get("usage", "continuous")
        self.per_event = int(options.get("per_event", "1"))
        self.total = int(asked["max_tokens"])
        self.count = -(-self.total // self.per_event)
        prompt = asked.get("prompt", "")
        self.prompt_tokens = len(prompt) if isinstance(prompt, list) else len(str(prompt).split())

    def events(self) -> Iterator[tuple[bytes, int]]:
        sent = 0
        for _ in range(self.count):
            tokens = min(self.per_event, self.total - sent)
            sent += tokens
            choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if sent == self.total else None}
            text = " tok" * tokens
            choice |= {"delta": {"content": text}} if "messages" in self.asked else {"text": text}
            event: dict[str, Any] = {"choices": [choice]}
            if self.usage == "continuous":
                event["usage"] = self.counts(sent)
            yield f"data: {json.dumps(event)}\n\n".encode(), tokens

    def counts(self, sent: int) -> dict[str, Any]:
        total = self.prompt_tokens + sent
        counts: dict[str, Any] = {"prompt_tokens": self.prompt_tokens, "completion_tokens": sent, "total_tokens": total}
        return counts | {"prompt_tokens_details": {"cached_tokens": 2}}

    def closing(self, then: str | None) -> bytes:
        usage = {"choices": [], "usage": self.counts(self.total)}
        last = b"" if self.usage == "none" else f"data: {json.dumps(usage)}\n\n".encode()
        return last + (b"" if then == "no_done" else b"data: [DONE]\n\n")

    def length(self) -> int:
        return sum(len(event) for event, _ in self.events()) + len(self.closing(None))

    def framed(self, data: bytes) -> bytes:
        if self.body not in ("chunked", "extended"):
            return data
        extension = b';name="value; x"' if self.body == "extended" else b""
        return b"%x%s\r\n%s\r\n" % (len(data), extension, data)

    def end(self) -> bytes:
        return {"chunked": b"0\r\n\r\n", "extended": b"0\r\nX-Trailer: golden\r\n\r\n"}.get(self.body, b"")


async def main(log: str, host: str, api_key: str, certificate: str) -> None:
    server = Server(Path(log), api_key or None)
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    listener = await asyncio.start_server(server.serve, host, 0, ssl=tls, backlog=1024)
    sys.stdout.write(f"{listener.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await listener.serve_forever()


@dataclass
class Golden:
    """A running golden server, as a test sees it."""

    url: str
    process: subprocess.Popen[str]
    log_path: Path

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_path.read_text(encoding="utf-8").splitlines()]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def golden(
    folder: Path, *, host: str = "127.0.0.1", api_key: str = "", certificate: str = "", model: str = "golden"
) -> Iterator[Golden]:
    """A golden server in its own process; `certificate`: PEM file with certificate and key; `model`: what it lists."""
    log = folder / f"golden-{host.replace(':', '_')}{'-tls' if certificate else ''}.jsonl"
    log.touch()
    argv = [sys.executable, __file__, str(log), host, api_key, certificate]
    environment = {**os.environ, "GOLDEN_MODEL": model}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        name = f"[{host}]" if ":" in host else host
        try:
            yield Golden(f"{'https' if certificate else 'http'}://{name}:{port}", process, log)
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
