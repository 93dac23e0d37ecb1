"""Samples of a server: what does not answer leaves a gap, never a zero."""

import http.server
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from monitoring.sampler import Sampler, process_memory
from monitoring.scrape.metrics import MetricsError, fetch, parse, total

PAGE = """# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{engine="0"} 40
vllm:generation_tokens_total{engine="1"} 2
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 3
# TYPE python_info gauge
python_info 1
"""


@pytest.fixture
def serve_page() -> Iterator[Callable[[bytes, int], str]]:
    servers = []

    def serve(body: bytes, status: int = 200) -> str:
        class Page(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_several_engines_add_up_and_what_is_not_there_is_none() -> None:
    samples = parse(PAGE)
    assert total(samples, "vllm:generation_tokens_total") == 42
    assert total(samples, "vllm:generation_tokens_total", engine="1") == 2
    assert total(samples, "vllm:prompt_tokens_total") is None


@pytest.mark.parametrize(("body", "status"), [(b"<html>login</html>", 200), (b"", 503), (b'{"a": 1}', 200)])
def test_a_page_that_is_no_metrics_page_is_an_error(
    serve_page: Callable[[bytes, int], str], body: bytes, status: int
) -> None:
    with pytest.raises(MetricsError):
        parse(fetch(serve_page(body, status)))


def test_one_round_takes_the_series_that_matter(serve_page: Callable[..., str]) -> None:
    sampler = Sampler(serve_page(PAGE.encode()), lambda: [os.getpid()], clock=lambda: 12.5)
    sampler.take()
    server = {(r.name, r.labels): r.value for r in sampler.readings if r.source == "server"}
    assert server == {
        ("vllm:generation_tokens_total", '{"engine": "0"}'): 40,
        ("vllm:generation_tokens_total", '{"engine": "1"}'): 2,
        ("vllm:num_requests_running", '{"engine": "0"}'): 3,
    }
    (memory,) = [r for r in sampler.readings if r.source == "process"]
    assert memory.value > 10e6
    assert {r.at_s for r in sampler.readings} == {12.5}


def test_a_silent_server_and_a_dead_process_leave_gaps() -> None:
    sampler = Sampler("http://127.0.0.1:9", lambda: [2**22 + 1], interval_s=0.1)
    sampler.take()
    assert not [r for r in sampler.readings if r.source in ("server", "process")]
    assert process_memory([]) is None
