"""Run by a test in a process of its own: vLLM's engine with our worker, family by family, against Hugging Face.

Arguments: an empty folder for the models, then names of families; "+compiled" after a name compiles the model with
the layers -2 and "embeddings" declared. Prints one line of JSON per family: {"family", "mode", "worst", "refused"}.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}

import numpy as np
from hidden_reference import VOCABULARY, Reference, place_of, relative_error, save_random_model

from serve.hidden_states.capture import NO_TAP
from serve.hidden_states.protocol import KEY, resolve

LAYERS: list[int | str] = ["embeddings", 0, -2, -1, "final_norm"]
DECLARED: list[int | str] = [-2, "embeddings"]


def main(folder: Path, families: list[str]) -> None:
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    for name in families:
        family, _, compiled = name.partition("+")
        path = save_random_model(family, folder / name)
        llm = LLM(
            model=path,
            skip_tokenizer_init=True,
            dtype="float32",
            max_model_len=256,
            max_num_batched_tokens=64,
            max_num_seqs=4,
            enforce_eager=not compiled,
            worker_cls="serve.hidden_states.worker.Worker",
            additional_config={KEY: {"layers": DECLARED}},
        )
        engine = llm.llm_engine
        facts = llm.collective_rpc("nbridge_hidden_states")[0]
        reference = Reference(path)
        line = {"family": name, "mode": facts["mode"], **compare(engine, reference, bool(compiled))}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        engine.engine_core.shutdown()
        del llm, engine
        cleanup_dist_env_and_memory()


def compare(engine: Any, reference: Reference, compiled: bool) -> dict[str, Any]:
    """The worst relative error over prompts of 1 to 200 tokens, poolings and layers, all in the engine at once."""
    from vllm import SamplingParams

    random = np.random.default_rng(3)
    layers = [*DECLARED, "final_norm"] if compiled else LAYERS
    asked: dict[str, tuple[list[int], str]] = {}
    for number, length in enumerate([1, 2, 63, 64, 65, 130, 200]):
        ids = [int(one) for one in random.integers(0, VOCABULARY, length)]
        asked |= {f"{number}-{pooling}": (ids, pooling) for pooling in ("last", "mean", "all")}
    taps = [resolve(layer, reference.num_layers).tap for layer in layers]
    for request_id, (ids, pooling) in asked.items():
        add(engine, request_id, ids, taps, pooling)
    add(engine, "beyond", [1, 2, 3], [99], "last")
    engine.add_request(
        "plain", {"prompt_token_ids": [5, 6, 7]}, SamplingParams(max_tokens=40, ignore_eos=True, detokenize=False)
    )
    outputs: dict[str, Any] = {}
    while engine.has_unfinished_requests():
        outputs |= {output.request_id: output for output in engine.step()}
    worst = 0.0
    places = [place_of(layer, reference.num_layers) for layer in layers]
    for request_id, (ids, pooling) in asked.items():
        found = outputs[request_id].outputs.data.float().numpy()
        worst = max(worst, relative_error(found, reference.expected(ids, places, pooling)))
    assert len(outputs["plain"].outputs[0].token_ids) == 40
    beyond = outputs["beyond"].outputs.data
    return {"worst": worst, "refused": not beyond.dtype.is_floating_point and beyond.tolist() == [NO_TAP]}


def add(engine: Any, request_id: str, ids: list[int], taps: list[int], pooling: str) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        max_tokens=1,
        temperature=0.0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_reading_prefix_cache=pooling != "last" or None,
        extra_args={KEY: {"taps": taps, "pooling": pooling}},
    )
    engine.add_request(request_id, {"prompt_token_ids": ids}, params)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
