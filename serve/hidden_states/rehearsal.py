"""A step of one short prompt through vLLM's model runner before the engine takes requests, as its scheduler would send.

It goes through the same code as any request: attention and recurrent layers with their metadata, the key-value cache
(blocks that no request holds yet), the final norm. Nothing of it stays.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

_TOKENS = 8
_ID = "nbridge-rehearsal"


@dataclass(frozen=True)
class Played:
    """What the model gave in a step: its output [tokens, hidden], and the taps' rows (empty without taps)."""

    output: Tensor
    taps: tuple[Tensor, ...]


def prompt(config: Any) -> list[int]:
    """Different token ids of the lower vocabulary, where no placeholder of another modality lies."""
    count = min(_TOKENS, config.model_config.max_model_len - 1, config.scheduler_config.max_num_batched_tokens)
    return [(5 + 37 * place) % min(int(config.model_config.get_vocab_size()), 1000) for place in range(count)]


def play(runner: Any, execute: Callable[[Any], Any], sample: Callable[[Any], Any], ids: list[int]) -> Played:
    """Run one prompt by the worker's own `execute_model` and `sample_tokens`, and let go of it."""
    from vllm.v1.core.sched.output import SchedulerOutput

    count = len(ids)
    step = SchedulerOutput.make_empty()
    step.scheduled_new_reqs = [_request(ids, runner)]
    step.num_scheduled_tokens = {_ID: count}
    step.total_num_scheduled_tokens = count
    try:
        execute(step)
        state = runner.execute_model_state
        played = Played(
            state.hidden_states[:count].clone(), tuple(tap[:count].clone() for tap in state.aux_hidden_states or ())
        )
        sample(None)
    finally:
        runner.execute_model_state = None
        ended = SchedulerOutput.make_empty()
        ended.finished_req_ids = {_ID}
        execute(ended)
    return played


@contextmanager
def uncompiled(runner: Any) -> Iterator[nn.Module]:
    """The model as it is written: neither a compiled graph nor a CUDA graph stands between its modules."""
    model: nn.Module = runner.get_model()
    compiled = [module for module in model.modules() if getattr(module, "do_not_compile", None) is False]
    wrapped = runner.model
    for module in compiled:
        module.do_not_compile = True  # type: ignore[assignment]
    runner.model = model
    try:
        yield model
    finally:
        runner.model = wrapped
        for module in compiled:
            module.do_not_compile = False  # type: ignore[assignment]


def _request(ids: list[int], runner: Any) -> Any:
    from vllm import SamplingParams
    from vllm.v1.core.sched.output import NewRequestData

    values: dict[str, Any] = {
        "req_id": _ID,
        "prompt_token_ids": ids,
        "mm_features": [],
        "sampling_params": SamplingParams(max_tokens=1, temperature=0.0, detokenize=False),
        "pooling_params": None,
        "block_ids": _blocks(len(ids), runner),
        "num_computed_tokens": 0,
        "lora_request": None,
    }
    if "prefill_token_ids" in inspect.signature(NewRequestData).parameters:  # for the V2 model runner
        values["prefill_token_ids"] = ids
    return NewRequestData(**values)


def _blocks(count: int, runner: Any) -> tuple[list[int], ...]:
    """Blocks of the key-value cache for each of its groups, none twice; 0 is the one that vLLM keeps empty."""
    blocks, first = [], 1
    for group in runner.kv_cache_config.kv_cache_groups:
        needed = -(-count // group.kv_cache_spec.block_size)
        blocks.append(list(range(first, first + needed)))
        first += needed
    return tuple(blocks)
