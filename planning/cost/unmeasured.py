"""A speed for a case that was never measured: a share of the roofline, with a range as wide as that deserves.

The batch is what the GPUs' memory holds of such requests, at most the server's own limit; the bound on requests a
second is 1 / (input ÷ prefill bound + output ÷ decode bound). Servers reach some part of it, most often a quarter to
four fifths; which part, only a run tells.
"""

from planning.catalog_entries import Gpu
from planning.cost.assumptions import Case, mean_request
from planning.cost.uncertainty import Quantity
from planning.errors import BadInput
from planning.memory import vram
from planning.memory.shapes import Shape
from planning.memory.sharding import Setting
from planning.speed import roofline

# Of the bound: low, likely, high.
REACHED = (0.25, 0.5, 0.8)
# Beside the ratio of the two bounds: either may be missed by more than the other.
_WEIGHT = (0.5, 1.0, 2.0)
_MOST_SEQUENCES = 256


def with_bounds(case: Case, shape: Shape, gpu: Gpu) -> Case:
    """Return the case with a speed from the bounds of a model on the case's GPUs per replica.

    Raises BadInput when the model does not fit on them, or its bounds are not known.
    """
    gpus = case.hosting.gpus_per_replica
    inputs, outputs = mean_request(case.requests)
    batch = _batch(shape, gpu, gpus, round(inputs + outputs))
    decode = roofline.decode_bound(shape, gpu, gpus=gpus, batch=batch, context_tokens=inputs + outputs / 2).tok_s
    prefill = roofline.prefill_bound(shape, gpu, gpus=gpus).tok_s
    bound = outputs / (inputs / prefill + outputs / decode)
    low, mode, high = (share * bound for share in REACHED)
    source = (
        f"not measured: {REACHED[0]:.0%} to {REACHED[2]:.0%} of the bound of {shape.name} on {gpus} × {gpu.name}, "
        f"{bound:,.0f} tok/s with {batch} requests at once"
    )
    ends = [min(factor * decode / prefill, 10.0) for factor in _WEIGHT]
    speed = Quantity(low=low, mode=mode, high=high, unit="tok/s", source=source)
    weight = Quantity(low=ends[0], mode=ends[1], high=ends[2], unit="ratio", source="not measured: from the two bounds")
    kept = {name: quantity for name, quantity in case.inputs.items() if name != "slo_output_tok_s"}
    note = f"The speed is a guess from bounds: measure {shape.name} on {gpu.name} and give the run with --run."
    return case.model_copy(
        update={
            "name": f"{shape.name} on {gpus} × {gpu.name}, not measured",
            "hosting": case.hosting.model_copy(update={"model": shape.name}),
            "inputs": {**kept, "output_tok_s": speed, "input_token_weight": weight},
            "speed_mix": (inputs, outputs),
            "notes": (*(text for text in case.notes if not text.startswith("The example's speed")), note),
        }
    )


def _batch(shape: Shape, gpu: Gpu, gpus: int, tokens: int) -> int:
    """How many requests of so many tokens the GPUs hold at once."""
    made = vram.estimate(shape, gpu, Setting(tensor_parallel=gpus), context_tokens=max(1, tokens))
    batch = made.max_concurrency(max(1, tokens))
    if batch is None:
        raise BadInput(f"How much cache {shape.name} needs is not known, so neither is its batch. Measure it (--run).")
    if batch == 0:
        raise BadInput(
            f"{shape.name} does not fit on {gpus} × {gpu.name} with a request of {tokens:,} tokens. `nbridge vram "
            f"{shape.name}` shows what does; --gpus N takes more of them."
        )
    return min(batch, _MOST_SEQUENCES)
