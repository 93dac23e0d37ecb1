"""`nbridge dashboard`."""

import json
import os
import socket
from pathlib import Path
from typing import Annotated

import typer

HOST = "127.0.0.1"


def dashboard(
    runs: Annotated[
        Path | None, typer.Option(help="Folder of run folders (default: runs).", show_default=False)
    ] = None,
    server: Annotated[
        list[str] | None,
        typer.Option(help="A vLLM server to watch; repeatable (default: http://127.0.0.1:8000).", show_default=False),
    ] = None,
    exporter: Annotated[
        list[str] | None, typer.Option(help="A GPU exporter to read; repeatable.", show_default=False)
    ] = None,
    prometheus: Annotated[
        str | None, typer.Option(help="Read live figures from this Prometheus instead.", show_default=False)
    ] = None,
    alertmanager: Annotated[
        str | None,
        typer.Option(help="Show what fires at this Alertmanager (default: on port 9093, if any).", show_default=False),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the page (default: 8501).", show_default=False)] = None,
    allow_measuring: Annotated[
        bool,
        typer.Option("--allow-measuring", help="Let visitors from elsewhere (behind a proxy) start measurements too."),
    ] = False,
    settings: Annotated[
        Path | None, typer.Option(help="A TOML file with these settings and the refresh.", show_default=False)
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print address and settings to stdout first.")] = False,
) -> None:
    """Runs, live servers, capacity, cost and claims in the browser. Serves on 127.0.0.1 until Ctrl-C."""
    from dashboards.errors import PortTakenError
    from dashboards.settings import VARIABLE, load

    watched = {"servers": server, "exporters": exporter, "prometheus": prometheus, "alertmanager": alertmanager}
    flags = {"runs": runs, "port": port, "allow_measuring": allow_measuring or None, **watched}
    chosen = load(settings, flags)
    chosen = chosen.model_copy(update={"runs": chosen.runs.resolve()})
    if not _free(chosen.port):
        raise PortTakenError(
            f"port {chosen.port} on {HOST} is taken, perhaps by a dashboard that already runs "
            f"(http://{HOST}:{chosen.port}). Stop that one, or choose another port: nbridge dashboard --port "
            f"{chosen.port + 1}."
        )
    os.environ[VARIABLE] = chosen.model_dump_json()
    address = f"http://{HOST}:{chosen.port}"
    if as_json:
        print(json.dumps({"url": address, "settings": chosen.model_dump(mode="json")}), flush=True)
    else:
        typer.echo(f"dashboard: {address} (runs in {chosen.runs}; Ctrl-C ends it)", err=True)
    _serve(chosen.port, open_browser=open_browser)


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _serve(port: int, *, open_browser: bool) -> None:
    """Run Streamlit in this process, with what the pages import already loaded: the first visit need not wait."""
    import importlib
    import logging

    from streamlit.web import cli as streamlit_cli

    from dashboards.theme import OPTIONS

    for module in (
        "screens.benchmarks.charts",
        "screens.benchmarks.requests",
        "screens.benchmarks.view",
        "screens.compare.view",
        "screens.capacity.view",
        "screens.cost.view",
        "screens.live.view",
        "screens.live.replay",
    ):
        importlib.import_module(f"dashboards.{module}")
    logging.getLogger("streamlit").setLevel(logging.WARNING)
    options = {
        **OPTIONS,
        "server.address": HOST,
        "server.port": port,
        "server.headless": not open_browser,
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "viewer",
        "client.showErrorDetails": "none",
    }
    words = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in options.items()]
    streamlit_cli.main(["run", str(Path(__file__).parent / "app.py"), *words], standalone_mode=False)
