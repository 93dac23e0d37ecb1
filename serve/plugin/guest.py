"""The plugin's entry point in `nbridge_vllm`, the wheel for a vLLM of your own (made by tools/guest/wheel.py).

Where the whole project is installed too, two entry points are called `nbridge`, and vLLM imports both. Only one of them
may register routes and metrics, so this one imports nothing of ours before it knows that it is alone.
"""

import logging
from importlib.metadata import entry_points
from typing import Any

GROUP = "vllm.endpoint_plugins"
NAME = "nbridge"
_log = logging.getLogger("vllm.nbridge.plugin")


def plugin() -> Any:
    """The plugin that answers: the whole project's where that is installed too, else our own."""
    package = __name__.partition(".")[0]
    for point in entry_points(group=GROUP, name=NAME):
        if point.module.partition(".")[0] != package:
            name = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
            _log.warning("%s is installed beside %s and answers in its place; one of the two is enough", name, package)
            return point.load()()
    from serve.plugin.endpoint import Plugin

    return Plugin()
