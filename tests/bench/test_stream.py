"""The streaming client against the golden server: what it stamps is compared with what the server says it sent."""

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter as now
from typing import Any

import pytest
from golden import Golden, golden
from waiting import wait_for

from bench.client import stream
from bench.client.connection import Connection
from bench.client.pages import fetch, metrics, models
from bench.client.target import target_of

MODEL = "golden?ttft_s=0.02&gap_s=0.004"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Golden]:
    with golden(tmp_path_factory.mktemp("golden")) as running:
        yield running


def ask(
    server: Golden | str,
    options: str = "",
    *,
    connection: Connection | None = None,
    endpoint: str = "completions",
    prompt: Any = "one two three",
    max_tokens: int = 8,
    timeout_s: float = 300.0,
) -> dict[str, Any]:
    if connection is None:
        connection = Connection(target_of(server if isinstance(server, str) else server.url))
    body = {"prompt": prompt, "max_tokens": max_tokens, "scenario": "test"}
    model = MODEL + ("&" + options if options else "")
    what = stream.request(connection.target, body, request_id="r", model=model, endpoint=endpoint)
    return stream.complete(connection, what, scheduled_s=now(), timeout_s=timeout_s)


def truth(server: Golden) -> dict[str, Any]:
    """What the server says about its last completion."""
    return server.log()[-1]


def assert_in_order(record: dict[str, Any]) -> None:
    instants = ("scheduled", "sent", "headers", "first_token", "last_token", "ended")
    times = [record[name] for name in instants if record[name] is not None]
    assert times == sorted(times)
    assert record["chunk_s"] == sorted(record["chunk_s"])


@pytest.mark.parametrize("body", ["chunked", "extended", "length", "close"])
@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_every_chunk_is_found_and_none_before_the_server_sent_it(server: Golden, body: str, endpoint: str) -> None:
    record = ask(server, f"body={body}", endpoint=endpoint)
    said = truth(server)
    assert (record["outcome"], record["error_kind"], record["http_status"]) == ("ok", None, 200)
    assert (record["output_tokens"], record["chunk_tokens"], record["cached_tokens"]) == (8, [1] * 8, 2)
    assert record["prompt_tokens"] == 3
    assert_in_order(record)
    assert record["sent"] <= said["received_s"]
    assert len(record["chunk_s"]) == len(said["events"]) == 8
    assert all(seen >= sent for seen, (sent, _) in zip(record["chunk_s"], said["events"], strict=True))


def test_the_request_says_what_was_asked(server: Golden) -> None:
    ask(server, prompt=[5, 6, 7], max_tokens=2)
    said = truth(server)
    assert (said["method"], said["path"]) == ("POST", "/v1/completions")
    assert said["body"] == {
        "model": MODEL,
        "prompt": [5, 6, 7],
        "max_tokens": 2,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


def test_a_path_prefix_and_a_trailing_v1_are_understood(server: Golden) -> None:
    assert ask(f"{server.url}/deep/er/")["outcome"] == "ok"
    assert truth(server)["path"] == "/deep/er/v1/completions"
    assert ask(f"{server.url}/deep/v1")["outcome"] == "ok"
    assert truth(server)["path"] == "/deep/v1/completions"


def test_gaps_at_four_tokens_per_event_are_the_servers_own(server: Golden) -> None:
    def agree() -> bool:
        record = ask(server, "per_event=4&gap_s=0.005", max_tokens=32)
        sent = [time for time, _ in truth(server)["events"]]
        assert record["chunk_tokens"] == [4] * 8
        theirs, ours = ([b - a for a, b in pairwise(times)] for times in (sent, record["chunk_s"]))
        # the whole span has no room for error but the delay of its two ends
        spans = record["last_token"] - record["first_token"], sent[-1] - sent[0]
        return median(ours) == pytest.approx(median(theirs), rel=0.25) and spans[0] == pytest.approx(spans[1], abs=0.05)

    wait_for(agree)  # other work on the machine may wake the client late for one answer; a client at fault always is


def test_events_that_share_a_read_are_counted(server: Golden) -> None:
    def four_reads() -> dict[str, Any] | None:
        record = ask(server, "per_send=4&gap_s=0.025", max_tokens=16)
        assert len(record["chunk_s"]) == 16
        assert record["coalesced_reads"] == len(set(record["chunk_s"]))  # a client that wakes late has fewer reads
        return record if len(set(record["chunk_s"])) == 4 else None

    assert wait_for(four_reads)


def test_an_event_in_two_sends_is_stamped_by_its_second_half(server: Golden) -> None:
    record = ask(server, "halves=1")
    assert record["outcome"] == "ok"
    assert all(seen >= sent for seen, (sent, _) in zip(record["chunk_s"], truth(server)["events"], strict=True))


@pytest.mark.parametrize(("usage", "tokens"), [("chunk", [1] * 8), ("end", [1] * 8), ("none", None)])
def test_token_counts_are_the_servers(server: Golden, usage: str, tokens: list[int] | None) -> None:
    record = ask(server, f"usage={usage}")
    assert record["outcome"] == "ok"
    assert record["chunk_tokens"] == tokens
    assert record["output_tokens"] == (None if usage == "none" else 8)


@pytest.mark.parametrize(
    ("options", "outcome", "kind", "chunks", "words"),
    [
        ("then=cut&after=3", "protocol_error", "early_close", 3, "closed before"),
        ("then=reset&after=3", "connection_error", "reset", None, ""),
        ("then=bad_chunk&after=3", "protocol_error", "bad_framing", 3, "chunk size"),
        ("then=garbage&after=3", "protocol_error", "garbage", 3, "broken"),
        ("then=error_event&after=3", "http_error", "stream_error", 3, "the engine fell over"),
        ("then=trailing", "protocol_error", "trailing_garbage", 8, "what?"),
        ("then=plain", "protocol_error", "not_sse", 0, "all at once"),
        ("then=redirect", "http_error", "redirect", 0, "http://elsewhere"),
        ("then=cut&after=0&body=close", "protocol_error", "early_close", 0, "[DONE]"),
        ("status=500", "http_error", "http_500", 0, "status 500 as asked"),
        ("status=429", "rate_limited", "http_429", 0, "status 429 as asked"),
        ("status=404", "http_error", "http_404", 0, "status 404 as asked"),
    ],
)
def test_each_failure_has_its_outcome(
    server: Golden, options: str, outcome: str, kind: str, chunks: int | None, words: str
) -> None:
    record = ask(server, options)
    assert (record["outcome"], record["error_kind"]) == (outcome, kind)
    assert words in record["error"]
    assert chunks is None or len(record["chunk_s"]) == chunks
    assert record["ended"] >= record["sent"]
    assert_in_order(record)
    assert json.loads(json.dumps(record)) == record


def test_a_finish_reason_and_a_clean_end_are_an_answer(server: Golden) -> None:
    record = ask(server, "then=no_done")
    assert (record["outcome"], record["notes"], record["finish_reason"]) == ("ok", ["no_done"], "length")


def test_a_done_alone_is_how_an_answer_is_broken_off(server: Golden) -> None:
    """What llama-cpp-python sends when the next request comes; a server that never gives a reason is another matter."""
    for after, chunks in ((0, 0), (3, 3)):
        record = ask(server, f"then=break_off&after={after}")
        assert (record["outcome"], record["error_kind"], len(record["chunk_s"])) == (
            "protocol_error",
            "early_close",
            chunks,
        )
        assert "broke the answer off" in record["error"]


def test_a_hanging_server_is_a_timeout_with_what_came(server: Golden) -> None:
    record = ask(server, "then=hang&after=3", timeout_s=1)
    assert (record["outcome"], record["error_kind"], len(record["chunk_s"])) == ("timeout", "deadline", 3)
    assert record["ended"] - record["sent"] >= 0.99


def test_the_timeout_is_for_the_whole_request_and_not_for_each_read(server: Golden) -> None:
    record = ask(server, "gap_s=0.1", max_tokens=200, timeout_s=1)
    assert record["outcome"] == "timeout"
    assert 1 <= len(record["chunk_s"]) <= 11


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


def certificate(folder: Path) -> Path:
    pem = folder / "self-signed.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", pem, "-out", folder / "cert.pem"], check=True, capture_output=True)
    pem.write_text(pem.read_text() + (folder / "cert.pem").read_text())
    return pem


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
    while len(server.log()) == seen:  # the server logs when it begins to hang
        pass
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


def test_a_long_prompt_arrives_whole(server: Golden) -> None:
    prompt = list(range(100_000))
    record = ask(server, prompt=prompt, max_tokens=1)
    assert (record["outcome"], record["prompt_tokens"]) == ("ok", 100_000)


def test_metrics_and_models(server: Golden) -> None:
    target = target_of(server.url)
    text = metrics(target)
    assert text is not None
    assert "vllm:generation_tokens_total" in text
    assert [entry["id"] for entry in models(fetch(target, "/v1/models").document())] == ["golden"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nobody = target_of(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert metrics(nobody, timeout_s=0.1) is None
        with pytest.raises(OSError, match="/v1/models"):
            fetch(nobody, "/v1/models", timeout_s=0.1)


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


def test_prompts_that_do_not_fit_the_endpoint_are_refused() -> None:
    target = target_of("http://host")
    with pytest.raises(ValueError, match="chat"):
        stream.request(target, {"prompt": [1], "max_tokens": 1}, request_id="r", model="m", endpoint="chat")
    with pytest.raises(ValueError, match="prompt"):
        stream.request(target, {"messages": [], "max_tokens": 1}, request_id="r", model="m")
