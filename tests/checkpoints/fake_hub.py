"""A model hub on the loopback: the answers that the hub's client asks for, and the ways in which they go wrong."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """`repositories`: name → file → bytes. `refused`: name → (status, X-Error-Code). `cuts`: how many
    downloads of a big file break off in the middle. `down`: ask for the rest of one, and the hub has a problem."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.refused: dict[str, tuple[int, str | None]] = {}
        self.cuts = 0
        self.down = False
        self.downloads: list[tuple[str, str | None]] = []  # file, Range
        self.tokens: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve until the block ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        is_api = parts[:2] == ["api", "models"]
        rest = parts[2:] if is_api else parts
        name, action, arguments = "/".join(rest[:2]), rest[2] if len(rest) > 2 else "", rest[3:]
        if name in self.server.refused:
            self._refuse(*self.server.refused[name])
        elif name not in self.server.repositories:
            self._refuse(404, "RepoNotFound")
        elif action == "revision" and arguments[0] not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif is_api:
            self._describe(name, action)
        else:
            self._send_file(name, "/".join(arguments[1:]))

    def _describe(self, name: str, action: str) -> None:
        files = self.server.repositories[name]
        if action == "tree":
            document: object = [
                {"type": "file", "path": path, "size": len(data), "oid": _etag(data)} for path, data in files.items()
            ]
        else:
            siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
            document = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": []}
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _send_file(self, name: str, path: str) -> None:
        data = self.server.repositories[name].get(path)
        if data is None:
            self._refuse(404, "EntryNotFound")
            return
        asked = self.headers.get("Range")
        headers = {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if self.command == "GET":
            self.server.downloads.append((path, asked))
        if self.command == "GET" and asked is not None and self.server.down:
            self._refuse(503, None)
            return
        if self.command == "GET" and len(data) > 1_000_000 and self.server.cuts:
            self.server.cuts -= 1
            self._break_off(data, headers)
            return
        if asked is None:
            self._send(200, data, headers)
            return
        start = int(asked.removeprefix("bytes=").partition("-")[0])
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206, data[start:], headers)

    def _break_off(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        self.close_connection = True

    def _refuse(self, status: int, code: str | None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": "refused"} if code else {}
        self._send(status, b"", headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


def _etag(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
