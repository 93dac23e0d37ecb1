"""`nbridge hidden`: a server's hidden states into a file. `nbridge align`: train and judge a W-matrix."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from alignment.maps import Method

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
_Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
_KeyEnv = Annotated[str, typer.Option(metavar="NAME", help="The environment variable that holds the API key.")]
_LAYERS = 'A block number from 0, or from the end as -2; several as -4,-3,-2; "all"; embeddings; final_norm.'


def hidden(
    prompt: Annotated[list[str] | None, typer.Argument(help="Prompts.")] = None,
    *,
    out: Annotated[Path, typer.Option(help="File to write: .npz or .safetensors.")],
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="Text, one a line, or .jsonl.")] = None,
    url: Annotated[str | None, typer.Option(help="The server. [default: $VLLM_BASE_URL]")] = None,
    model: Annotated[str | None, typer.Option(help="[default: $VLLM_MODEL_NAME, else the server's]")] = None,
    api_key_env: _KeyEnv = "VLLM_API_KEY",
    layers: Annotated[str, typer.Option(help=_LAYERS)] = "-2",
    pooling: Annotated[Literal["last", "mean", "all"], typer.Option(help="all: of every token.")] = "last",
    batch: Annotated[int, typer.Option(min=1, help="Most prompts in one request.")] = 32,
    concurrency: Annotated[int, typer.Option(min=1, help="Most requests at a time.")] = 4,
    force: _Force = False,
    as_json: _Json = False,
) -> None:
    """Ask a server for the hidden states of prompts and write them to a file, with what they are of."""
    from alignment import states, tensors
    from alignment.collect import collect
    from alignment.errors import BadInput
    from alignment.prompts import read_prompts
    from serve.client import Client

    given = [*(prompt or []), *(read_prompts(prompts) if prompts else [])]
    if not given:
        raise BadInput("There are no prompts: give some as arguments, or a file with --prompts FILE.")
    tensors.check_writable(out, force=force)
    with (
        Client(
            base_url=url, model=model, api_key_env=api_key_env, max_prompts=batch, concurrency=concurrency
        ) as client,
        _progress("hidden states") as on_progress,
    ):
        found = collect(client, given, layers=_layers(layers), pooling=pooling, on_progress=on_progress)
    states.save(found, out, force=force)
    tokens = sum(found.prompt_tokens)
    if as_json:
        facts = {name: value for name, value in found.document().items() if name != "prompt_sha256"}
        print(json.dumps({"path": str(out), **facts, "prompt_tokens": tokens, "shape": list(found.values.shape)}))
        return
    what = f"layer {', '.join(map(str, found.layers))}, pooling {pooling}, hidden size {found.hidden_size}"
    print(f"{out}: {len(given)} prompts ({tokens} tokens) of {found.model}, {what}")


def align(
    source: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Source server; several make an ensemble.")
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="URL", help="Target server.")] = None,
    source_states: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="… or its saved states.")] = None,
    target_states: Annotated[Path | None, typer.Option(metavar="FILE", help="… or its saved states.")] = None,
    source_key_env: _KeyEnv = "VLLM_API_KEY",
    target_key_env: _KeyEnv = "VLLM_API_KEY",
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text, one a line, or .jsonl. [default: Python's library]")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many prompts of Python's library.")] = 3000,
    layers: Annotated[str, typer.Option(help=f"The source's. {_LAYERS}")] = "-2",
    target_layers: Annotated[str | None, typer.Option(help="The target's. [default: as --layers]")] = None,
    combine: Annotated[
        Literal["concat", "mean"], typer.Option(help="Several layers: side by side, or their mean.")
    ] = "concat",
    pooling: Annotated[Literal["last", "mean"], typer.Option(help="mean: over a prompt's tokens.")] = "last",
    method: Annotated[list[str] | None, typer.Option(help="procrustes, whitened, cca, ridge. [default: all]")] = None,
    unequal: Annotated[Literal["pad", "pca"], typer.Option(help="Rotations of unequal widths.")] = "pad",
    weights: Annotated[str | None, typer.Option(help="Of several sources, as 0.5,0.3,0.2. [default: chosen]")] = None,
    test_share: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of prompts held out.")] = 0.2,
    validation_share: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share to choose settings on.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the split, the bootstrap and the random rotation.")] = 0,
    allow_embeddings_api: Annotated[
        bool, typer.Option("--allow-embeddings-api", help="A source that is not healthy: take --embeddings-url.")
    ] = False,
    embeddings_url: Annotated[str | None, typer.Option(metavar="URL", help="OpenAI-compatible /v1/embeddings.")] = None,
    embeddings_model: Annotated[str | None, typer.Option(help="Its model.")] = None,
    embeddings_key_env: _KeyEnv = "OPENAI_API_KEY",
    out: Annotated[Path | None, typer.Option(help="Folder to write. [default: runs/align-<time>]")] = None,
    keep_states: Annotated[bool, typer.Option("--keep-states", help="Also write the states to the folder.")] = False,
    force: _Force = False,
    as_json: _Json = False,
) -> None:
    """Train W-matrices from one model's hidden states to another's, and judge them on held-out prompts."""
    from alignment import states, training
    from alignment.errors import BadInput

    if bool(source) == bool(source_states) or bool(target) == bool(target_states):
        raise BadInput("Give --source URL or --source-states FILE, and --target URL or --target-states FILE.")
    options = training.Options(
        methods=_methods(method),
        layers=_layers(layers),
        target_layers=_layers(target_layers or layers),
        combine=combine,
        unequal=unequal,
        weights=_weights(weights),
        seed=seed,
        test_share=test_share,
        validation_share=validation_share,
    )
    folder = out or Path("runs") / f"align-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    _check_folder(folder, force=force)
    texts = _texts(prompts, count) if source or target else []
    fallback = {"base_url": embeddings_url, "model": embeddings_model, "api_key_env": embeddings_key_env}
    sources = (
        [states.load(path) for path in source_states]
        if source_states
        else [
            _source(url, source_key_env, texts, options.layers, pooling, fallback if allow_embeddings_api else None)
            for url in source or ()
        ]
    )
    if target_states:
        goal = states.load(target_states)
    else:
        goal = _collected(str(target), target_key_env, texts, options.target_layers, pooling)
    _say(f"fitting {', '.join(options.methods)}")
    done = training.align(sources, goal, options)
    document = {**done.document, "path": str(folder), "files": _write(done, folder)}
    if keep_states:
        for index, one in enumerate(sources):
            states.save(one, folder / f"source-{index}.npz", force=True)
        states.save(goal, folder / "target.npz", force=True)
    for warning in document["warnings"]:
        _say(f"warning: {warning}")
    _show(document)
    if as_json:
        print(json.dumps(document, ensure_ascii=False))


def _source(
    url: str, key_env: str, texts: Sequence[str], layers: Any, pooling: str, fallback: dict[str, Any] | None
) -> Any:
    """A source's states; where that was allowed, vectors of the embeddings API when it cannot give any."""
    from alignment.collect import collect_embeddings, embeddings_reason
    from alignment.errors import BadInput
    from serve.client import Client

    with Client(base_url=url, api_key_env=key_env) as client:
        reason = embeddings_reason(client, allowed=fallback is not None, say=_say)
    if reason is None:
        return _collected(url, key_env, texts, layers, pooling)
    if fallback is None or not fallback["base_url"] or not fallback["model"]:
        raise BadInput(f"{reason}: --allow-embeddings-api also needs --embeddings-url and --embeddings-model.")
    _say(f"{reason}: taking vectors of {fallback['model']} instead. The result is an approximation.")
    with Client(**fallback) as client, _progress(f"embeddings of {fallback['model']}") as on_progress:
        return collect_embeddings(client, texts, on_progress=on_progress)


def _collected(url: str, key_env: str, texts: Sequence[str], layers: Any, pooling: Any) -> Any:
    from alignment.collect import collect
    from serve.client import Client

    with Client(base_url=url, api_key_env=key_env) as client, _progress(f"states from {url}") as on_progress:
        return collect(client, texts, layers=layers, pooling=pooling, on_progress=on_progress)


def _texts(path: Path | None, count: int) -> list[str]:
    from alignment.prompts import read_prompts, standard_library_prompts

    return list(dict.fromkeys(read_prompts(path) if path else standard_library_prompts(count)))


def _write(done: Any, folder: Path) -> list[str]:
    """The W-matrices, alignment.json and the report; their names."""
    from alignment import report, wmatrix
    from alignment.errors import StorageError

    names = []
    for name, matrix in done.matrices.items():
        path = folder / f"w-{name}.safetensors"
        wmatrix.save(matrix, path, force=True)
        names.append(path.name)
    try:
        text = json.dumps(done.document, indent=2, ensure_ascii=False)
        (folder / "alignment.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{folder / 'alignment.json'} cannot be written: {error}.") from error
    return [*names, "alignment.json", *(path.name for path in report.write(done.document, folder))]


def _show(document: dict[str, Any]) -> None:
    """The figures as a table, and the result in a sentence, on stderr: stdout is for --json."""
    from rich.console import Console
    from rich.table import Table

    from alignment import report

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "centred cosine", "top-1 retrieval", "explained variance"):
        table.add_column(column, no_wrap=True)
    for row in document["methods"] + document["baselines"]:
        table.add_row(
            report.label(row["name"]), *(report.shown(row[name]) for name in ("cosine", "top1", "explained_variance"))
        )
    console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)
    console.print(table)
    console.print(report.headline(document), markup=False)
    console.print(f"{document['path']}: {', '.join(document['files'])}", markup=False, soft_wrap=True)


def _layers(text: str) -> Any:
    """ "-4,-3,-2" → (-4, -3, -2); names stay names; "all" stays itself. Raises BadInput."""
    from alignment.errors import BadInput

    if text.strip() == "all":
        return "all"
    found: list[int | str] = []
    for word in (part.strip() for part in text.split(",")):
        if word in {"embeddings", "final_norm"}:
            found.append(word)
            continue
        try:
            found.append(int(word))
        except ValueError:
            raise BadInput(f"Layers {text!r}: {word!r} is no layer. {_LAYERS}") from None
    return tuple(found)


def _methods(words: list[str] | None) -> tuple["Method", ...]:
    """The methods named, in order and each once; all for none. Raises BadInput."""
    from alignment.errors import BadInput
    from alignment.maps import METHODS

    found: list[Method] = []
    for word in words or METHODS:
        known = next((method for method in METHODS if method == word), None)
        if known is None:
            raise BadInput(f"--method {word!r} is none of {', '.join(METHODS)}.")
        found.append(known)
    return tuple(dict.fromkeys(found))


def _weights(text: str | None) -> tuple[float, ...] | None:
    from alignment.errors import BadInput

    if text is None:
        return None
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise BadInput(f"--weights {text!r}: numbers as 0.5,0.3,0.2 are expected.") from None


def _check_folder(folder: Path, *, force: bool) -> None:
    from alignment.errors import OutputExists, StorageError

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not force:
        raise OutputExists(f"{folder} exists and is not empty; name another folder with --out, or say --force.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be made: {error}.") from error


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; elsewhere a line for each tenth."""
    if not sys.stderr.isatty():
        told = 0

        def line(done: int, total: int) -> None:
            nonlocal told
            if 10 * done // total > told:
                told = 10 * done // total
                _say(f"{what}: {done} of {total} prompts")

        yield line
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
