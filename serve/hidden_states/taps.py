"""How the values at the taps of a model are come by: from the model's own outputs, or by forward hooks.

The first way is the interface that vLLM's models have for EAGLE-3 drafters: told which taps to deliver, the model
returns `hidden + residual` there beside its output, as a part of whatever graph it is compiled into. The second works
for models without it, and only where Python runs the layers one by one (eager mode).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from serve.hidden_states.proof import Parts, Wiring


class Taps(Protocol):
    """The taps of one model; `selected` are those that the next step delivers, in ascending order."""

    mode: str
    selected: tuple[int, ...]

    def select(self, taps: tuple[int, ...]) -> None:
        """Let the next steps deliver these taps (ascending)."""

    def values(self, state: Any) -> Mapping[int, Tensor]:
        """The last step's rows [tokens, hidden] by tap; taps that the model did not deliver are absent."""


class AuxTaps:
    """Taps that the model returns by itself; re-selected at any step in eager mode, fixed when compiled."""

    def __init__(self, model: Any, runner: Any, *, mode: str) -> None:
        self.mode = mode
        self.selected: tuple[int, ...] = ()
        self._model = model
        self._runner = runner

    def select(self, taps: tuple[int, ...]) -> None:
        if taps != self.selected:
            self._model.set_aux_hidden_state_layers(taps)
            # The model returns a pair when it delivers taps and a tensor when not; the runner goes by this flag.
            self._runner.use_aux_hidden_state_outputs = bool(taps)
            self.selected = taps

    def values(self, state: Any) -> Mapping[int, Tensor]:
        values = state.aux_hidden_states or ()
        # A model that leaves a tap out gives no sign which, so then none of them can be told.
        return dict(zip(self.selected, values, strict=True)) if len(values) == len(self.selected) else {}


class HookTaps:
    """Taps read by forward hooks on the decoder blocks, attached only while somebody wants them."""

    mode = "eager_hooks"

    def __init__(self, wiring: Wiring) -> None:
        self.selected: tuple[int, ...] = ()
        self._wiring = wiring
        self._handles: list[Any] = []
        self._values: dict[int, Tensor] = {}

    def select(self, taps: tuple[int, ...]) -> None:
        self._values.clear()
        if taps == self.selected:
            return
        for handle in self._handles:
            handle.remove()
        blocks = self._wiring.blocks
        self._handles = [
            blocks[0].register_forward_pre_hook(self._before_first, with_kwargs=True)
            if tap == 0
            else blocks[tap - 1].register_forward_hook(self._after(tap))
            for tap in taps
        ]
        self.selected = taps

    def values(self, state: Any) -> Mapping[int, Tensor]:
        del state
        values, self._values = self._values, {}
        return values

    def _after(self, tap: int) -> Callable[[nn.Module, Any, Any], None]:
        parts = self._wiring.leaves[tap - 1]

        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._take(tap, parts, output if isinstance(output, (tuple, list)) else (output,))

        return hook

    def _before_first(self, _module: nn.Module, arguments: Any, named: Mapping[str, Any]) -> None:
        self._take(0, self._wiring.enters, (*arguments, *named.values()))

    def _take(self, tap: int, parts: Parts, values: Sequence[Tensor]) -> None:
        first, *others = (values[place] for place in parts)
        # The next block's fused norm overwrites what it is given.
        total = first + others[0] if others else first.clone()
        self._values[tap] = total.reshape(-1, total.shape[-1])


def has_aux_taps(model: nn.Module) -> bool:
    """Whether the model delivers taps by itself in the form that AuxTaps needs: a decoder that keeps their list.

    vLLM's generic Transformers backend has the method too, but there a tap once set stays for good.
    """
    return any(hasattr(module, "aux_hidden_state_layers") for module in model.modules())


def event_on(device: torch.device) -> Any:
    """An event that has happened when all that was queued on an accelerator until now is done; None on a CPU."""
    if device.type == "cpu":
        return None
    event = torch.Event(device)
    event.record()
    return event
