"""podman as this machine has it, and the images that `make containers` built."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import containers


class Podman:
    """podman and podman-compose with the settings that this machine needs."""

    def __init__(self, folder: Path) -> None:
        self.environment = containers.environment(folder)

    def __call__(self, *argv: object, check: bool = True, cwd: Path | None = None) -> str:
        words = [str(word) for word in argv]
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, cwd=cwd, env=self.environment, timeout=900
        )
        assert not check or done.returncode == 0, f"{' '.join(words[:6])}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def ended(self, *argv: object) -> tuple[int, str]:
        """How a command ended, and what it said on stderr."""
        words = [str(word) for word in argv]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=self.environment, timeout=900)
        return done.returncode, done.stderr

    def has(self, image: str) -> bool:
        return subprocess.run(["podman", "image", "exists", image], env=self.environment, check=False).returncode == 0


def installed(folder: Path, *targets: str) -> Podman:
    """podman, with its settings in a folder; skips with the reason where it or one of the images is missing."""
    if shutil.which("podman") is None or shutil.which("podman-compose", path=path()) is None:
        pytest.skip("podman or podman-compose is not installed")
    podman = Podman(folder)
    for target in targets:
        built(podman, target)
    return podman


def built(podman: Podman, target: str) -> str:
    """An image's name; skips where it is not built."""
    image = containers.image(target)
    if not podman.has(image):
        pytest.skip(f"the image {image} is not built: make containers")
    return image


def storage(podman: Podman) -> str:
    """podman's version and how it stores layers here: figures depend on both."""
    return podman(
        "podman", "info", "--format", "podman {{.Version.Version}}, storage {{.Store.GraphDriverName}}"
    ).strip()


def tell(text: str) -> None:
    """A figure for whoever runs it (pytest -s)."""
    sys.stderr.write(f"\n{text}\n")


def path() -> str:
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"
