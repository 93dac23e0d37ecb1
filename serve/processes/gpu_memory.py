"""GPU memory that is in use on this machine, for knowing when a stopped server has given its own back."""

import time

# A driver keeps a few hundred MiB of context for other processes in flux; a model's memory is far larger.
SLACK_BYTES = 1 << 30


def used_bytes() -> int | None:
    """The memory in use on all NVIDIA GPUs together, None when there is no driver to ask."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return sum(int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in handles)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def total_and_free_bytes() -> tuple[int, int] | None:
    """The memory of all NVIDIA GPUs together and what is free of it, None when there is no driver to ask."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        count = pynvml.nvmlDeviceGetCount()
        all_ = [pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(count)]
        return sum(int(one.total) for one in all_), sum(int(one.free) for one in all_)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def wait_until_returned(before_bytes: int | None, timeout_s: float) -> bool:
    """Wait until no more memory is in use than before the server (and a slack); False when it stays in use."""
    deadline = time.monotonic() + timeout_s
    while before_bytes is not None and (now := used_bytes()) is not None and now > before_bytes + SLACK_BYTES:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
