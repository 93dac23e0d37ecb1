"""Put on PYTHONPATH by the tests: vLLM's engine and worker are forked from its API server instead of spawned.

On the CPU vLLM spawns both, and each imports for some ten seconds what its parent has imported already. What the tests
check does not depend on it; what a benchmark measures might (vLLM preloads an OpenMP library into spawned workers), so
nothing outside the tests does this.
"""

import multiprocessing
import sys
from multiprocessing.context import BaseContext

_get_context = multiprocessing.get_context


def get_context(method: str | None = None) -> BaseContext:
    """The fork context where vLLM asks for the spawn context; everybody else gets what they ask for."""
    return _get_context("fork" if method == "spawn" and "vllm" in sys.modules else method)


multiprocessing.get_context = get_context
