"""`nbridge ray`: one model on a Ray cluster, with as many servers as its requests ask for."""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.errors import DeployError, NotStarted, SettingsError
from deploy.ray.settings import Settings, load


def ray(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML file with [engine], [ray] and [scaling].")],
    write: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only write Ray's own configuration, for serve run or deploy."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout when ready.")] = False,
) -> None:
    """Serve a model with Ray Serve until Ctrl-C: on this node's cluster, else on a Ray of its own."""
    from bench.cluster.connection import connected

    settings = load(file)
    if write is not None:
        _write(settings, write)
        return
    stopping = {"asked": 0}

    def on_signal(*_: Any) -> None:
        stopping["asked"] += 1
        if stopping["asked"] > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with connected("ray", _say, after_loss="Replicas that run go on: Ray Serve keeps them.") as module:
            _serve(settings, module, lambda: stopping["asked"] > 0, as_json)
    except NotStarted as error:
        said = DeployError(error.text)
        said.exit_code = error.exit_code
        raise said from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve(settings: Settings, module: Any, should_stop: Any, as_json: bool) -> None:
    from deploy.ray.running import Running

    running = Running(settings, module, _say)
    running.deploy()
    try:
        if not running.wait(should_stop):
            raise KeyboardInterrupt
        document = {"base_url": running.url, "application": settings.door.name, "replicas": running.replicas}
        if as_json:
            print(json.dumps(document), flush=True)
        _say(f"{settings.engine.model} is ready at {running.url}, {document['replicas']} replicas; Ctrl-C ends it.")
        if settings.engine.api_key_env is None:
            _say("It asks for no key.")
        running.watch(should_stop)
        _say(f"Stopping; requests in work have {settings.door.drain_s:g} s. Ctrl-C again cuts them off.")
    finally:
        running.stop()


def _write(settings: Settings, path: Path) -> None:
    import yaml

    from deploy.ray.application import configuration

    try:
        path.write_text(yaml.safe_dump(configuration(settings), sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--write {path}: {error.strerror}.") from None
    _say(f"Written to {path}. serve run {path} on a node of the cluster, or serve deploy {path} -a http://HEAD:8265")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
