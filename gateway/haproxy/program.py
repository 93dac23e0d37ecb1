"""HAProxy on this machine: found, old enough, built with what is needed; a configuration checked by itself."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.errors import MissingProgram, SettingsError

LEAST = (2, 6)
# A buffer holds a whole body, and what is that large glibc takes from the system for each request and gives back, page
# by page: of 64 that came at once the last waited 59 to 86 ms (three runs on two cores), and 26 ms with the first of
# these and a trim threshold of 1 GiB (one run).
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
_NEEDED = {"+LUA": "Lua", "+PROMEX": "the Prometheus exporter"}
_INSTALL = "On Debian and Ubuntu: apt-get install haproxy (and systemctl disable --now haproxy: it is started here)."


def find(which: Callable[[str], str | None] = shutil.which) -> str:
    """The path of a HAProxy that will do. Raises MissingProgram with what to install."""
    path = which("haproxy") or which("/usr/sbin/haproxy")
    if path is None:
        raise MissingProgram(f"haproxy is not on PATH. {_INSTALL}")
    try:
        told = subprocess.run([path, "-vv"], capture_output=True, text=True, check=False, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingProgram(f"{path} cannot be run: {error}. {_INSTALL}") from None
    check(told, path)
    return path


def check(told: str, path: str) -> None:
    """Raise MissingProgram when `haproxy -vv` tells of a HAProxy that lacks something."""
    found = re.search(r"version (\d+)\.(\d+)", told)
    if found is None:
        raise MissingProgram(f"{path} -vv does not say what version of HAProxy it is. {_INSTALL}")
    version = int(found[1]), int(found[2])
    if version < LEAST:
        raise MissingProgram(
            f"{path} is HAProxy {version[0]}.{version[1]}; {LEAST[0]}.{LEAST[1]} or newer is needed. {_INSTALL}"
        )
    features = told.split()
    if missing := [words for flag, words in _NEEDED.items() if flag not in features]:
        raise MissingProgram(f"{path} was built without {' and '.join(missing)}. {_INSTALL}")


def validate(path: str, config: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Have HAProxy check a configuration. Raises SettingsError with its words."""
    argv = [path, "-c", "-f", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, env=dict(environ))
    if done.returncode:
        alerts = [line for line in done.stderr.splitlines() if "ALERT" in line] or done.stderr.splitlines()
        raise SettingsError(f"HAProxy refuses the configuration: {' '.join(alerts)[:1500]}")
