"""`nbridge gateway`: the gateway itself, its configuration alone, and what is done to it while it runs."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gateway.errors import SettingsError
from gateway.settings import Settings, load, parse_server

DATA = Path(".nbridge-gateway")
_DATA = typer.Option("--data", metavar="FOLDER", help="Folder for its configuration, socket and logs.")
_JSON = typer.Option("--json", help="One JSON document on stdout.")
_FROM_RUN = typer.Option("--from-run", metavar="RUN", help="Measured run to take the servers' capacities from.")


class _FileOrCommand(TyperGroup):
    """`nbridge gateway FILE` is `nbridge gateway run FILE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["run", *args]
        return super().resolve_command(ctx, args)


gateway = typer.Typer(
    cls=_FileOrCommand,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="One door in front of many servers: nbridge gateway FILE.toml starts it, the rest is done to a running one.",
)


@gateway.command()
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML file with servers, policy and limits.")],
    data: Annotated[Path, _DATA] = DATA,
    from_run: Annotated[Path | None, _FROM_RUN] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Start HAProxy and its agent, and keep both until Ctrl-C. SIGHUP reads the file anew."""
    from gateway.running import Running, locked

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with locked(data), _signals() as seen:
        running = Running(file, data, say, lambda settings: _with_run(settings, from_run))
        running.start()
        try:
            document = {
                "base_url": running.url,
                "metrics_url": running.metrics_url,
                "data": str(running.data),
                "pid": os.getpid(),
                "haproxy_pid": running.pid("haproxy"),
                "agent_pid": running.pid("agent"),
                "cloud_pid": running.pid("cloud") if running.settings.cloud else None,
                "models": list(running.settings.models),
            }
            if as_json:
                print(json.dumps(document), flush=True)
            say(f"The gateway is at {running.url} (models: {', '.join(running.settings.models)}); Ctrl-C ends it.")
            if not (running.settings.gateway.api_keys_env or running.settings.gateway.api_keys_file):
                say("It asks for no key.")
            running.watch(lambda: seen["end"], lambda: seen.pop("reload", False))
            say(f"Stopping; requests in work have {running.settings.limits.drain_s:g} s. Ctrl-C again cuts them off.")
            running.drain(lambda: seen["now"])
        finally:
            running.stop()


@gateway.command()
def render(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML file with servers, policy and limits.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write all files there. [default: print the configuration]")
    ] = None,
    engine: Annotated[str, typer.Option(help="haproxy, or nginx (open source), with which much is lost.")] = "haproxy",
    from_run: Annotated[Path | None, _FROM_RUN] = None,
    agent_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of an agent. [default: no agent checks]")
    ] = None,
) -> None:
    """Write the configuration alone, for a HAProxy or nginx of your own."""
    from gateway import nginx
    from gateway.fleet import replace_text
    from gateway.following import expanded
    from gateway.haproxy.render import CONFIG, Places, rendered
    from gateway.keys import user_keys

    settings = _with_run(expanded(load(file)), from_run)
    if 0 in (settings.gateway.port, settings.gateway.metrics_port):
        raise SettingsError(f"{file}: port = 0 is for a gateway that is started; to render it, name a port.")
    folder = (out or Path()).absolute()
    if engine == "haproxy":
        files = rendered(settings, Places(folder, folder / "haproxy.sock", agent_port), user_keys(settings))
    elif engine == "nginx":
        files = {"nginx.conf": nginx.rendered(settings, user_keys(settings))}
        for line in nginx.LOST:
            print(f"lost with nginx: {line}", file=sys.stderr)
    else:
        raise SettingsError(f"--engine {engine!r}: expected haproxy or nginx.")
    if out is None:
        print(files[CONFIG if engine == "haproxy" else "nginx.conf"])
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            replace_text(folder / name, text)
    except OSError as error:
        raise SettingsError(f"--out {out}: {error.strerror}.") from None
    print(f"Written to {folder}: {', '.join(sorted(files))}", file=sys.stderr)


@gateway.command()
def cloud(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML file with [[cloud]].")],
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where `render --out` wrote its files.")],
) -> None:
    """Run the door to clouds alone, for a HAProxy of your own. `nbridge gateway FILE` starts it by itself."""
    import asyncio

    from gateway.cloud import process
    from gateway.keys import upstream_keys

    settings, place = load(file), folder.absolute()
    if not settings.cloud:
        raise SettingsError(f"{file}: there is no [[cloud]].")
    upstream_keys(settings)
    process.rules(settings)  # a price that is missing is said here
    given = process.document(settings, place, place / "haproxy.sock")
    print(f"The door to clouds listens at {place / 'cloud.sock'}; Ctrl-C ends it.", file=sys.stderr)
    try:
        asyncio.run(process.serve(place, given))
    except KeyboardInterrupt:
        return
    except OSError as error:
        raise SettingsError(f"--out {folder}: {error.strerror}.") from None


@gateway.command()
def status(data: Annotated[Path, _DATA] = DATA, as_json: Annotated[bool, _JSON] = False) -> None:
    """Every server, whether it is in, and why not. Exit code 1 when a model has no server."""
    from rich.console import Console

    from gateway import operations
    from planning.tables import table

    document = operations.status(data)
    if as_json:
        print(json.dumps(document, ensure_ascii=False))
    else:
        shown = table()
        for head in ("server", "model", "state", "weight", "HAProxy", "requests", "reason"):
            shown.add_column(head)
        for name, one in document["servers"].items():
            words = (one["state"], f"{one['percent']} %", one["haproxy"], one["requests"], one["reason"])
            shown.add_row(name, one["model"], *("–" if word is None else str(word) for word in words))
        Console().print(shown)
        for line in operations.money(document["clouds"]):
            print(line)
        if document["retries"] == "off":
            print("The retry budget is spent: failed requests are not repeated for now.", file=sys.stderr)
    if document["without_server"]:
        print(f"No server is up for: {', '.join(document['without_server'])}", file=sys.stderr)
        raise typer.Exit(1)


@gateway.command()
def add(
    name: Annotated[str, typer.Argument(help="A name for the server.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="Its address.")],
    model: Annotated[str, typer.Option(help="The model that it serves; one that the gateway knows.")],
    capacity: Annotated[float | None, typer.Option(help="Relative to the model's other servers.")] = None,
    places: Annotated[int, typer.Option(min=1, help="Most requests at once.")] = 256,
    api_key_env: Annotated[str | None, typer.Option(help="NAME of the variable with its key.")] = None,
    data: Annotated[Path, _DATA] = DATA,
) -> None:
    """Let another server in, without a reload."""
    from gateway import operations

    values = {"name": name, "url": url, "model": model, "capacity": capacity, "places": places}
    values["api_key_env"] = api_key_env
    operations.add(data, parse_server(values, "nbridge gateway add"))
    print(f"{name} is added; it takes requests as soon as it answers.", file=sys.stderr)


@gateway.command()
def drain(
    name: Annotated[str, typer.Argument(help="The server.")],
    off: Annotated[bool, typer.Option("--off", help="Let it take requests again.")] = False,
    data: Annotated[Path, _DATA] = DATA,
) -> None:
    """Let a server end its requests and take no new ones."""
    from gateway import operations

    operations.drain(data, name, on=not off)
    print(f"{name} {'takes requests again' if off else 'takes no new requests'}.", file=sys.stderr)


@gateway.command()
def remove(
    name: Annotated[str, typer.Argument(help="The server.")],
    deadline_s: Annotated[float, typer.Option("--deadline", min=0, help="Seconds for its requests to end.")] = 60.0,
    data: Annotated[Path, _DATA] = DATA,
) -> None:
    """Drain a server, wait for its requests, and take it out."""
    from gateway import operations

    cut = operations.remove(data, name, deadline_s)
    print(f"{name} is out; {cut} of its requests were cut off." if cut else f"{name} is out.", file=sys.stderr)


@gateway.command("load")
def load_adapter(
    name: Annotated[str, typer.Argument(help="What users will ask for as a model.")],
    path: Annotated[str, typer.Argument(help="The LoRA adapter, where the servers find it: a folder, or a hub name.")],
    model: Annotated[str, typer.Option(help="The model that it is of; one that the gateway knows.")],
    data: Annotated[Path, _DATA] = DATA,
) -> None:
    """Have all servers of a model load a LoRA adapter, try it at each, and let users ask for it."""
    from gateway import operations
    from gateway.settings import parse_adapter

    place = str(Path(path).absolute()) if Path(path).exists() else path
    values = {"name": name, "path": place, "model": model}
    have = operations.load_adapter(data, parse_adapter(values, "nbridge gateway load"))
    print(f"{name} is served by {', '.join(have)}.", file=sys.stderr)


@gateway.command("unload")
def unload_adapter(
    name: Annotated[str, typer.Argument(help="The adapter.")],
    deadline_s: Annotated[float, typer.Option("--deadline", min=0, help="Seconds for its requests to end.")] = 60.0,
    data: Annotated[Path, _DATA] = DATA,
) -> None:
    """Let nobody ask for an adapter any more, wait for its requests, and have all servers unload it."""
    from gateway import operations

    left, refused = operations.unload_adapter(data, name, deadline_s)
    for words in refused:
        print(words, file=sys.stderr)
    print(f"{name} is out; {left} of its requests were in work." if left else f"{name} is out.", file=sys.stderr)


def _with_run(settings: Settings, run_folder: Path | None) -> Settings:
    if run_folder is None:
        return settings
    from bench.run.store import open_run
    from gateway.capacity import with_capacities

    return with_capacities(settings, open_run(run_folder).document)


@contextlib.contextmanager
def _signals() -> Iterator[dict[str, bool]]:
    """What signals have asked for: "end" (SIGINT, SIGTERM), "now" (again) and "reload" (SIGHUP)."""
    seen = {"end": False, "now": False}

    def end(_number: int, _frame: FrameType | None) -> None:
        seen["now"] = seen["end"]
        seen["end"] = True

    def reload(_number: int, _frame: FrameType | None) -> None:
        seen["reload"] = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, reload)
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
