"""Proof of where a model's residual stream flows, from one pass of a few tokens with everything about it watched.

vLLM's decoder blocks hand the stream on in different forms: as one tensor; as two that the next block adds (its fused
norm does); as two of which the second is a left-over that nobody reads. The form is not written anywhere, so it is
learned from what the model does, and only what holds in the pass is used:

- `enters`: on which arguments a block depends, and how. While it runs it is run once more with its arguments changed:
  when it depends on a + b alone, (a + b - g, g) gives the same for any g; when it ignores b, so does (a, g).
- `next_block`: what of block i's output this is. The tensors are compared by value, so nothing lies between.
- `final_norm`: the same for the module after the last block, whose result must be the model's output.

A difference by rounding is of the order of the dtype's epsilon; a wrong form differs by the order of the values.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

# Positions in a call's arguments (positional, then named) or in its outputs; the tensors there are added.
Parts = tuple[int, ...]


class Unproven(Exception):
    """The pass does not show where the stream flows; the text says at which place and why."""


@dataclass(frozen=True)
class Wiring:
    """Where the stream of a model can be read: the arguments of the first block, the outputs of each block."""

    blocks: tuple[nn.Module, ...]
    enters: Parts
    leaves: tuple[Parts, ...]
    # [rows, hidden] of the watched pass, by tap: before the first block and after each.
    streams: tuple[Tensor, ...]


@dataclass
class _Call:
    module: nn.Module
    arguments: list[Any]
    names: tuple[str, ...]
    outputs: dict[int, Tensor] = field(default_factory=dict)
    enters: Parts | None = None


class Watch:
    """Notes what goes into and out of the modules that may carry the stream, while a pass of `rows` tokens runs."""

    def __init__(self, model: nn.Module, num_layers: int, hidden_size: int, rows: int) -> None:
        self.lists = block_lists(model, num_layers)
        self._name = type(model).__name__
        self._num_layers = num_layers
        self._hidden_size = hidden_size
        self._rows = rows
        self._calls: list[_Call] = []
        self._running: dict[nn.Module, _Call] = {}
        self._replaying = False
        blocks = [block for blocks in self.lists for block in blocks]
        self._blocks = set(blocks)
        inside = {module for block in blocks for module in block.modules()}
        self._watched = blocks + [
            module
            for module in model.modules()
            if module not in inside and not any(part in inside for part in module.modules())
        ]

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [module.register_forward_pre_hook(self._before, with_kwargs=True) for module in self._watched]
        handles += [module.register_forward_hook(self._after) for module in self._watched]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def wiring(self, output: Tensor) -> Wiring:
        """How the stream flows, given the model's `output` in the watched pass. Raises Unproven."""
        if not self.lists:
            raise Unproven(f"{self._name} has no list of {self._num_layers} decoder blocks")
        reasons = []
        for blocks in self.lists:
            try:
                return self._wiring(list(blocks), output)
            except Unproven as error:
                reasons.append(str(error))
        raise Unproven("; ".join(dict.fromkeys(reasons)))

    def _wiring(self, blocks: list[nn.Module], output: Tensor) -> Wiring:
        places = [place for place, call in enumerate(self._calls) if call.module in blocks]
        calls = [self._calls[place] for place in places]
        if [call.module for call in calls] != blocks:
            raise Unproven(f"the {len(blocks)} blocks of {self._name} do not run once each and in order")
        leaves, streams = [], []
        for number, (call, following) in enumerate(pairwise(calls)):
            stream = self._entering(following)
            if stream is None:
                raise Unproven(
                    f"block {number + 1} of {self._name} depends on more of block {number} than its output or the sum "
                    "of two, or on something made in between"
                )
            leaves.append(self._part(call, following, stream, f"block {number}"))
            streams.append(stream)
        leaves.append(self._last(calls[-1], self._calls[places[-1] + 1 :], output))
        streams.append(self._sum(calls[-1].outputs, leaves[-1]))
        enters = self._first(calls)
        return Wiring(tuple(blocks), enters, tuple(leaves), (self._sum(self._floats(calls[0]), enters), *streams))

    def _first(self, calls: Sequence[_Call]) -> Parts:
        """What of the first block's arguments is the stream; where two are the same, those that the second reads."""
        enters = calls[0].enters
        if enters is None and len(calls) > 1 and calls[1].enters is not None:
            enters = tuple(place for place in calls[1].enters if place in self._floats(calls[0]))
            values = list(self._floats(calls[0]).values())
            if len(enters) != 1 or not all(torch.equal(value, values[0]) for value in values):
                enters = None
        if enters is None:
            raise Unproven(f"the first block of {self._name} reads more than one tensor before any block has run")
        return enters

    def _last(self, call: _Call, tail: Sequence[_Call], output: Tensor) -> Parts:
        output = self._table(output)
        for norm in reversed(tail):
            if any(_same(self._table(value), output) for value in norm.outputs.values()):
                stream = self._entering(norm)
                if stream is None:
                    break
                return self._part(call, norm, stream, "the last block")
        for place, value in call.outputs.items():
            if torch.equal(self._table(value), output):
                return (place,)
        raise Unproven(f"the last block's stream was not seen to become the output of {self._name} by its final norm")

    def _part(self, call: _Call, following: _Call, stream: Tensor, name: str) -> Parts:
        """The outputs of `call` that are the `stream` which enters the call that follows."""
        read = [self._floats(following)[place] for place in following.enters or ()]
        found = [next((at for at, made in call.outputs.items() if torch.equal(made, value)), None) for value in read]
        if found and None not in found:
            return tuple(place for place in found if place is not None)
        outputs = list(call.outputs)
        if len(outputs) > 1 and torch.equal(self._sum(call.outputs, tuple(outputs[:2])), stream):
            return tuple(outputs[:2])
        raise Unproven(f"what goes on from {name} of {self._name} is neither one of its outputs nor their sum")

    def _entering(self, call: _Call) -> Tensor | None:
        return None if call.enters is None else self._sum(self._floats(call), call.enters)

    def _sum(self, values: Mapping[int, Tensor], parts: Parts) -> Tensor:
        first, *others = (self._table(values[place]) for place in parts)
        return first + others[0] if others else first

    def _table(self, value: Tensor) -> Tensor:
        return value.reshape(-1, value.shape[-1])[: self._rows]

    def _floats(self, call: _Call) -> dict[int, Tensor]:
        return {place: value for place, value in enumerate(call.arguments) if self._is_stream(value)}

    def _is_stream(self, value: Any) -> bool:
        return is_stream(value, self._hidden_size) and value.numel() >= self._rows * self._hidden_size

    def _before(self, module: nn.Module, positional: Any, named: Mapping[str, Any]) -> None:
        if not self._replaying:
            values = [value.clone() if self._is_stream(value) else value for value in (*positional, *named.values())]
            self._running[module] = _Call(module, values, tuple(named))

    def _after(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        call = self._running.pop(module, None)
        if self._replaying or call is None:
            return
        call.outputs = self._outputs(output)
        if self._floats(call) and call.outputs:
            call.enters = self._learn(call)
            self._calls.append(call)
            # A kernel may have given out a buffer of its own, which the calls for learning have written over.
            for place, value in call.outputs.items():
                (output if isinstance(output, (tuple, list)) else (output,))[place].copy_(value)

    def _outputs(self, output: Any) -> dict[int, Tensor]:
        parts = output if isinstance(output, (tuple, list)) else (output,)
        return {place: value.clone() for place, value in enumerate(parts) if self._is_stream(value)}

    def _learn(self, call: _Call) -> Parts | None:
        """The arguments whose sum is all that `call` reads of what was computed before it, or None."""
        given = self._floats(call)
        fresh = list(given)
        before = next((one for one in reversed(self._calls) if one.module in self._blocks), None)
        if before is not None:
            made = list(before.outputs.values())
            sums = [made[0] + made[1]] if len(made) > 1 and made[0].shape == made[1].shape else []
            fresh = [place for place, value in given.items() if any(_same(value, one) for one in (*made, *sums))]
            passed = list(self._floats(before).values())
            if any(not any(_same(given[place], one) for one in passed) for place in given if place not in fresh):
                return None
        if len(fresh) != 2:
            return (fresh[0],) if len(fresh) == 1 else None
        both = (fresh[0], fresh[1])
        return next((parts for parts in (both, both[:1], both[1:]) if self._depends_only(call, both, parts)), None)

    @torch.inference_mode()
    def _depends_only(self, call: _Call, both: tuple[int, int], parts: Parts) -> bool:
        """Whether a call gives the same when all but the sum of `parts` is replaced by something else of its size."""
        arguments = [value.clone() if self._is_stream(value) else value for value in call.arguments]
        first, second = (call.arguments[place] for place in both)
        other = _other(first + second)
        if len(parts) == 2:
            arguments[both[0]], arguments[both[1]] = first + second - other, other.clone()
        else:
            arguments[both[0] if parts == both[1:] else both[1]] = other
        count = len(arguments) - len(call.names)
        self._replaying = True
        try:
            again = self._outputs(
                call.module.forward(*arguments[:count], **dict(zip(call.names, arguments[count:], strict=True)))
            )
        finally:
            self._replaying = False
        limit = 4 * rounding(first)
        # A norm may hand back an argument that it does not read; a block that did so would pass it on to the next.
        replaced = [] if call.module in self._blocks or len(parts) == 2 else [first if parts == both[1:] else second]
        compared = {at: made for at, made in call.outputs.items() if not any(_same(made, one) for one in replaced)}
        if compared and all(
            difference(self._table(again[at]), self._table(made)) <= limit for at, made in compared.items()
        ):
            return True
        places = tuple(call.outputs)[:2]
        sums = self._sum(again, places), self._sum(call.outputs, places)
        return len(parts) == 2 and len(places) == 2 and difference(*sums) <= limit


def block_lists(model: nn.Module, num_layers: int) -> list[nn.ModuleList]:
    """The lists of `num_layers` modules in a model that may be its decoder blocks, without those inside another."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == num_layers]
    inside = {part for blocks in lists for block in blocks for part in block.modules()}
    return [blocks for blocks in lists if blocks not in inside]


def is_stream(value: Any, hidden_size: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.shape[-1:] == (hidden_size,)


def difference(found: Tensor, expected: Tensor) -> float:
    """The median over rows of |found - expected| / |expected|; infinite when the shapes differ.

    The median, because a mixture of experts may send a token elsewhere when its scores are equal but for rounding.
    """
    if found.shape != expected.shape:
        return float("inf")
    norms = expected.float().norm(dim=-1)
    errors = (found.float() - expected.float()).norm(dim=-1) / norms.clamp_min(torch.finfo(torch.float32).tiny)
    return float(errors.nan_to_num(nan=float("inf")).median())


def all_near(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether two rows of streams are the same but for rounding, one by one."""
    return len(found) == len(expected) and all(
        difference(one, other) <= rounding(other) for one, other in zip(found, expected, strict=True)
    )


def nearest(found: Tensor, streams: Sequence[Tensor]) -> int | None:
    """Which of the streams `found` is, computed in another way (compiled, say); None when it is none of them."""
    differences = [difference(found, stream) for stream in streams]
    least = min(differences)
    return differences.index(least) if least <= 4 * rounding(found) else None


def rounding(value: Tensor) -> float:
    """How much two ways of computing the same may differ in the value's dtype."""
    return max(4 * torch.finfo(value.dtype).eps, 1e-5)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _other(stream: Tensor) -> Tensor:
    """Something of the stream's size in every channel that is not the stream: other tokens' values, signs mixed."""
    table = stream.reshape(-1, stream.shape[-1])
    signs = torch.randint(0, 2, table.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return (table.roll(1, 0) * signs.to(table)).reshape(stream.shape)
