"""Learning and proving where a model's residual stream flows: decoders of each form, and those that must be refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from serve.hidden_states.proof import Unproven, Watch, Wiring, all_near, nearest
from serve.hidden_states.taps import HookTaps

HIDDEN, ROWS, BLOCKS = 16, 8, 3


class Norm(nn.Module):
    """vLLM's fused norm: of one tensor, or of the sum of two, which it writes over the second."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(HIDDEN) + 0.5)

    def forward(self, value: Tensor, residual: Tensor | None = None) -> Any:
        if residual is None:
            return value * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight
        residual.add_(value)
        value.copy_(self.forward(residual.clone()))
        return value, residual


class Work(nn.Module):
    """What stands for attention and MLP: mixes tokens and channels."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = nn.Linear(HIDDEN, HIDDEN, bias=False)

    def forward(self, value: Tensor) -> Tensor:
        return torch.tanh(self.channels(value)) + 0.1 * value.cumsum(0)


class Plain(nn.Module):
    """One tensor in, one out (GPT-2)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.work = Norm(), Work()

    def forward(self, positions: Tensor, hidden: Tensor) -> Any:
        return hidden + self.work(self.norm(hidden))


class Fused(Plain):
    """Output and residual, which the next norm adds (Llama)."""

    def forward(self, positions: Tensor, hidden: Tensor, residual: Tensor | None) -> Any:
        if residual is None:
            residual, hidden = hidden, self.norm(hidden)
        else:
            hidden, residual = self.norm(hidden, residual)
        return self.work(hidden), residual


class LeftOver(Plain):
    """The finished stream and the old residual, which the next block takes and does not read (Cohere, EXAONE 4)."""

    def forward(self, positions: Tensor, hidden: Tensor, residual: Tensor | None) -> Any:
        return hidden + self.work(self.norm(hidden)), hidden


class PostNorm(Plain):
    """Without a norm before the work (OLMo 2)."""

    def forward(self, positions: Tensor, hidden: Tensor) -> Any:
        return hidden + 0.3 * self.norm(self.work(hidden))


class Beside(Plain):
    """Reads the embeddings too, at every block (Zamba 2)."""

    def forward(self, hidden: Tensor, embeddings: Tensor, positions: Tensor) -> Any:
        return (hidden + self.work(self.norm(hidden + embeddings)),)


class Crooked(Plain):
    """The stream is half of what leaves the block plus the second output: no sum of outputs."""

    def forward(self, positions: Tensor, hidden: Tensor, residual: Tensor | None) -> Any:
        stream = hidden if residual is None else 0.5 * hidden + residual
        return 2 * self.work(self.norm(stream)), stream


class Decoder(nn.Module):
    def __init__(self, block: type[nn.Module], run: Callable[["Decoder", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.ModuleList(block() for _ in range(BLOCKS))
        self.norm = Norm()
        self.run = run

    def forward(self, hidden: Tensor) -> Tensor:
        return self.run(self, hidden)


POSITIONS = torch.arange(ROWS)


def one(model: Decoder, hidden: Tensor) -> Tensor:
    for layer in model.layers:
        hidden = layer(POSITIONS, hidden)
    return model.norm(hidden)


def two(model: Decoder, hidden: Tensor) -> Tensor:
    residual = None
    for layer in model.layers:
        hidden, residual = layer(POSITIONS, hidden=hidden, residual=residual)
    return model.norm(hidden, residual)[0]


def two_but_one_read(model: Decoder, hidden: Tensor) -> Tensor:
    residual = None
    for layer in model.layers:
        hidden, residual = layer(POSITIONS, hidden, residual)
    return model.norm(hidden)


def added_between(model: Decoder, hidden: Tensor) -> Tensor:
    for layer in model.layers:
        work, residual = layer(POSITIONS, hidden, None)
        hidden = work + residual
    return model.norm(hidden)


def beside(model: Decoder, hidden: Tensor) -> Tensor:
    embeddings = hidden
    for layer in model.layers:
        (hidden,) = layer(hidden, embeddings, positions=POSITIONS)
    return model.norm(hidden)


def scaled_between(model: Decoder, hidden: Tensor) -> Tensor:
    for layer in model.layers:
        hidden = layer(POSITIONS, hidden) * 0.9
    return model.norm(hidden)


def one_skipped(model: Decoder, hidden: Tensor) -> Tensor:
    for layer in list(model.layers)[:-1]:
        hidden = layer(POSITIONS, hidden)
    return model.norm(hidden)


def one_twice(model: Decoder, hidden: Tensor) -> Tensor:
    for layer in [*model.layers, model.layers[0]]:
        hidden = layer(POSITIONS, hidden)
    return model.norm(hidden)


def after_the_norm(model: Decoder, hidden: Tensor) -> Tensor:
    return one(model, hidden) * 2


def without_a_norm(model: Decoder, hidden: Tensor) -> Tensor:
    for layer in model.layers:
        hidden = layer(POSITIONS, hidden)
    return hidden


def embedded() -> Tensor:
    return torch.randn(ROWS, HIDDEN, generator=torch.Generator().manual_seed(5))


def learned(model: nn.Module) -> tuple[Wiring, Tensor]:
    watch = Watch(model, BLOCKS, HIDDEN, ROWS)
    with torch.inference_mode(), watch.watching():
        output = model(embedded())
    return watch.wiring(output), output


def truth(model: Decoder) -> list[Tensor]:
    """The stream computed by hand: x, then x + 1 × what each kind of block adds to it."""
    stream, states = embedded(), [embedded()]
    for layer in model.layers:
        match layer:
            case PostNorm():
                stream = stream + 0.3 * layer.norm(layer.work(stream))
            case Beside():
                stream = stream + layer.work(layer.norm(stream + embedded()))
            case _:
                stream = stream + layer.work(layer.norm(stream))
        states.append(stream)
    return states


@pytest.mark.parametrize(
    ("block", "run", "enters", "leaves"),
    [
        (Plain, one, (1,), (0,)),
        (Plain, without_a_norm, (1,), (0,)),
        (PostNorm, one, (1,), (0,)),
        (Fused, two, (1,), (0, 1)),
        (Fused, added_between, (1,), (0, 1)),
        (LeftOver, two_but_one_read, (1,), (0,)),
        (Beside, beside, (0,), (0,)),
    ],
)
def test_the_stream_is_learned_from_what_the_model_does(block, run, enters, leaves):
    model = Decoder(block, run)
    with torch.inference_mode():
        expected, undisturbed = truth(model), model(embedded())
    wiring, output = learned(model)
    assert torch.equal(output, undisturbed)
    assert wiring.enters == enters
    assert wiring.leaves == (leaves,) * BLOCKS
    for found, wanted in zip(wiring.streams, expected, strict=True):
        torch.testing.assert_close(found, wanted)
    taps = HookTaps(wiring)
    taps.select((0, 1, 2, 3))
    with torch.inference_mode():
        model(embedded())
    for tap, value in taps.values(None).items():
        torch.testing.assert_close(value, expected[tap])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.norm.modules())


def test_a_norm_may_hand_back_a_left_over_that_it_does_not_read():
    class Careless(Norm):
        def forward(self, value: Tensor, residual: Tensor | None = None) -> Any:
            return super().forward(value), residual

    model = Decoder(LeftOver, two)
    model.norm = Careless()
    assert learned(model)[0].leaves == ((0,),) * BLOCKS


@pytest.mark.parametrize(
    ("block", "run", "reason"),
    [
        (Crooked, two, "block 1 of Decoder depends on more of block 0"),
        (Plain, scaled_between, "block 1 of Decoder depends on more of block 0"),
        (Plain, one_skipped, "do not run once each and in order"),
        (Plain, one_twice, "do not run once each and in order"),
        (Plain, after_the_norm, "was not seen to become the output of Decoder"),
    ],
)
def test_what_a_pass_does_not_show_is_refused_with_the_place(block, run, reason):
    with pytest.raises(Unproven, match=reason):
        learned(Decoder(block, run))


def test_a_model_without_such_a_list_or_with_two_is_told_by_what_runs():
    model = Decoder(Plain, one)
    with pytest.raises(Unproven, match="has no list of 4 decoder blocks"):
        Watch(model, 4, HIDDEN, ROWS).wiring(embedded())
    # Like the blocks of an image encoder, which a text never runs.
    model.encoder = nn.ModuleList(Plain() for _ in range(BLOCKS))
    assert learned(model)[0].blocks == tuple(model.layers)


def test_a_kernel_that_writes_its_output_over_keeps_the_pass_whole():
    class Thrifty(Work):
        def forward(self, value: Tensor) -> Tensor:
            self.buffer = getattr(self, "buffer", torch.empty(ROWS, HIDDEN))
            return self.buffer.copy_(super().forward(value))

    model = Decoder(Fused, two)
    with torch.inference_mode():
        expected = model(embedded())
        for layer in model.layers:
            layer.work = Thrifty()
        model.layers.load_state_dict(Decoder(Fused, two).layers.state_dict())
        assert torch.equal(model(embedded()), expected)
    assert torch.equal(learned(model)[1], expected)


def test_rounding_is_the_dtypes_and_a_neighbour_is_told_apart():
    streams = [torch.full((ROWS, HIDDEN), 1.0 + 0.5 * number) for number in range(3)]
    assert all_near([one + 1e-6 for one in streams], streams)
    assert not all_near([one + 1e-3 for one in streams], streams)
    assert not all_near(streams[:2], streams)
    assert all_near([one.bfloat16() + 1e-2 for one in streams], [one.bfloat16() for one in streams])
    assert [nearest(one * (1 + 1e-6), streams) for one in streams] == [0, 1, 2]
    assert nearest(streams[0] * 1.2, streams) is None
    assert nearest(streams[0] * float("nan"), streams) is None
