"""What a GPU holds beside weights and cache: estimates with a range, the weak part of any plan. Pure.

After a start, vLLM's own figures replace them.
"""

from checkpoints.tensors import prequantized
from planning.catalog_entries import Gpu, Spread, point
from planning.catalogs import GIB
from planning.memory.shapes import Shape
from planning.memory.sharding import Setting, text_value

# What no formula gives, GiB per GPU: remembered start-up logs of 7B to 70B models, not measured for this file.
_NON_TORCH_GIB = Spread(low=0.1, mode=0.3, high=0.8)
_NON_TORCH_GIB_PARALLEL = Spread(low=0.4, mode=0.9, high=2.0)
_GRAPHS_GIB = Spread(low=0.2, mode=0.6, high=2.0)
# Fused kernels keep much less than a step's values, unfused ones more.
_ACTIVATION_RANGE = (0.4, 2.0)
# The sampler's copies of a step's logits, at 32 bit: logits, probabilities, sorted values and indices.
_LOGIT_COPIES = 4


def padding(shape: Shape, tensor_parallel: int = 1) -> Spread:
    """Return how many times as large as in the files the weights are once an engine's kernels have padded them.

    1 but for MXFP4 experts, whose width and inner width vLLM 0.32 rounds up to what its kernels take: the inner width
    to 64 at least (Triton), to 128 and the width to 256 at most (Marlin). gpt-oss-120b printed 64.4 and 66.0 GiB.
    """
    text = shape.text
    width, inner = text_value(text, "hidden_size"), text_value(text, "moe_intermediate_size")
    inner = inner or text_value(text, "intermediate_size")
    if shape.scheme != prequantized.MXFP4 or not width or not inner or not shape.weights_bytes:
        return point(1)

    def grown(inner_step: int, width_step: int) -> float:
        held = inner / tensor_parallel
        wide, deep = -(-width // width_step) * width_step, -(-held // inner_step) * inner_step
        return 1 + (wide * deep / (width * held) - 1) * shape.expert_bytes / shape.weights_bytes

    low, high = grown(64, 1), grown(128, 256)
    return Spread(low=low, mode=high, high=high)


def outside_torch(setting: Setting) -> Spread:
    """Return the bytes of driver and library contexts and of buffers for communication, on one GPU."""
    return (_NON_TORCH_GIB_PARALLEL if setting.gpus > 1 else _NON_TORCH_GIB).times(GIB)


def graphs(setting: Setting) -> Spread:
    """Return the bytes of captured CUDA graphs on one GPU; 0 when they are off."""
    return _GRAPHS_GIB.times(GIB) if setting.graphs else point(0)


def activation_peak(shape: Shape, gpu: Gpu, setting: Setting) -> Spread:
    """Return the bytes of one full step beyond weights and cache: an estimate, from 0.4 to twice its middle.

    The widest layer's values for every token of the batch, or the sampler's copies of the logits, whichever comes
    later in the step; both are counted because torch keeps what it has allocated.
    """
    text, tensor = shape.text, setting.tensor_parallel
    sequences, tokens = setting.batch(gpu)
    hidden, heads = text_value(text, "hidden_size"), text_value(text, "num_attention_heads")
    inner = 3 * text_value(text, "intermediate_size") / tensor
    if shape.experts is not None:
        width = text_value(text, "moe_intermediate_size") or text_value(text, "intermediate_size")
        inner = max(inner, shape.experts[1] * (3 * width / tensor + hidden))
    if text.get("kv_lora_rank"):
        head = sum(text_value(text, name) for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
        inner = max(inner, 2 * heads * head / tensor)
    step_bytes = tokens * (2 * hidden + inner) * 2
    logits_bytes = min(sequences, tokens) * text_value(text, "vocab_size") * 4 * _LOGIT_COPIES
    mode = step_bytes + logits_bytes
    return Spread(low=mode * _ACTIVATION_RANGE[0], mode=mode, high=mode * _ACTIVATION_RANGE[1])
