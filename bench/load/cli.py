"""`nbridge worker`."""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from serve.processes.process import OwnedProcess

_PAUSE_S = 0.5


def worker(
    master: Annotated[
        str, typer.Argument(metavar="HOST[:PORT]", help="The machine where `nbridge bench --workers` runs.")
    ],
    processes: Annotated[int, typer.Option(min=1, help="How many workers to be: one per core carries most.")] = 1,
) -> None:
    """Send loads for an `nbridge bench --workers` on another machine, cell after cell, until Ctrl-C.

    The API key of the server under load comes from this machine's environment, by the name that the bench uses. What
    is sent to and fro is neither encrypted nor authenticated: across networks that others use, take an SSH tunnel.
    """
    host, _, port = master.rpartition(":") if ":" in master else (master, "", "5557")
    if not host or not port.isdecimal():
        raise typer.BadParameter(f"{master}: expected HOST or HOST:PORT, such as 10.0.0.1:5557.", param_hint="HOST")
    locustfile = Path(__file__).with_name("locustfile.py")
    argv = [sys.executable, "-m", "locust", "-f", str(locustfile), "--worker", "--headless", "--only-summary"]
    argv += ["--master-host", host.strip("[]"), "--master-port", port, "--loglevel", "WARNING"]
    argv += ["--processes", str(processes)] if processes > 1 else []
    typer.echo(f"{processes} worker{'s' if processes > 1 else ''} for {host}:{port}; Ctrl-C ends", err=True)
    with tempfile.TemporaryDirectory(prefix="nbridge-worker-") as folder:
        log = Path(folder) / "locust.log"
        while True:  # a master is one cell's; the next cell has another one
            with OwnedProcess(argv, environment={**os.environ, "NBRIDGE_LOAD": "afar"}, log_path=log) as locust:
                while (status := locust.exit_status()) is None:
                    time.sleep(_PAUSE_S)
            if status:
                said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
                typer.echo(
                    f"a worker ended with status {status}: {' / '.join(said[-2:]) or 'it said nothing'}", err=True
                )
