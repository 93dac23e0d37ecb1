"""Run by a test in a process of its own: `bench.studies.hidden_families` with one family more, whose model is crooked.

Its blocks are a Llama's that hand on twice what they should and halve what they are given, so the stream is
`0.5 · output + residual`: neither one of a block's outputs nor their sum. The model has vLLM's auxiliary outputs, and
they are wrong alike.
"""

import sys
from typing import Any

import transformers  # noqa: F401
from torch import Tensor
from vllm import ModelRegistry
from vllm.config import VllmConfig
from vllm.model_executor.models import registry
from vllm.model_executor.models.llama import LlamaDecoderLayer, LlamaForCausalLM

from bench.studies import hidden_families
from bench.studies.families import FAMILIES, Family


class CrookedLayer(LlamaDecoderLayer):
    def forward(self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None) -> Any:
        given = hidden_states if residual is None else 0.5 * hidden_states
        output, residual = super().forward(positions, given, residual)
        return 2 * output, residual


class CrookedForCausalLM(LlamaForCausalLM):
    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        for layer in self.model.layers:
            layer.__class__ = CrookedLayer


if __name__ == "__main__":
    # vLLM looks at each new class in a process of its own, so that the caller's stays without CUDA: ten seconds each.
    registry._run_in_subprocess = lambda look: look()
    ModelRegistry.register_model("CrookedForCausalLM", CrookedForCausalLM)
    FAMILIES["crooked"] = Family("LlamaConfig", FAMILIES["llama"].values, "CrookedForCausalLM")
    sys.exit(hidden_families.main(sys.argv[1:]))
