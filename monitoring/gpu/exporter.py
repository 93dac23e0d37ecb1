"""The GPU exporter: one page for Prometheus, served from the last collection, with canaries of servers beside it."""

import errno
import json
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from prometheus_client import CollectorRegistry, generate_latest

from monitoring.errors import PortTaken, SettingsError
from monitoring.gpu.collector import Collector
from monitoring.gpu.nvml import label
from monitoring.gpu.runbook_page import runbook_page
from monitoring.scrape.canary import Canaries
from monitoring.scrape.metrics import parse

# metric of one GPU or MIG device → (type, help), in the order of the page
DEVICE_METRICS = {
    "up": ("gauge", "1 when the GPU answered in the last collection; 0 when it is lost, fails, or hangs."),
    "info": ("gauge", "Always 1; the driver's version is a label."),
    "temperature_celsius": ("gauge", "Temperature of the GPU's chip."),
    "memory_temperature_celsius": ("gauge", "Temperature of the GPU's memory."),
    "temperature_limit_celsius": ("gauge", "Temperature at which the GPU slows down or shuts down."),
    "utilization_ratio": ("gauge", "Share of the last sample period in which a kernel ran, 0 to 1."),
    "memory_utilization_ratio": ("gauge", "Share of the last sample period in which memory was accessed, 0 to 1."),
    "memory_used_bytes": ("gauge", "Memory in use, the driver's own included."),
    "memory_total_bytes": ("gauge", "Memory of the device."),
    "process_memory_bytes": ("gauge", "Memory held by a process; the label name is the program's. The largest 64."),
    "power_watts": ("gauge", "Power drawn by the board."),
    "power_limit_watts": ("gauge", "Power limit in force."),
    "energy_joules_total": ("counter", "Energy drawn since the driver was loaded."),
    "clock_hertz": ("gauge", "Clock frequency now."),
    "clock_max_hertz": ("gauge", "Highest clock frequency of the board."),
    "fan_speed_ratio": ("gauge", "Intended fan speed as a share of the highest."),
    "throttle_seconds_total": (
        "counter",
        "Time with clocks held down, by reason, since the exporter started; a collection's time goes to what it saw.",
    ),
    "ecc_errors_total": ("counter", "Memory errors found by ECC since the driver was loaded or the GPU was reset."),
    "remapped_rows": ("gauge", "Memory rows replaced by spare ones, by the kind of error that caused it."),
    "row_remap_pending": ("gauge", "1 when a row waits for the next GPU reset to be replaced."),
    "row_remap_failure": ("gauge", "1 when a row could not be replaced."),
    "pcie_throughput_bytes_per_second": ("gauge", "PCIe traffic, counted for 20 ms in each collection."),
    "nvlink_bytes_total": ("counter", "Payload sent and received over all NVLinks."),
}  # fmt: skip
XIDS = ("nbridge_gpu_xid_errors_total", "Critical driver errors (XID) by code, since the exporter watches.")


def gpu_page(collector: Collector) -> str:
    """The GPUs' part of the page, from what was collected last. Waits for nobody.

    A GPU whose last answer is not current has `nbridge_gpu_up 0`, its XID counter, and no reading.
    """
    readers = list(collector.readers)
    oldest_s = collector.oldest_current_s()
    current = [(reader.device, reader.current(oldest_s)) for reader in readers]
    page: list[str] = []
    for metric, (kind, text) in DEVICE_METRICS.items():
        lines: list[str] = []
        for device, read in current:
            if read is not None:
                lines += read.get(metric, ())
            elif metric == "up":
                lines.append(f"nbridge_gpu_up{{{device.labels}}} 0\n")
        if metric == "up":
            lines += [f"nbridge_gpu_up{{{labels}}} 0\n" for labels in collector.nameless]
        _family(page, f"nbridge_gpu_{metric}", kind, text, lines)
    xids = [
        f'{XIDS[0]}{{{device.labels},xid="{xid}"}} {count}\n'
        for device, _ in current
        for xid, count in sorted(dict(device.xids or {}).items())
    ]
    _family(page, XIDS[0], "counter", XIDS[1], xids)
    _collection(page, collector)
    return "".join(page)


def _collection(page: list[str], collector: Collector) -> None:
    """What the exporter knows of its own collecting; what it does not know yet is absent."""
    known: list[tuple[str, str, float | None]] = [
        ("expected_count", "GPUs that should be here: as told, or the most that were ever seen.", collector.expected)
    ]
    if (last := collector.last) is not None:
        known += [
            ("last_collect_timestamp_seconds", "When a collection last brought an answer.", last.ended_unix_s),
            ("collect_duration_seconds", "Time that the last collection with an answer took.", last.took_s),
        ]
    for name, text, value in known:
        if value is not None:
            _family(page, f"nbridge_gpu_{name}", "gauge", text, [f"nbridge_gpu_{name} {value!r}\n"])
    errors = "nbridge_gpu_collect_errors_total"
    lines = [f"{errors}{{{label('error', word)}}} {count}\n" for word, count in sorted(dict(collector.errors).items())]
    _family(
        page, errors, "counter", "Collections of a GPU, or attempts to reach NVML, that failed; by NVML's error.", lines
    )


def _family(page: list[str], name: str, kind: str, text: str, lines: Iterable[str]) -> None:
    if lines:
        page.append(f"# HELP {name} {text}\n# TYPE {name} {kind}\n")
        page.extend(lines)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "nbridge-exporter", ""
    timeout = 120  # seconds that an idle connection is kept
    disable_nagle_algorithm = True
    wbufsize = 1 << 18  # head and body leave together: a page is some 70 kB
    render: ClassVar[Callable[[], bytes]]

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer(200, "text/plain; version=0.0.4; charset=utf-8", type(self).render())
            case "/health":
                self._answer(200, "application/json", b'{"status": "ok"}\n')
            case "/runbooks" if page := runbook_page():
                self._answer(200, "text/html; charset=utf-8", page)
            case "/":
                self._answer(200, "text/plain; charset=utf-8", b"nbridge exporter: see /metrics\n")
            case _:
                self._answer(404, "text/plain; charset=utf-8", b"no such page: see /metrics\n")

    do_HEAD = do_GET

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: a line per scrape tells nobody anything."""


class Exporter(ThreadingHTTPServer):
    """Listens from construction on and answers in threads of its own while `serve_forever` runs.

    `registry` holds what comes beside the GPUs. Raises SettingsError when the address cannot be listened on.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, collector: Collector, registry: CollectorRegistry) -> None:
        def render() -> bytes:
            return gpu_page(collector).encode() + generate_latest(registry)

        handler = type("Handler", (_Handler,), {"render": staticmethod(render)})
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            refused = f"--host {host} --port {port}: cannot listen there ({reason})."
            if getattr(error, "errno", None) == errno.EADDRINUSE:
                raise PortTaken(
                    f"{refused} Another exporter may be running: ss -ltnp 'sport = :{port}' says what holds the port; "
                    f"--port {port + 1} takes another, 0 any free one."
                ) from error
            raise SettingsError(
                f"{refused} --host is an address of this machine, --port a number from 0 (any free one) to 65535."
            ) from error

    def server_bind(self) -> None:
        """As TCPServer's: HTTPServer's looks the host's name up, which can take seconds without a name server."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections take it over: a page fits in, and is sent without waiting for who reads it.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _Handler.wbufsize)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-answer is its own affair; anything else is told with its traceback."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}"


def run(exporter: Exporter, collector: Collector, canaries: Canaries, tell: Callable[[str], None]) -> None:
    """Collect and answer until Ctrl-C or SIGTERM. To be called from the main thread."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts what it sends to the background with Ctrl-C ignored
        signal.signal(number, end)
    collector.start()
    canaries.start()
    threading.Thread(target=_mention_silence, args=(collector, tell), daemon=True).start()
    try:
        exporter.serve_forever()
    except KeyboardInterrupt:
        tell("Stopped.")
    finally:
        exporter.server_close()
        collector.stop()


def _mention_silence(collector: Collector, tell: Callable[[str], None]) -> None:
    if not collector.collected.wait(collector.interval_s + collector.deadline_s):
        tell(
            f"NVML has not come up within {collector.deadline_s:g} s: no GPU readings until it does. "
            "If nvidia-smi hangs too, the driver is stuck: its words are in dmesg, and a reboot is what helps."
        )


def once(collector: Collector, canaries: Canaries, registry: CollectorRegistry) -> str:
    """The page after one collection and one canary each; what does not answer in time is missing from it."""
    collector.start()
    for canary in canaries.canaries:
        canary.ask()
    collector.collected.wait(collector.interval_s + collector.deadline_s)
    collector.stop()
    return gpu_page(collector) + generate_latest(registry).decode()


def as_json(page: str) -> str:
    """A page as one JSON document: a list of {name, labels, value}."""
    return json.dumps([{"name": s.name, "labels": s.labels, "value": s.value} for s in parse(page)])
