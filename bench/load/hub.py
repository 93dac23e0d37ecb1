"""Reads in gevent's hub: a chunk that comes wakes no greenlet, so reading it costs no switch of greenlets."""

from __future__ import annotations

import socket

from gevent import get_hub
from gevent.hub import Waiter

from bench.client.connection import Take

_READABLE = 1


def in_the_hub(sock: socket.socket, take: Take) -> None:
    """Has the hub call `take` whenever a plain socket can be read; the calling greenlet goes on when all was read."""
    hub = get_hub()
    waiter = Waiter(hub)
    watcher = hub.loop.io(sock.fileno(), _READABLE)
    receive = sock._sock.recvmsg  # type: ignore[attr-defined]  # gevent's own would wait, which the hub cannot

    def ready() -> None:
        try:
            ended = take(receive)
        except BlockingIOError:
            return
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the reader's)
            watcher.stop()
            waiter.throw(error)
            return
        if ended:
            watcher.stop()
            waiter.switch(None)

    watcher.start(ready)
    try:
        waiter.get()
    finally:
        watcher.stop()
        watcher.close()
