"""Put on PYTHONPATH by the tests: what is started again and again is forked from what has imported it already.

On the CPU vLLM spawns its engine and its worker, and each imports for some ten seconds what its parent has imported;
here they are forked. And a worker that waits for work sleeps after a tenth of a second: by itself vLLM's looks for a
whole one without a pause, which with a canary every two seconds is half a core of an idle server. What the tests check
does not depend on either; what a benchmark measures might (vLLM preloads an OpenMP library into spawned workers), so
nothing outside the tests does this. How servers and Locust themselves are forked: forks.

Every Python that the tests start reads this file, so it imports nothing: two modules are changed when they are loaded.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any


def _fork_what_vllm_spawns(multiprocessing: "ModuleType") -> None:
    get_context = multiprocessing.get_context

    def instead(method: str | None = None) -> "Any":
        """The fork context where vLLM asks for the spawn context; everybody else gets what they ask for."""
        if method != "spawn" or "vllm" not in sys.modules:
            return get_context(method)
        if queue := sys.modules.get("vllm.distributed.device_communicators.shm_broadcast"):
            queue.SpinCondition.__init__.__defaults__ = (0.1,)  # busy_loop_s; with less some wake-ups are lost
        return get_context("fork")

    multiprocessing.get_context = instead


def _fork_what_is_owned(process: "ModuleType") -> None:
    from types import SimpleNamespace

    if (folder := __file__.rpartition("/")[0]) not in sys.path:  # a worker of pytest-xdist has the path of its parent
        sys.path.append(folder)
    import forks

    process.subprocess = SimpleNamespace(Popen=forks.start, DEVNULL=process.subprocess.DEVNULL)


class Changed:
    """Finds the modules of CHANGES as whoever else would, and has them changed after they were loaded."""

    CHANGES = {"multiprocessing": _fork_what_vllm_spawns, "serve.processes.process": _fork_what_is_owned}  # noqa: RUF012

    @classmethod
    def find_spec(cls, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if (change := cls.CHANGES.get(name)) is None:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not cls)
        if (spec := next(filter(None, others), None)) is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: "ModuleType") -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Changed)
