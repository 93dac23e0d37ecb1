"""Scores model directories on the same tokens with vLLM, one after the other in this process.

python score_in_engine.py TEXT_FILE OUT_JSON DIRECTORY… writes, for each directory, the log-probability of every scored
token, the engine's first choice at its place, and a greedy continuation.
"""

import json
import os
import sys
from pathlib import Path

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
WINDOWS, WINDOW_TOKENS, CONTINUED_TOKENS = 16, 128, 32


def score(directory: str, text: str) -> dict:
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    engine = LLM(
        model=directory,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=8,
        enable_prefix_caching=False,
        gpu_memory_utilization=0.3,
    )
    ids = engine.get_tokenizer().encode(text, add_special_tokens=False)
    step = len(ids) // WINDOWS
    prompts = [{"prompt_token_ids": ids[i * step : i * step + WINDOW_TOKENS]} for i in range(WINDOWS)]
    scoring = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1)
    logprobs, choices = [], []
    for output in engine.generate(prompts, scoring, use_tqdm=False):
        for token, found in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True):
            logprobs.append(found[token].logprob)
            choices.append(next(choice for choice, entry in found.items() if entry.rank == 1))
    greedy = SamplingParams(max_tokens=CONTINUED_TOKENS, temperature=0, ignore_eos=True)
    continued = [list(o.outputs[0].token_ids) for o in engine.generate(prompts[:4], greedy, use_tqdm=False)]
    del engine
    cleanup_dist_env_and_memory()
    return {"logprobs": logprobs, "choices": choices, "continued": continued}


if __name__ == "__main__":
    text_file, out, *directories = sys.argv[1:]
    held_out = Path(text_file).read_text(encoding="utf-8")
    Path(out).write_text(json.dumps([score(directory, held_out) for directory in directories]))
