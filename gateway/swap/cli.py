"""`nbridge swap`: one server of a running gateway exchanged for another."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.errors import SettingsError

if TYPE_CHECKING:
    from gateway.settings import Server

_PROCESS_BYTES = 2 << 30  # of a CPU server beside weights and cache: Python, torch and its buffers in three processes


def swap(
    old: Annotated[str, typer.Argument(metavar="OLD", help="Name of the server that goes.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Address of a running server, or a profile to start one.")],
    name: Annotated[str | None, typer.Option(help="Name of the new server. [default: OLD and a number]")] = None,
    step_s: Annotated[float, typer.Option("--step", min=0.1, help="Seconds that each share is watched for.")] = 15.0,
    slower: Annotated[float, typer.Option(min=1, help="How many times slower the new one may begin (P95).")] = 1.5,
    deadline_s: Annotated[float, typer.Option("--deadline", min=0, help="Seconds for OLD's requests to end.")] = 60.0,
    gap: Annotated[
        bool, typer.Option("--gap", help="Stop OLD before NEW starts; for what does not fit twice.")
    ] = False,
    data: Annotated[Path, typer.Option("--data", metavar="FOLDER", help="The gateway's folder.")] = Path(
        ".nbridge-gateway"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Exchange a server of a running gateway for another under load; all stays as it was when the new one fails."""
    from gateway import operations
    from gateway.settings import parse_server
    from gateway.swap import exchange

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    servers = {one.name: one for one in operations.now(data).server}
    if old not in servers:
        raise SettingsError(f"The gateway has no server {old!r}; it has {', '.join(servers)}.")
    known = servers[old]
    called = name or next(one for n in range(2, 10**6) if (one := f"{old}-{n}") not in servers)

    def server() -> "Server":
        values: dict[str, Any] = {**known.model_dump(exclude={"process"}), "name": called, "capacity": known.capacity}
        if not Path(new).is_file():
            return parse_server({**values, "url": new}, "nbridge swap")
        say(f"starting {called} ({new}); its log: {data / f'{called}.log'}")
        url, pid = exchange.started(Path(new), known.model, data / f"{called}.log")
        return parse_server({**values, "url": url, "process": pid}, "nbridge swap")

    if Path(new).is_file() and not gap:
        _check_room(Path(new), exchange.check_fits)
    gap_s = None
    if gap:
        cut, gap_s = exchange.with_gap(data, old, server, deadline_s=deadline_s)
    else:
        made = server()
        try:
            cut = exchange.exchange(data, old, made, step_s=step_s, slower=slower, deadline_s=deadline_s, say=say)
        except BaseException:
            exchange.ended(made)
            raise
        if not exchange.ended(known):
            say(f"{old} gets no requests any more; end it where you started it.")
    words = f"nobody answered for {gap_s:.1f} s" if gap_s is not None else "without a gap"
    say(f"{called} is in and {old} is out, {words}; {cut} requests of {old} were cut off.")
    if as_json:
        print(json.dumps({"old": old, "new": called, "cut": cut, "gap_s": gap_s}))


def _check_room(profile: Path, check: Any) -> None:
    """Refuse a profile whose server finds no room beside what runs now."""
    import psutil

    from checkpoints.prepare import prepare
    from serve.engine.settings import load_profile
    from serve.processes.gpu_memory import total_and_free_bytes

    settings = load_profile(profile)
    if memory := total_and_free_bytes():
        # vLLM takes its share of every GPU, whatever the model needs of it.
        check(memory[0] * (settings.gpu_memory_utilization or 0.92), memory[1], "GPU memory")
        return
    weights = prepare(settings.model, settings.quantization or "none").weights_bytes or 0
    cache = (settings.cpu_kv_cache_gib or 1) << 30
    check(weights + cache + _PROCESS_BYTES, psutil.virtual_memory().available, "memory")
