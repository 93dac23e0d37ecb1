import asyncio

import pytest

from serve.processes import port

HOST = "127.0.0.1"


def test_a_picked_port_is_not_picked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By no process: what refuses it is the kernel. Whoever picked it can serve there, more than once."""
    picked = port.pick(HOST)
    monkeypatch.setattr("serve.processes.port.random.choice", lambda _: picked)
    assert port.is_free(HOST, picked)
    with pytest.raises(OSError, match=r"no free port on 127\.0\.0\.1 between 20000 and 31999"):
        port.pick(HOST)

    async def serve() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), HOST, picked)
        async with server:
            assert not port.is_free(HOST, picked)

    asyncio.run(serve())
    assert port.is_free(HOST, picked)
    asyncio.run(serve())


@pytest.mark.parametrize("host", ["0.0.0.0", "::1", "localhost"])
def test_a_port_is_picked_on_each_kind_of_address(host: str) -> None:
    assert port.is_free(host, port.pick(host))
