"""The golden server (bench.golden) as the tests start it: without waits of its own, known cached tokens, a log."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.golden.running import Golden
from bench.golden.running import golden as running

__all__ = ["Golden", "golden"]


@contextmanager
def golden(
    folder: Path, *words: str, host: str = "127.0.0.1", api_key: str = "", certificate: str = "", model: str = "golden"
) -> Iterator[Golden]:
    """A golden server in its own process; `certificate`: PEM file with certificate and key; `model`: what it lists."""
    log = folder / f"golden-{host.replace(':', '_')}{'-tls' if certificate else ''}.jsonl"
    more = ["--certificate", certificate] if certificate else []
    given = {word.partition("=")[0] for word in words}
    defaults = [word for word in ("ttft_s=0", "gap_s=0", "cached_tokens=2") if word.partition("=")[0] not in given]
    with running(log, *defaults, *words, "--host", host, "--model", model, *more, api_key=api_key) as server:
        yield server
