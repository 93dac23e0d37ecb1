"""Put on PYTHONPATH by the tests: vLLM's processes are forked instead of spawned, and wait asleep instead of awake.

On the CPU vLLM spawns engine and worker, and each imports for some ten seconds what its parent has imported already.
While they serve, each waits for the other's messages by asking for them without a pause, up to a second after the last
one; on two cores that takes the time of whom they wait for. What the tests check depends on neither; what a benchmark
measures might (vLLM preloads an OpenMP library into spawned workers), so nothing outside the tests does this.
"""

import multiprocessing
import sys
from multiprocessing.context import BaseContext

_get_context = multiprocessing.get_context


def get_context(method: str | None = None) -> BaseContext:
    """The fork context where vLLM asks for the spawn context; everybody else gets what they ask for."""
    if method != "spawn" or "vllm" not in sys.modules:
        return _get_context(method)
    if messages := sys.modules.get("vllm.distributed.device_communicators.shm_broadcast"):
        messages.SpinCondition.__init__.__defaults__ = (0.0,)  # seconds until it waits to be woken
    return _get_context("fork")


multiprocessing.get_context = get_context
