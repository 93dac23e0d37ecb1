"""Build the images of deploy/containers with podman or docker: `make containers ARGS="cpu gateway"`.

This machine's settings of pip (index, proxy, local archives) go into the build as a secret and as read-only mounts,
and into no layer. `--base` names another base image than Debian's, for machines that reach no registry.
"""

import argparse
import configparser
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "deploy" / "containers" / "Dockerfile"
IMAGES = {"cpu": "nbridge-server:{version}-cpu", "cuda": "nbridge-server:{version}-cuda"}
IMAGES |= {"gateway": "nbridge-gateway:{version}", "tools": "nbridge-tools:{version}"}
_PATHS = ("find-links", "index-url", "cert")  # how the options end that may name a folder or file of this machine


def program() -> str:
    """podman or docker; ends the program with what to install when there is neither that could build."""
    if (podman := shutil.which("podman")) is not None:
        return podman
    wanted = "podman; on Debian, as root: sh tools/packages.sh containers"
    docker = shutil.which("docker")
    if docker is None:
        print(f"Neither podman nor docker is on PATH. Install docker with buildx, or {wanted}.", file=sys.stderr)
        raise SystemExit(3)
    for words, lacks in (
        (["info"], "its daemon does not answer: start it"),
        (["buildx", "version"], "it has no BuildKit, which keeps pip's settings out of the image: install buildx"),
    ):
        if subprocess.run([docker, *words], capture_output=True, check=False, timeout=60).returncode:
            print(f"docker is on PATH, but {lacks}, or install {wanted}.", file=sys.stderr)
            raise SystemExit(3)
    return docker


def version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def image(target: str) -> str:
    """The name and tag under which a target is built."""
    return IMAGES[target].format(version=version())


def pip_settings() -> dict[str, str]:
    """pip's settings here, from all its files and the environment: option → value."""
    told = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    found = {}
    for line in told.splitlines():
        key, _, value = line.partition("=")
        found[key.rpartition(".")[2].strip(":")] = value.strip("'\"").replace("\\n", " ")
    return found


def mounts(settings: Mapping[str, str]) -> list[Path]:
    """Files and folders of this machine that pip's settings point to; the system's certificates as a folder."""
    found = []
    for option, words in settings.items():
        for word in words.split() if option.endswith(_PATHS) else ():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and path.exists():
                found.append(path.parent if option == "cert" else path.parent if path.name == "simple" else path)
    return sorted(set(found))


def pip_file(settings: Mapping[str, str], path: Path) -> None:
    """pip's settings as a file for the owner; constraints of this machine are left out, the build has its own."""
    parser = configparser.RawConfigParser()
    parser["global"] = {key: value for key, value in settings.items() if key not in ("constraint", "no-deps")}
    path.touch(mode=0o600)
    with path.open("w", encoding="utf-8") as file:
        parser.write(file)


def environment(folder: Path) -> dict[str, str]:
    """What podman as root needs inside a container that may raise no limits; nothing where it is configured already."""
    if "CONTAINERS_CONF" in os.environ:
        return dict(os.environ)
    path = folder / "containers.conf"
    engine = 'runtime = "runc"\ncgroup_manager = "cgroupfs"\n' if os.geteuid() == 0 and shutil.which("runc") else ""
    network = '[network]\nnetwork_backend = "netavark"\n'
    path.write_text(f"[containers]\ndefault_ulimits = []\n{network}[engine]\n{engine}", encoding="utf-8")
    return {**os.environ, "CONTAINERS_CONF": str(path)}


def build(target: str, base: str | None, more: Sequence[str] = ()) -> None:
    """Build one image. Ends the program when that fails."""
    runner = program()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        argv = [runner, "build", "-f", str(DOCKERFILE), "--target", target, "-t", image(target)]
        argv += ["--build-arg", f"VERSION={version()}", *(["--build-arg", f"BASE={base}"] if base else [])]
        settings = pip_settings()
        pip_file(settings, folder / "pip.conf")
        argv += ["--secret", f"id=pip,src={folder / 'pip.conf'}"]
        if Path(runner).name == "podman":
            argv += ["--isolation", "chroot", "--format", "docker", "--ignorefile", str(ROOT / ".dockerignore")]
            argv += [word for path in mounts(settings) for word in ("-v", f"{path}:{path}:ro")]
        elif found := mounts(settings):
            print(
                f"docker mounts nothing into a build: pip will not see {', '.join(map(str, found))}.", file=sys.stderr
            )
        done = subprocess.run([*argv, *more, str(ROOT)], env=environment(folder), check=False)
        if done.returncode:
            print(f"The image {image(target)} was not built.", file=sys.stderr)
            raise SystemExit(4)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the images of deploy/containers.")
    parser.add_argument(
        "targets",
        nargs="*",
        default=["cpu", "gateway", "tools"],
        help="cpu, cuda, gateway, tools [default: all but cuda]",
    )
    parser.add_argument("--base", help="base image [default: docker.io/library/debian:bookworm-slim]")
    arguments = parser.parse_args()
    if unknown := [one for one in arguments.targets if one not in IMAGES]:
        parser.error(f"unknown target {unknown[0]!r}: expected {', '.join(IMAGES)}")
    for target in arguments.targets:
        build(target, arguments.base)
        print(f"built {image(target)}")


if __name__ == "__main__":
    main()
