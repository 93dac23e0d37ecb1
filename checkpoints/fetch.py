"""Downloads a model from the hub, and says in words what to do when that fails.

The token comes from HF_TOKEN (or the hub's own login), the mirror from HF_ENDPOINT, never from an argument.
"""

import difflib
import errno
import glob
import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from checkpoints.cache import Progress, silent
from checkpoints.catalog import models
from checkpoints.errors import (
    AccessDenied,
    DiskFull,
    FetchFailed,
    HubUnreachable,
    OutputExists,
    RepositoryNotFound,
    UnknownModel,
)
from checkpoints.tensors.headers import INDEX_FILE, read_json, read_weights, shards_of

DEFAULT_ENDPOINT = "https://huggingface.co"
_WANTED_SUFFIXES = (".json", ".model", ".tiktoken", ".jinja", ".txt", ".md")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Fetched:
    """A downloaded model: its directory, the commit it is of, its files and the bytes of all of them."""

    name: str
    path: str
    revision: str | None
    files: tuple[str, ...]
    total_bytes: int


def fetch(name: str, *, revision: str | None = None, out: Path | None = None, progress: Progress = silent) -> Fetched:
    """Download a model's safetensors, configuration and tokenizer, and return where they are.

    `name` is `organisation/name`, or a catalogued architecture's name for the repository it is published in.
    Without `out`, the files go to the hub's own cache, where an engine finds them by the same name. A connection
    that is cut goes on in the middle of the file; a run that ends keeps the files that are complete, and the next
    one fetches the others.

    Raises AccessDenied, RepositoryNotFound, HubUnreachable, DiskFull, OutputExists, UnknownModel, FetchFailed,
    or BadCheckpoint when what arrived is not a whole model.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    name = _repository(name)
    if out is not None:
        _require_resumable(out)
    at = endpoint()
    try:
        info = HfApi(endpoint=at).model_info(name, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        shards = _shards(name, sizes, revision, out, at)
        chosen = choose_files(name, sizes, shards)
        total_bytes = sum(sizes[file] for file in chosen)
        _require_room(out, total_bytes)
        progress(f"{name}: {len(chosen)} files, {total_bytes / 1e9:.2f} GB")
        path = snapshot_download(
            name,
            revision=revision,
            local_dir=out,
            allow_patterns=[glob.escape(file) for file in chosen],
            endpoint=at,
        )
    except HFValidationError as error:
        raise UnknownModel(
            f"{name!r} is not the name of a repository on the hub, which is written organisation/name."
        ) from error
    except (HTTPError, OSError) as error:
        explain(error, name, revision, at or DEFAULT_ENDPOINT)
    read_weights(Path(path))
    return Fetched(name, str(path), info.sha, tuple(chosen), total_bytes)


def choose_files(name: str, files: Iterable[str], shards: Collection[str] | None = None) -> list[str]:
    """Return the files to download: safetensors, configuration and tokenizer at the repository's top level.

    `shards`: the files that an index names, whatever they are called and wherever they lie; what it does not name (a
    second copy in one piece, `consolidated.safetensors`) is left out. Without an index, all safetensors but such a copy
    are taken. Raises RepositoryNotFound when the repository holds no safetensors, saying what it holds instead.
    """
    there = set(files)
    top = sorted(file for file in there if "/" not in file and not file.startswith("."))
    weights = [file for file in top if file.endswith(".safetensors")]
    if shards is not None:
        weights = sorted(there.intersection(shards))
    elif any(file.startswith("model") for file in weights):
        weights = [file for file in weights if not file.startswith("consolidated")]
    if not weights:
        pickles = [file for file in top if PurePosixPath(file).suffix in _PICKLE_SUFFIXES]
        held = (
            f"its weights are only in pickle files ({pickles[0]}), and loading a pickle can run any code that its "
            "author put there, so they are not downloaded"
            if pickles
            else "it holds no *.safetensors at its top level"
        )
        raise RepositoryNotFound(
            f"{name} cannot be used: {held}. Look for a repository that publishes safetensors; most models have one."
        )
    others = [file for file in top if PurePosixPath(file).suffix in _WANTED_SUFFIXES or file.startswith("LICENSE")]
    return sorted({*weights, *others})


def _shards(
    name: str, files: Collection[str], revision: str | None, out: Path | None, at: str | None
) -> frozenset[str] | None:
    """The files that the repository's index names; None without one."""
    from huggingface_hub import hf_hub_download

    if INDEX_FILE not in files:
        return None
    path = Path(hf_hub_download(name, INDEX_FILE, revision=revision, local_dir=out, endpoint=at))
    return frozenset(shards_of(read_json(path)))


def _repository(name: str) -> str:
    known = models().get(name)
    if known is None:
        return name
    if known.hub_name is None:
        raise UnknownModel(f"{name} is made on this machine when it is used; there is nothing to download.")
    return known.hub_name


def _require_resumable(out: Path) -> None:
    if not out.exists():
        return
    begun = (out / ".cache" / "huggingface").is_dir()
    if not out.is_dir() or (any(out.iterdir()) and not begun):
        raise OutputExists(
            f"{out} exists and holds something other than a download begun by this command; nothing was "
            "overwritten. Name another output directory, or remove that one."
        )


def _require_room(out: Path | None, needed_bytes: int) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    place = (out or Path(HF_HUB_CACHE)).absolute()
    while not place.exists():
        place = place.parent
    free_bytes = shutil.disk_usage(place).free
    begun_bytes = _bytes_under(out) if out is not None else 0
    if needed_bytes - begun_bytes > free_bytes:
        raise DiskFull(
            f"The download needs {needed_bytes / 1e9:.1f} GB and {place} has {free_bytes / 1e9:.1f} GB free. Free "
            "some space, name a directory on another disk with --out, or move the hub's cache with HF_HOME."
        )


def _bytes_under(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def endpoint() -> str | None:
    """Return the mirror that HF_ENDPOINT names; None for the hub itself."""
    return os.environ.get("HF_ENDPOINT") or None


def explain(error: Exception, name: str, revision: str | None, endpoint: str) -> NoReturn:
    """Raise what a failure while talking to the hub means, in words."""
    from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

    # A failure while files arrive is wrapped in "nothing in the local cache"; its cause is what matters.
    cause = error.__cause__ if not isinstance(error, HfHubHTTPError) and error.__cause__ else error
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        raise DiskFull(
            f"The disk filled up while {name} was downloaded. Free some space (or choose another disk with --out or "
            "HF_HOME) and run the same command again: files that are complete are kept."
        ) from error
    if isinstance(cause, RevisionNotFoundError):
        raise RepositoryNotFound(
            f"{name} has no revision {revision!r}. Name a branch, a tag or a commit listed on {endpoint}/{name}, or "
            "leave --revision out."
        ) from error
    if isinstance(cause, HfHubHTTPError):
        _explain_status(cause, cause.response.status_code, name, endpoint)
    raise HubUnreachable(
        f"The download of {name} from {endpoint} was interrupted or could not begin ({type(cause).__name__}). Check "
        "the network (and HF_HUB_OFFLINE, if it is set); where the hub cannot be reached, set HF_ENDPOINT to a "
        "mirror, such as https://hf-mirror.com. Then run the same command again: files that are complete are kept."
    ) from error


def _explain_status(error: Exception, status: int, name: str, endpoint: str) -> NoReturn:
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    has_token = get_token() is not None
    page = f"{endpoint}/{name}"
    if isinstance(error, GatedRepoError) or status == 403:
        first = "" if has_token else "Set HF_TOKEN to a token of your account, and "
        raise AccessDenied(
            f"{name} is gated: the hub answered {status}. {first or 'Your token is set; '}accept the model's licence "
            f"on {page} with the same account; some licences are granted only after a while. A token with "
            "fine-grained rights must allow reading gated repositories."
        ) from error
    if status == 401:
        token = (
            "The token in HF_TOKEN was not accepted: it may have expired or be mistyped"
            if has_token
            else 'No token is set: `export HF_TOKEN="hf_…"` with one from the hub\'s settings page'
        )
        raise AccessDenied(
            f"The hub answered 401 for {name}, which it does for private and gated repositories, and for names that do "
            f"not exist. {token}, accept the model's licence on {page} if it has one, and check the name."
        ) from error
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        published = [model.hub_name for model in models().values() if model.hub_name]
        near = difflib.get_close_matches(name, published, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise RepositoryNotFound(
            f"The hub at {endpoint} has no repository {name}.{hint} Check the name (organisation/name, as on the "
            "model's page), and set HF_TOKEN if it is private."
        ) from error
    if status >= 500 or status == 429:
        wait = "asks for fewer requests" if status == 429 else "has a problem of its own"
        raise HubUnreachable(
            f"The hub at {endpoint} {wait} (HTTP {status}). Wait a while and run the same command again: files "
            "that are complete are kept. HF_ENDPOINT names a mirror."
        ) from error
    raise FetchFailed(f"The hub at {endpoint} answered {status} for {name}. Look at {page}.") from error
