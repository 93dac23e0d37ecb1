"""The streaming client's connections: kept, replaced, refused, over TLS, aborted, and to which addresses."""

import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from asking import ask, certificate, truth
from golden import Golden, golden
from waiting import wait_for

from bench.client.connection import Connection
from bench.client.target import target_of


def test_one_connection_serves_many_requests(server: Golden) -> None:
    connection = Connection(target_of(server.url))
    numbers, connects = set(), []
    for _ in range(5):
        connects.append(ask(server, connection=connection)["connect_s"])
        numbers.add(truth(server)["connection"])
    assert len(numbers) == 1
    assert connects[0] is not None
    assert connects[1:] == [None] * 4


def test_after_a_failure_the_next_request_has_a_new_connection(server: Golden) -> None:
    connection = Connection(target_of(server.url))
    assert ask(server, "then=garbage&after=1", connection=connection)["outcome"] == "protocol_error"
    assert ask(server, "then=hang&after=1", connection=connection, timeout_s=0.2)["outcome"] == "timeout"
    assert ask(server, connection=connection)["outcome"] == "ok"


@pytest.mark.parametrize("then", ["close_after", "close_on_next"])
def test_a_stale_connection_is_replaced_once_and_the_request_stamped_anew(server: Golden, then: str) -> None:
    connection = Connection(target_of(server.url))
    assert ask(server, f"then={then}", connection=connection)["outcome"] == "ok"
    before = truth(server)["connection"]
    record = ask(server, connection=connection)
    said = truth(server)
    assert record["outcome"] == "ok"
    assert said["connection"] > before
    assert record["scheduled"] < record["sent"] <= said["received_s"]
    assert record["sent"] >= record["scheduled"] + record["connect_s"]


def test_a_server_that_never_answers_is_not_asked_twice_on_a_fresh_connection(server: Golden) -> None:
    connection = Connection(target_of(server.url))
    record = ask(server, "then=cut&after=0", connection=connection)
    assert record["outcome"] == "protocol_error"
    assert record["http_status"] == 200


def test_nobody_listening_is_a_connection_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        record = ask(url)
    assert (record["outcome"], record["error_kind"], record["sent"]) == ("connection_error", "refused", None)


def test_a_name_that_does_not_resolve_is_a_connection_error() -> None:
    record = ask("http://no-such-host.invalid:1")
    assert (record["outcome"], record["error_kind"]) == ("connection_error", "dns")


def test_a_peer_that_closes_without_a_word_is_a_connection_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            listener.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        record = ask(f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert record["outcome"] == "connection_error"
    assert record["error_kind"] in ("no_response", "reset")


def test_ipv6(tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with golden(tmp_path, host="::1") as server:
        assert ask(server)["outcome"] == "ok"


def test_tls_is_verified_unless_told_otherwise(tmp_path: Path) -> None:
    pem = certificate(tmp_path)
    with golden(tmp_path, certificate=str(pem)) as server:
        refused = ask(server)
        assert (refused["outcome"], refused["error_kind"]) == ("connection_error", "tls_verify")
        for target in (
            target_of(server.url, ca_path=str(tmp_path / "cert.pem")),
            target_of(server.url, verify_tls=False),
        ):
            connection = Connection(target)
            records = [ask(server, connection=connection, max_tokens=40) for _ in range(2)]
            assert [record["outcome"] for record in records] == ["ok", "ok"]
            assert [len(record["chunk_s"]) for record in records] == [40, 40]
            assert records[1]["connect_s"] is None


def test_plain_http_to_a_tls_port_and_back_fail_cleanly(tmp_path: Path, server: Golden) -> None:
    with golden(tmp_path, certificate=str(certificate(tmp_path))) as secure:
        assert ask(secure.url.replace("https", "http"))["outcome"] in ("connection_error", "protocol_error")
    record = ask(server.url.replace("http", "https"), timeout_s=2.0)
    assert record["outcome"] in ("connection_error", "timeout")


def test_the_key_reaches_the_server_and_no_record(tmp_path: Path) -> None:
    key = "sk-very-secret-91"
    with golden(tmp_path, api_key=key) as server:
        connection = Connection(target_of(server.url, api_key=key))
        assert ask(server, connection=connection)["outcome"] == "ok"
        assert truth(server)["authorized"]
        wrong = Connection(target_of(server.url, api_key="sk-wrong-key"))
        refused = ask(server, connection=wrong)
        assert (refused["outcome"], refused["error_kind"]) == ("http_error", "http_401")
        assert refused["error"] == "Incorrect API key: Bearer ***"
        assert key not in repr(connection.target)
    assert all(key not in path.read_text() for path in tmp_path.iterdir())


def test_a_request_can_be_aborted_from_beside(server: Golden) -> None:
    connection = Connection(target_of(server.url))
    seen = len(server.log())
    records: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: records.append(ask(server, "then=hang&after=2", connection=connection)))
    asking.start()
    wait_for(lambda: len(server.log()) > seen)  # the server logs when it begins to hang
    connection.abort()
    asking.join(300)
    assert [(r["outcome"], len(r["chunk_s"]) <= 2) for r in records] == [("aborted", True)]


def test_threads_can_share_a_target(server: Golden) -> None:
    target = target_of(server.url)
    records: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: records.append(ask(server, connection=Connection(target)))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record["chunk_tokens"] for record in records] == [[1] * 8] * 16


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("http://ho st", "http://"),
        ("ftp://host", "http://"),
        ("http://", "http://"),
        ("http://host:99999", "port|Port"),
        ("http://user:secret@host", "user"),
        ("http://host/?a=b", "query"),
    ],
)
def test_a_target_that_is_no_base_url_is_refused(url: str, word: str) -> None:
    with pytest.raises(ValueError, match=word) as refusal:
        target_of(url)
    assert "secret" not in str(refusal.value)


def test_an_address_without_a_scheme_is_http(server: Golden) -> None:
    assert ask(server.url.removeprefix("http://"))["outcome"] == "ok"
    assert target_of("localhost:8000/v1").authority == "localhost:8000"


def test_localhost_works_where_a_server_listens_on_one_of_its_addresses(tmp_path: Path) -> None:
    with golden(tmp_path) as server:
        target = target_of(f"http://localhost:{target_of(server.url).port}")
        target._addresses[:] = [
            (socket.AF_INET6, ("::1", target.port, 0, 0)),
            (socket.AF_INET, ("127.0.0.1", target.port)),
        ]
        assert ask(server, connection=Connection(target))["outcome"] == "ok"
        assert target.addresses()[0][0] == socket.AF_INET  # the next connection tries no other


def test_headers_and_a_query_go_with_every_request_and_into_no_record(tmp_path: Path) -> None:
    with golden(tmp_path) as server:
        target = target_of(server.url, headers={"api-key": "k-81"}, query={"api-version": "2024-10-21"})
        assert ask(server, connection=Connection(target))["outcome"] == "ok"
        said = truth(server)
        assert said["path"] == "/v1/completions?api-version=2024-10-21"
        assert "api-key" in said["headers"]
        assert "k-81" in target.secrets and "k-81" not in repr(target)
    with pytest.raises(ValueError, match="header"):
        target_of("http://host", headers={"a b": "c"})
    with pytest.raises(ValueError, match="header"):
        target_of("http://host", headers={"a": "c\r\nd"})


def test_keys_and_certificates_that_cannot_work_are_refused(tmp_path: Path) -> None:
    for key in ("", "a\r\nX-Evil: 1", "clé"):
        with pytest.raises(ValueError, match="API key"):
            target_of("http://host", api_key=key)
    with pytest.raises(ValueError, match="CA file"):
        target_of("https://host", ca_path=str(tmp_path / "none.pem"))
    unverified = target_of("https://host", verify_tls=False).tls
    assert unverified is not None
    assert unverified.verify_mode == ssl.CERT_NONE


def test_a_long_prompt_arrives_whole(server: Golden) -> None:
    prompt = list(range(100_000))
    record = ask(server, prompt=prompt, max_tokens=1)
    assert (record["outcome"], record["prompt_tokens"]) == ("ok", 100_000)
