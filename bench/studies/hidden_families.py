"""Hidden states of every decoder family against Hugging Face: which are proven, how exact they are, which are refused.

    python -m bench.studies.hidden_families [FAMILY …] [--missing] [--publish]

Each family's small random model is loaded by vLLM (CPU, 32 bit, in a process of its own, with our worker) and by
transformers. Prompts of 1 to 200 tokens, each twice, are asked with all poolings and all places in one go, in chunks
of 64 tokens, with the prefix cache as vLLM has it for the family, beside a stream of 40 tokens. "+compiled" after a
name compiles the model with the layers 0 and -2 and the embeddings declared. Prints one JSON line a family; exit code
1 when a state that was given out is wrong.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from bench.studies import hidden_families_page
from bench.studies.families import CONTEXT, FAMILIES, VOCABULARY, save_random_model
from serve.hidden_states.protocol import KEY, resolve

DECLARED: list[int | str] = [0, -2, "embeddings"]
LENGTHS = (1, 2, 63, 64, 65, 130, 200)
POOLINGS = ("last", "mean", "all")
WORKER_CLS = "serve.hidden_states.worker.Worker"
# Of a single vector in 32 bit.
LIMIT = 1e-5
NOT_RUN = ("transformers does not run it", "vLLM does not run it")
FAMILY_TIMEOUT_S = 900

Line = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.studies.hidden_families", description=(__doc__ or "")[:116])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="names; without any, all of them")
    parser.add_argument("--missing", action="store_true", help="only those that are not published for these versions")
    parser.add_argument("--publish", action="store_true", help="put the figures into the repository's table")
    chosen = parser.parse_args(arguments)
    names = chosen.families or list(FAMILIES)
    for name in names:
        if name.partition("+")[0] not in FAMILIES:
            parser.error(f"unknown family {name!r}; there are {', '.join(FAMILIES)}")
    if chosen.missing:
        known = hidden_families_page.read()
        names = [name for name in names if name not in known]
    right = True
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            line = in_its_own_process(name, Path(folder) / name)
            right = right and is_right(line)
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
            if chosen.publish:
                hidden_families_page.write({**hidden_families_page.read(), name: line})
    return 0 if right else 1


def is_right(line: Line) -> bool:
    """Whether nothing wrong was given out: every state within the limit, or no state at all."""
    if "error" in line:
        return str(line["error"]).startswith(NOT_RUN)
    if line["mode"] == "off":
        return bool(line["reason"])
    if hidden_families_page.is_another_model(line):
        return True  # and nothing right either: the page says so
    # Twice what the final norm alone shows the engine's own difference to be.
    limit = max(LIMIT, 2 * float(line["worst"]["final_norm"]))
    return bool(line["unknown_refused"]) and max(line["worst"].values()) <= limit


def in_its_own_process(name: str, folder: Path) -> Line:
    """The line of one family; a process that is killed or hangs becomes an error there."""
    context = multiprocessing.get_context("fork")  # vLLM is imported once, for all of them
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, name, folder))
    begin_s = time.perf_counter()
    child.start()
    theirs.close()
    try:
        line: Line = ours.recv() if ours.poll(FAMILY_TIMEOUT_S) else {"error": f"lost: no end in {FAMILY_TIMEOUT_S} s"}
    except EOFError:
        line = {"error": "lost: the process ended"}
    if child.is_alive() and "error" in line:
        child.kill()
    child.join()
    return {"family": name, **line, "seconds": round(time.perf_counter() - begin_s, 1)}


def _child(pipe: Connection, name: str, folder: Path) -> None:
    try:
        pipe.send(measure(name, folder))
    except BaseException as error:  # noqa: BLE001 - whatever a family ends with is its line
        pipe.send({"error": _told(error)})
    pipe.close()
    os._exit(0)  # the engine's threads may still wait


def _told(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return text[:300] if text.startswith(NOT_RUN) else f"{type(error).__name__}: {text[:300]}"


def measure(name: str, folder: Path) -> Line:
    """Mode, proof and the worst relative error at each place, of one family's states against Hugging Face's."""
    import numpy as np

    from bench.studies.hidden_truth import Reference

    family, _, compiled = name.partition("+")
    random = np.random.default_rng(3)
    prompts = [[int(one) for one in random.integers(3, VOCABULARY, length)] for length in LENGTHS]
    wrong: Exception | None = None
    path = str(folder)
    try:
        save_random_model(family, folder)
        reference = Reference(path)
        for ids in prompts:  # before vLLM loads, which changes some of transformers' classes
            reference.states(ids)
    except Exception as error:  # noqa: BLE001 - what vLLM refuses need not have a truth
        wrong = error
    try:
        llm = load(path, compiled=bool(compiled))
    except Exception as error:
        raise RuntimeError(f"{NOT_RUN[1]}: {_cause(error)}") from error
    facts = llm.collective_rpc("nbridge_hidden_states")[0]
    line = {key: facts[key] for key in ("mode", "reason", "proof_s")} | {"class": llm.apply_model(_class_name)[0]}
    if facts["mode"] == "off":
        return line
    if wrong is not None:
        raise RuntimeError(f"{NOT_RUN[0]}: {_cause(wrong)}") from wrong
    layers = [*DECLARED, "final_norm"] if compiled else ["embeddings", *range(reference.num_layers), "final_norm"]
    return line | compare(llm.llm_engine, reference, prompts, layers)


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _class_name(model: Any) -> str:
    return type(model).__name__


def load(path: str, *, compiled: bool = False) -> Any:
    from vllm import LLM

    return LLM(
        model=path,
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=CONTEXT,
        max_num_batched_tokens=64,
        max_num_seqs=4,
        enforce_eager=not compiled,
        worker_cls=WORKER_CLS,
        additional_config={KEY: {"layers": DECLARED}},
    )


def compare(engine: Any, reference: Any, prompts: list[list[int]], layers: list[int | str]) -> Line:
    """The worst relative error by place, over all prompts, poolings and repeats, all in the engine at once."""
    from vllm import SamplingParams

    from bench.studies.hidden_truth import place_of, relative_error
    from serve.hidden_states.capture import NO_TAP

    asked = {
        f"{number}-{pooling}-{repeat}": (ids, pooling)
        for repeat in range(2)
        for number, ids in enumerate(prompts)
        for pooling in POOLINGS
    }
    taps = [resolve(layer, reference.num_layers).tap for layer in layers]
    engine.add_request(
        "plain", {"prompt_token_ids": [5, 6, 7]}, SamplingParams(max_tokens=40, ignore_eos=True, detokenize=False)
    )
    for request_id, (ids, pooling) in asked.items():
        add(engine, request_id, ids, taps, pooling)
    add(engine, "beyond", [5, 6, 7], [99], "last")
    outputs: dict[str, Any] = {}
    while engine.has_unfinished_requests():
        outputs |= {output.request_id: output for output in engine.step()}
    worst = dict.fromkeys((str(layer) for layer in layers), 0.0)
    places = [place_of(layer, reference.num_layers) for layer in layers]
    for request_id, (ids, pooling) in asked.items():
        data = outputs[request_id].outputs.data
        if not data.dtype.is_floating_point:
            raise RuntimeError(f"request {request_id} failed with the code {data.tolist()}")
        expected = reference.expected(ids, places, pooling)
        for layer, found, wanted in zip(layers, data.float().numpy(), expected, strict=True):
            worst[str(layer)] = max(worst[str(layer)], relative_error(found, wanted))
    if len(outputs["plain"].outputs[0].token_ids) != 40:
        raise RuntimeError("the stream beside did not get its 40 tokens")
    beyond = outputs["beyond"].outputs.data
    refused = not beyond.dtype.is_floating_point and beyond.tolist() == [NO_TAP]
    return {"worst": {layer: float(f"{error:.2g}") for layer, error in worst.items()}, "unknown_refused": refused}


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
    import transformers  # noqa: F401
    import vllm  # noqa: F401

    sys.exit(main())
