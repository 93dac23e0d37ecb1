"""A fake replica: a server of vLLM's shape over real sockets, whose faults are switched while it runs.

python -m bench.studies.chaos.replica PORT FOLDER MODEL serves; FOLDER/fault holds one word, FOLDER/log.jsonl gets a
line for each answer that has begun. It generates nothing: tokens are words, their times are those it is told.

    (nothing)   answers      hang    takes requests, makes no step, and says 200 on /health
    error       500 at once  slow    a token takes a second
    cut         ends the connection after three tokens
    garbage     answers what is no JSON
    lame        500 to whatever asks for more than one token, which no canary does
    busy        makes steps, and has no place for another request
    other       lists and serves another model
    locked      401 to everybody: it wants another key
    fixed       loads no adapters while it runs
"""

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

TTFT_S, GAP_S, TOKENS = 0.05, 0.01, 20


class Replica:
    def __init__(self, port: int, folder: Path, model: str, *, holds: bool) -> None:
        self.port, self.folder, self.model, self.holds = port, folder, model, holds
        self.adapters: dict[str, str] = {}
        self.steps = self.running = self.read = self.written = 0
        self.log = (folder / "log.jsonl").open("a", encoding="utf-8", buffering=1)

    @property
    def fault(self) -> str:
        try:
            return (self.folder / "fault").read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.one(reader, writer):
                pass
        writer.close()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        method, path, _ = head[0].split(" ")
        body = await read_body(reader, headers)
        fault = self.fault
        if path.endswith("load_lora_adapter"):
            await self.adapter(writer, path, fault, json.loads(body))
            return True
        if method == "GET":
            await self.page(writer, path, fault)
            return True
        asked = json.loads(body or b"{}")
        entry = {"id": headers.get("x-request-id"), "path": path, "key": headers.get("authorization"), "asked": asked}
        if await self.fails(writer, fault, asked, entry):
            return True
        if asked.get("model") not in (self.served(fault), *self.adapters) and path.startswith("/v1/"):
            await plain(writer, 404, {"error": {"message": f"The model {asked.get('model')} does not exist."}})
            return True
        if not path.endswith("completions"):
            await plain(writer, 200, {"path": path, "model": self.model, "port": self.port})
            return True
        self.running += 1
        try:
            return await self.complete(writer, asked, entry)
        finally:
            self.running -= 1

    async def fails(
        self, writer: asyncio.StreamWriter, fault: str, asked: dict[str, Any], entry: dict[str, Any]
    ) -> bool:
        """Answer as a fault has it that answers at once; whether there is one."""
        if fault == "error" or (fault == "lame" and asked.get("max_tokens") != 1):
            self.log.write(json.dumps({**entry, "status": 500}) + "\n")
            await plain(writer, 500, {"error": {"message": "the engine fell over", "type": "server_error"}})
        elif fault == "locked":
            await plain(writer, 401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})
        elif fault == "garbage":
            await plain(writer, 200, "<<no JSON>>")
        else:
            return False
        return True

    async def adapter(self, writer: asyncio.StreamWriter, path: str, fault: str, asked: dict[str, str]) -> None:
        """Load or unload a LoRA adapter, as vLLM does where that is allowed."""
        name = asked["lora_name"]
        if fault == "fixed":
            await plain(writer, 404, {"detail": "Not Found"})
        elif path == "/v1/load_lora_adapter":
            self.adapters[name] = asked["lora_path"]
            await plain(writer, 200, f"Success: LoRA adapter '{name}' added successfully.", "text/plain")
        elif self.adapters.pop(name, None) is None:
            await plain(writer, 404, {"error": {"message": f"The lora adapter '{name}' cannot be found."}})
        else:
            await plain(writer, 200, f"Success: LoRA adapter '{name}' removed successfully.", "text/plain")

    def served(self, fault: str) -> str:
        return "another" if fault == "other" else self.model

    async def page(self, writer: asyncio.StreamWriter, path: str, fault: str) -> None:
        if path == "/v1/models":
            entry = {"id": self.served(fault), "object": "model", "max_model_len": 4096}
            loaded = [{"id": name, "object": "model", "root": place} for name, place in self.adapters.items()]
            await plain(writer, 200, {"object": "list", "data": [entry, *loaded]})
        elif path == "/metrics":
            if fault == "busy":
                self.steps += 1
            counts = {
                "iteration_tokens_total_count": self.steps,
                "num_requests_running": self.running,
                "prompt_tokens_total": self.read,
                "generation_tokens_total": self.written,
            }
            page = "".join(f"vllm:{name} {count}\n" for name, count in counts.items())
            await plain(writer, 200, page, "text/plain; version=0.0.4")
        else:
            await plain(writer, 200, {"path": path, "port": self.port})

    async def tick(self, seconds: float) -> None:
        """One step of the engine, which waits while it hangs, and as long as others are served."""
        await asyncio.sleep(seconds)
        while self.fault in ("hang", "busy"):
            await asyncio.sleep(0.02)
        if self.fault == "slow":
            await asyncio.sleep(1.0)
        self.steps += 1

    async def complete(self, writer: asyncio.StreamWriter, asked: dict[str, Any], entry: dict[str, Any]) -> bool:
        tokens = min(int(asked.get("max_tokens") or TOKENS), 1000)
        self.read, self.written = self.read + 1, self.written + tokens
        if not asked.get("stream"):
            await self.tick(TTFT_S + GAP_S * (tokens - 1))
            self.log.write(json.dumps({**entry, "status": 200}) + "\n")
            choice = {"index": 0, "text": f"from {self.port}", "message": {"role": "assistant", "content": "tok"}}
            usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
            await plain(writer, 200, {"model": asked.get("model"), "choices": [choice], "usage": usage})
            return True
        start = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        if not self.holds:
            await send(writer, start)
        await self.tick(TTFT_S)
        self.log.write(json.dumps({**entry, "status": 200}) + "\n")
        if self.holds:
            writer.write(start)
        for number in range(tokens):
            if number:
                await self.tick(GAP_S)
            if number == 3 and self.fault == "cut":
                return False
            choice = {"index": 0, "text": f" {number}", "delta": {"content": f" {number}"}, "finish_reason": None}
            await send(writer, framed(f"data: {json.dumps({'choices': [choice], 'at_s': time.monotonic()})}\n\n"))
        await send(writer, framed("data: [DONE]\n\n") + b"0\r\n\r\n")
        return True


def framed(text: str) -> bytes:
    return f"{len(text.encode()):x}\r\n{text}\r\n".encode()


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    parts = []
    while size := int(await reader.readline(), 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    await reader.readline()
    return b"".join(parts)


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def plain(writer: asyncio.StreamWriter, status: int, said: object, media: str = "application/json") -> None:
    body = (said if isinstance(said, str) else json.dumps(said)).encode()
    head = f"HTTP/1.1 {status} Replica\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n"
    await send(writer, head.encode() + body)


async def main(port: int, folder: Path, model: str, *, holds: bool) -> None:
    """Serve until the process is ended; SIGTERM ends it at once, as vLLM does."""
    replica = Replica(port, folder, model, holds=holds)
    server = await asyncio.start_server(replica.serve, "127.0.0.1", port, backlog=1024, limit=1 << 26)
    await server.serve_forever()


if __name__ == "__main__":
    words = sys.argv[1:]
    asyncio.run(main(int(words[0]), Path(words[1]), words[2], holds="--no-hold" not in words))
