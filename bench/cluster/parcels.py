"""Files between machines that share no file system: in pieces, each small enough for a message."""

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from bench.cell.measurement import set_aside
from bench.errors import ClusterError
from bench.run import store

PIECE_BYTES = 4 << 20
ARRIVING = ".arriving"  # in a run folder: what has not come whole yet
_ROOMS = ("cells", "logs", "quality")  # of a run folder: nothing else comes from a node


def pieces(path: Path) -> Iterator[bytes]:
    """The bytes of a file in order; one empty piece for an empty file."""
    with path.open("rb") as source:
        yield source.read(PIECE_BYTES)
        while piece := source.read(PIECE_BYTES):
            yield piece


def files_below(folder: Path) -> list[Path]:
    """Every file in a folder and below, in order; none where there is no such folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


class Arriving:
    """What one unit's node sends, beside the run's own files until it is whole."""

    def __init__(self, run_dir: Path, unit: str) -> None:
        self._run_dir = run_dir
        self._folder = run_dir / ARRIVING / unit

    def take(self, name: str, first: bool, data: bytes) -> None:
        """The next piece of a file; `first`: the file begins anew. Raises ClusterError for a name out of bounds."""
        parts = PurePosixPath(name).parts
        if len(parts) < 2 or parts[0] not in _ROOMS or ".." in parts:
            raise ClusterError(f"A node sent a file {name!r}, which has no place in a run folder.")
        path = self._folder / name
        with store.explained(self._run_dir):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb" if first else "ab") as out:
                out.write(data)

    def settle(self) -> list[str]:
        """Put what has come where it belongs; a cell's earlier attempt is set aside. Yields words about that."""
        said = []
        with store.explained(self._run_dir):
            for folder in sorted((self._folder / "cells").glob("*")):
                if kept := set_aside(self._run_dir, folder.name):
                    said.append(f"{folder.name}: records of the earlier attempt are kept in {kept.name}")
                (self._run_dir / "cells").mkdir(exist_ok=True)
                shutil.move(folder, store.cell_dir(self._run_dir, folder.name))
            for room in ("logs", "quality"):
                for path in files_below(self._folder / room):
                    target = self._run_dir / path.relative_to(self._folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(target)
        return said

    def drop(self) -> None:
        """Forget what has not come whole."""
        shutil.rmtree(self._folder, ignore_errors=True)


class Files:
    """The files that a plan names, on a machine that has only their bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._here: dict[str, str] = {}

    def write(self, name: str, data: Iterator[bytes]) -> None:
        """A file of the plan, known by `name` where it came from."""
        path = self._folder / str(len(self._here)) / Path(name).name
        path.parent.mkdir(parents=True)
        with path.open("wb") as out:
            for piece in data:
                out.write(piece)
        self._here[name] = str(path)

    def here(self, name: str | None) -> str | None:
        """Where a file of the plan lies on this machine."""
        return self._here.get(name, name) if name is not None else None

    def there(self, path: str | None) -> str | None:
        """As the plan knows a file that lies here."""
        return next((name for name, here in self._here.items() if here == path), path)
