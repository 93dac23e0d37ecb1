"""Put on PYTHONPATH by the tests: vLLM's engine and worker are forked from its API server instead of spawned.

On the CPU vLLM spawns both, and each imports for some ten seconds what its parent has imported already. And a worker
that waits for work sleeps after a tenth of a second: by itself vLLM's looks for a whole one without a pause, which with
a canary every two seconds is half a core of an idle server. What the tests check does not depend on either; what a
benchmark measures might (vLLM preloads an OpenMP library into spawned workers), so nothing outside the tests does this.
"""

import multiprocessing
import sys
from multiprocessing.context import BaseContext

_get_context = multiprocessing.get_context


def get_context(method: str | None = None) -> BaseContext:
    """The fork context where vLLM asks for the spawn context; everybody else gets what they ask for."""
    if method != "spawn" or "vllm" not in sys.modules:
        return _get_context(method)
    if queue := sys.modules.get("vllm.distributed.device_communicators.shm_broadcast"):
        queue.SpinCondition.__init__.__defaults__ = (0.1,)  # busy_loop_s; with less some wake-ups are lost
    return _get_context("fork")


multiprocessing.get_context = get_context
