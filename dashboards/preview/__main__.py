"""`python -m dashboards.preview --prometheus URL --out FOLDER` draws the boards without Grafana."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from dashboards.errors import DashboardError, SettingsError
from dashboards.grafana.boards import BOARDS
from dashboards.preview.page import ask, render
from dashboards.preview.source import Prometheus


def preview(
    prometheus: Annotated[str, typer.Option(help="Base URL of a Prometheus.")] = "http://127.0.0.1:9090",
    out: Annotated[Path, typer.Option(help="Folder for the pages, one a board.")] = Path(),
    board: Annotated[list[str] | None, typer.Option(help="A board's name; repeatable. [default: all]")] = None,
    minutes: Annotated[float, typer.Option(help="How long a time to show.", min=0.1)] = 60.0,
    end: Annotated[float | None, typer.Option(help="Unix time at which it ends. [default: now]")] = None,
    scrape_interval: Annotated[float, typer.Option(help="Seconds between two scrapes.", min=0.1)] = 5.0,
    setting: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of a variable; repeatable.")] = None,
    note: Annotated[str, typer.Option(help="A sentence to put under the board.")] = "",
) -> None:
    """Draw boards as HTML pages from a Prometheus' answers, and print the pages' paths."""
    names = [one.slug for one in BOARDS]
    if strangers := set(board or ()) - set(names):
        raise SettingsError(f"There is no board {min(strangers)!r}; there are {', '.join(names)}.")
    pairs = [one.partition("=") for one in setting or ()]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        raise SettingsError(f"--set {wrong[0]!r} is not NAME=VALUE.")
    source = Prometheus(prometheus)
    end_s = time.time() if end is None else end
    out.mkdir(parents=True, exist_ok=True)
    for one in BOARDS:
        if board and one.slug not in board:
            continue
        own = {name: value for name, _, value in pairs if name in {variable.name for variable in one.variables}}
        asked = ask(one, source, start_s=end_s - minutes * 60, end_s=end_s, scrape_s=scrape_interval, own=own)
        path = out / f"{one.slug}.html"
        path.write_text(render(one, source, asked, note=note), encoding="utf-8")
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    try:
        typer.run(preview)
    except DashboardError as error:
        sys.stderr.write(f"preview: {error}\n")
        sys.exit(error.exit_code)
