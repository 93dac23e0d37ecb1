"""A server as the streaming client reaches it: host, TLS, key, headers and query, and a request to it on the wire."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from monitoring.scrape.address import normalised, resolved


@dataclass(frozen=True)
class Target:
    """A server: where to connect, what to put before each path and behind it, the key and other headers (not shown)."""

    host: str
    port: int
    authority: str
    prefix: str
    tls: ssl.SSLContext | None = None
    api_key: str | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    query: str = ""
    _addresses: list[Any] = field(default_factory=list, repr=False, compare=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no record may hold: the key and the values of the other headers."""
        return tuple(value for value in (self.api_key, *(value for _, value in self.headers)) if value)

    def addresses(self) -> list[Any]:
        """What the host name resolves to, looked up once: a look-up per connection would be part of the timings."""
        if not self._addresses:
            try:
                self._addresses.extend(resolved(self.host, self.port))
            except UnicodeError as error:
                raise socket.gaierror(f"{self.host[:80]} is not a host name") from error
        return list(self._addresses)

    def prefer(self, address: Any) -> None:
        """Puts the address that answered first: `localhost` may be two, of which a server listens on one."""
        if self._addresses and self._addresses[0] is not address:
            self._addresses.remove(address)
            self._addresses.insert(0, address)


def target_of(
    base_url: str,
    *,
    api_key: str | None = None,
    verify_tls: bool = True,
    ca_path: str | None = None,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
) -> Target:
    """A target from a base URL in any form of monitoring.scrape.address; a path prefix is kept, a trailing /v1 dropped.

    ValueError says what is wrong.
    """
    parts = urlsplit(normalised(base_url))
    host = parts.hostname or ""
    if api_key is not None and not _fits_header(api_key):
        raise ValueError("The API key is empty or has characters that cannot stand in an HTTP header.")
    for header, value in (headers or {}).items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", header) or not _fits_header(value):
            raise ValueError(f"The header {header!r} or its value has characters that cannot stand in an HTTP header.")
    tls = _tls(verify_tls, ca_path) if parts.scheme == "https" else None
    return Target(
        host=host,
        port=parts.port or (443 if tls else 80),
        authority=parts.netloc,
        prefix=parts.path,
        tls=tls,
        api_key=api_key,
        headers=tuple((headers or {}).items()),
        query=urlencode(query or {}),
    )


def _fits_header(text: str) -> bool:
    return text.isascii() and text.isprintable() and bool(text.strip())


def _tls(verify: bool, ca_path: str | None) -> ssl.SSLContext:
    try:
        tls = ssl.create_default_context(cafile=ca_path)
    except OSError as error:
        raise ValueError(f"The CA file {ca_path!r} cannot be used: {error}.") from error
    if not verify:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return tls


def wire(to: Target, method: str, path: str, body: bytes = b"", request_id: str | None = None) -> bytes:
    """An HTTP/1.1 request on the wire, with the target's key, headers and query; a body is JSON."""
    asked = f"{to.prefix}{path}" + (f"{'&' if '?' in path else '?'}{to.query}" if to.query else "")
    lines = [f"{method} {asked} HTTP/1.1", f"Host: {to.authority}", "User-Agent: neural-bridge"]
    if method == "POST":
        lines += ["Accept: text/event-stream", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    if request_id is not None:
        lines.append(f"X-Request-Id: {request_id}")
    if to.api_key is not None:
        lines.append(f"Authorization: Bearer {to.api_key}")
    lines += [f"{name}: {value}" for name, value in to.headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
