"""A server's address as people write it → the one form that every package uses."""

import ipaddress
import re
import socket
from typing import Any
from urllib.parse import urlsplit, urlunsplit

EXAMPLE = "http://127.0.0.1:8000"
# By RFC 6761 `localhost` is this machine's loopback, whichever of the two a server listens on; a machine's own table
# often names only one.
LOOPBACKS = ("127.0.0.1", "::1")


def normalised(text: str) -> str:
    """`text` as scheme://host[:port][/path]: http when no scheme is given, without a slash or `/v1` at the end.

    `:8000` is a port of this machine; a name in another script gets its ASCII form. Raises ValueError with a sentence
    that repeats neither a password nor a query, which may hold a key.
    """
    text = text.strip()
    if "@" in text:
        raise ValueError(
            "the address of a server may not hold a user or password, because addresses are logged and kept: give "
            "only scheme, host, port and path, and a key by the name of its environment variable"
        )
    if "?" in text or "#" in text:
        raise ValueError(
            "the address of a server may not have a query or fragment: give only scheme, host, port and path, such "
            f"as {EXAMPLE}"
        )
    try:
        parts = urlsplit(_with_scheme(text))
        host, port = _ascii(parts.hostname or ""), parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no address of a server: {error}") from None
    if parts.scheme not in ("http", "https") or not host or not text.isprintable() or " " in text:
        raise ValueError(f"{text!r} is no address of a server: expected one such as {EXAMPLE}")
    if port == 0:
        raise ValueError(f"{text!r} is no address of a server: port 0 stands for any port, not for one to connect to")
    # A client of the OpenAI API is given …/v1; health and metrics lie above it.
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return urlunsplit((parts.scheme, _netloc(host, port), path, "", ""))


def alternatives(address: str) -> tuple[str, ...]:
    """The address itself and, for `localhost`, both of the loopback addresses that the name stands for."""
    parts = urlsplit(address)
    if parts.hostname != "localhost":
        return (address,)
    return (address, *(urlunsplit(parts._replace(netloc=_netloc(host, parts.port))) for host in LOOPBACKS))


def resolved(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    """Where to connect to for a host, in order: what it resolves to, and for `localhost` both loopback addresses.

    Raises OSError when the name cannot be resolved.
    """
    found: list[tuple[socket.AddressFamily, Any]] = []
    for name in (host, *LOOPBACKS) if host == "localhost" else (host,):
        for family, _, _, _, where in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
            if (family, where) not in found:
                found.append((family, where))
    return found


def reachable(address: str, timeout_s: float = 1.0) -> str:
    """`address`, but for `localhost` the one of its alternatives at which somebody listens now, if any does."""
    for one in (every := alternatives(address)):
        parts = urlsplit(one)
        try:
            if len(every) > 1:
                socket.create_connection((parts.hostname or "", parts.port or _port(parts.scheme)), timeout_s).close()
        except OSError:
            continue
        return one
    return address


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _with_scheme(text: str) -> str:
    if "://" in text:
        return text
    if text.isdecimal():
        raise ValueError(f"a port alone is written :{text}")
    if re.match(r"https?[:/]", text, re.IGNORECASE):
        raise ValueError("after http or https comes ://")
    if text.count(":") > 1 and not text.startswith("["):
        raise ValueError("an IPv6 address stands in brackets, such as [::1]:8000")
    return f"http://localhost{text}" if text.startswith(":") else f"http://{text}"


def _ascii(host: str) -> str:
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("its host name cannot be written in ASCII") from None


def _netloc(host: str, port: int | None) -> str:
    return (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")


def _port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
