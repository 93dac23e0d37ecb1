"""vLLM's worker, which also captures hidden states: `--worker-cls serve.hidden_states.worker.Worker`.

A request that wants states says so in SamplingParams.extra_args and is otherwise an ordinary request of one generated
token, so that scheduling, chunking, caching, preemption and aborting stay vLLM's own. Its states leave by
`ModelRunnerOutput.pooler_output`, which the scheduler forwards for generating requests too, and are gone with it.

Verified on the CPU: V1 model runner, eager and compiled, chunked prefill, prefix cache, LoRA adapters. Written after
vLLM's sources but not run: the V2 model runner and asynchronous outputs (both usual on CUDA), CUDA graphs, data
parallelism.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from serve.errors import ContractError
from serve.hidden_states import capture, contract, proof, rehearsal
from serve.hidden_states.protocol import DEFAULT_LAYER, FINAL_NORM, KEY, ApiError, resolve
from serve.hidden_states.taps import AuxTaps, HookTaps, Taps, event_on, has_aux_taps

contract.check(contract.WORKER)

from vllm.config import CompilationMode, CUDAGraphMode  # noqa: E402
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank  # noqa: E402
from vllm.model_executor.models.interfaces import supports_eagle3  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.v1.outputs import AsyncModelRunnerOutput  # noqa: E402

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as _PlatformWorker
elif current_platform.is_xpu():
    from vllm.v1.worker.xpu_worker import XPUWorker as _PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as _PlatformWorker

contract.refuse(contract.worker_uses(_PlatformWorker))
# The name puts the lines under vLLM's own log configuration.
_log = logging.getLogger("vllm.nbridge.worker")


class Worker(_PlatformWorker):  # type: ignore[misc]
    """The platform's worker with a ledger of the requests that want hidden states."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        _refuse_unhookable(self.vllm_config)
        super().load_model(*args, **kwargs)
        config = self.vllm_config.model_config
        self._ledger = capture.Ledger()
        self._ready: tuple[Any, dict[str, Tensor]] | None = None
        self._num_layers = int(config.get_total_num_hidden_layers())
        self._proof_s: float | None = None
        # Of the proving pass: the stream before the first block and after each, and the output.
        self._proven: tuple[Tensor, ...] = ()
        self._aux, self._reason = _aux_taps(self.model_runner, self.vllm_config)
        # Nothing is given out before it is proven, but what is compiled in must be so from the first pass on.
        self._taps: Taps | None = None
        if self._aux is not None and self._aux.mode == "compiled":
            self._aux.select(_declared_taps(self.vllm_config.additional_config, self._num_layers))

    def compile_or_warm_up_model(self) -> Any:
        # Before the graphs are captured and the random seeds are set anew.
        begin_s = time.perf_counter()
        if self._reason is None:
            self._prove()
        self._proof_s = time.perf_counter() - begin_s
        result = super().compile_or_warm_up_model()
        begin_s = time.perf_counter()
        if isinstance(self._taps, AuxTaps) and self._taps.mode == "compiled":
            self._check_compiled(self._taps)
        self._proof_s += time.perf_counter() - begin_s
        _log.info("Hidden states: %s", self.nbridge_hidden_states())
        return result

    def nbridge_hidden_states(self) -> dict[str, Any]:
        """What this worker can do, for the API server: mode, taps when they are fixed, why not when it is off."""
        fixed = self._taps is not None and self._taps.mode == "compiled"
        return {
            "mode": self._taps.mode if self._taps else "off",
            "taps": list(self._taps.selected) if self._taps and fixed else None,
            "num_layers": self._num_layers,
            "hidden_size": int(self.vllm_config.model_config.get_hidden_size()),
            "reason": self._reason,
            "living": len(self._ledger.requests),
            "proof_s": self._proof_s,
        }

    def _prove(self) -> None:
        """Learn how the stream of this model is read, and keep only what a pass of a few tokens shows to be so."""
        aux = self._aux
        try:
            wiring, played = self._rehearse(aux)
        except proof.Unproven as error:
            self._reason = str(error)
        except Exception as error:  # noqa: BLE001 - the server must start, whatever a model or a runner makes of it
            _log.exception("The pass that proves hidden states failed")
            self._reason = f"the pass that proves them failed: {type(error).__name__}: {str(error)[:200]}"
        else:
            if aux is not None and proof.all_near(played.taps, wiring.streams):
                self._taps, self._proven = aux, (*wiring.streams, played.output)
            elif _is_eager(self.vllm_config):
                self._taps = HookTaps(wiring)
            else:
                self._reason = "the model's auxiliary outputs are not the streams between its blocks"

    def _rehearse(self, aux: AuxTaps | None) -> tuple[proof.Wiring, rehearsal.Played]:
        fixed = aux.selected if aux else ()
        config = self.vllm_config.model_config
        with rehearsal.uncompiled(self.model_runner) as model:
            watch = proof.Watch(
                model, self._num_layers, int(config.get_hidden_size()), len(rehearsal.prompt(self.vllm_config))
            )
            try:
                if aux is not None:
                    aux.select(tuple(range(self._num_layers + 1)))
                with watch.watching():
                    played = self._play()
            finally:
                if aux is not None:
                    aux.select(fixed)
        return watch.wiring(played.output), played

    def _check_compiled(self, taps: AuxTaps) -> None:
        """Hold what the compiled graph delivers against the same prompt's streams in the model as it is written."""
        try:
            played = self._play()
        except Exception as error:  # noqa: BLE001 - as above
            _log.exception("The pass that proves hidden states failed once compiled")
            self._taps, self._reason = None, f"the pass that proves them failed: {type(error).__name__}"
            return
        places = [*taps.selected, len(self._proven) - 1]
        delivered = [*played.taps, played.output]
        if len(delivered) != len(places) or not all(
            proof.nearest(found, self._proven) == place for found, place in zip(delivered, places, strict=True)
        ):
            self._taps, self._reason = None, "the compiled model delivers other streams than the model as it is written"
        self._proven = ()

    def _play(self) -> rehearsal.Played:
        return rehearsal.play(
            self.model_runner, super().execute_model, super().sample_tokens, rehearsal.prompt(self.vllm_config)
        )

    def execute_model(self, scheduler_output: Any) -> Any:
        spans = self._plan(scheduler_output)
        output = super().execute_model(scheduler_output)
        if spans and output is None and self.model_runner.execute_model_state is not None:
            self._collect(spans)
        return output

    def sample_tokens(self, grammar_output: Any) -> Any:
        ready, self._ready = self._ready, None
        output = super().sample_tokens(grammar_output)
        if ready is None or output is None:
            return output
        if isinstance(output, AsyncModelRunnerOutput):
            return _LateOutput(output, ready)
        return _attach(output, ready)

    def _plan(self, step: Any) -> dict[str, capture.Span]:
        """What to capture in this step; also tells the model which taps to deliver."""
        if self._taps is None:
            return {}
        ledger = self._ledger
        if ledger.requests:
            ledger.forget(step.finished_req_ids)
        for new in step.scheduled_new_reqs:
            if new.sampling_params is not None and new.sampling_params.extra_args and new.prompt_token_ids is not None:
                ledger.add(new.req_id, new.sampling_params.extra_args, len(new.prompt_token_ids))
        if not ledger.requests:
            if self._taps.selected and self._taps.mode != "compiled":
                self._taps.select(())
            return {}
        cached = step.scheduled_cached_reqs
        starts = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        starts |= {new.req_id: new.num_computed_tokens for new in step.scheduled_new_reqs}
        spans = ledger.plan(starts, step.num_scheduled_tokens)
        if self._taps.mode != "compiled":
            valid = range(self._num_layers + 1)
            self._taps.select(tuple(tap for tap in capture.taps_of(spans) if tap in valid))
        return spans

    @torch.inference_mode()
    def _collect(self, spans: Mapping[str, capture.Span]) -> None:
        """Take this step's states while its batch still lies as it was computed."""
        if self._taps is None:
            return
        state = self.model_runner.execute_model_state
        values = self._taps.values(state)
        if get_tensor_model_parallel_rank() != 0:  # every rank holds the same stream, and the first one answers
            return
        try:
            batch = getattr(state, "input_batch", None)  # only the V2 model runner keeps it there
            if batch is None:
                places, begins = self.model_runner.input_batch.req_id_to_index, self.model_runner.query_start_loc.np
            else:
                places = {request_id: place for place, request_id in enumerate(batch.req_ids)}
                begins = batch.query_start_loc_np
            first_rows = {request_id: int(begins[places[request_id]]) for request_id in spans}
            done = capture.collect(spans, first_rows, {**values, FINAL_NORM: state.hidden_states})
            device = state.hidden_states.device
            done = {request_id: states.to("cpu", non_blocking=True) for request_id, states in done.items()}
            event = event_on(device) if done else None
        except Exception:  # noqa: BLE001 - ordinary requests of the same step must go on, whatever happened here
            _log.exception("Hidden states of %d requests were not captured", len(spans))
            event, done = None, {}
            for request_id, span in spans.items():
                span.wanted.failure = capture.INTERNAL
                if span.ends:
                    done[request_id] = capture.failure(capture.INTERNAL)
        self._ready = (event, done) if done else None


class _LateOutput(AsyncModelRunnerOutput):  # type: ignore[misc]
    """An output that is still being copied to the host, to which the states are added when it has arrived."""

    def __init__(self, inner: Any, ready: tuple[Any, dict[str, Tensor]]) -> None:
        self._inner = inner
        self._ready = ready

    def get_output(self) -> Any:
        return _attach(self._inner.get_output(), self._ready)


def _attach(output: Any, ready: tuple[Any, dict[str, Tensor]]) -> Any:
    event, done = ready
    if event is not None:
        event.synchronize()
    states = output.pooler_output or [None] * len(output.req_ids)
    for request_id, tensor in done.items():
        place = output.req_id_to_index.get(request_id)
        if place is not None:
            states[place] = tensor
    output.pooler_output = states
    return output


def _refuse_unhookable(config: Any) -> None:
    if config.speculative_config is not None:
        problem = "speculative decoding, which reads the same places of the model"
    elif config.parallel_config.pipeline_parallel_size > 1:
        problem = "pipeline parallelism, where no worker sees all layers"
    else:
        return
    raise ContractError(
        f"serve.hidden_states.worker.Worker cannot capture hidden states beside {problem}.",
        next_step="Leave one of the two out: start without --worker-cls serve.hidden_states.worker.Worker (nbridge "
        "serve: --no-hidden-states), or without the other.",
    )


def _aux_taps(runner: Any, config: Any) -> tuple[AuxTaps | None, str | None]:
    """The taps that this model has by itself, or None; and why it cannot be tapped at all, or None."""
    if config.model_config.runner_type != "generate":
        return None, "the model does not generate"
    v2 = bool(getattr(config, "use_v2_model_runner", False))
    contract.check([contract.V2_RUNNER if v2 else contract.V1_RUNNER])
    model = runner.get_model()
    if supports_eagle3(model) and has_aux_taps(model):
        return AuxTaps(model, runner, mode="dynamic" if _is_eager(config) else "compiled"), None
    if not _is_eager(config):
        return None, f"{type(model).__name__} has no auxiliary outputs and is compiled; start with --enforce-eager"
    return None, None


def _is_eager(config: Any) -> bool:
    compilation = config.compilation_config
    return compilation.mode == CompilationMode.NONE and compilation.cudagraph_mode in (None, CUDAGraphMode.NONE)


def _declared_taps(additional_config: Any, num_layers: int) -> tuple[int, ...]:
    """The taps to compile in, from --additional-config; without a declaration the deployment guide's layer -2."""
    declared = additional_config.get(KEY) if isinstance(additional_config, dict) else None
    layers = declared.get("layers") if isinstance(declared, dict) else None
    if layers is None:
        layers = [DEFAULT_LAYER] if num_layers >= -DEFAULT_LAYER else [-1]
    try:
        taps = {resolve(layer, num_layers, "hidden_states_layers").tap for layer in layers}
    except (ApiError, TypeError) as error:
        raise ContractError(f"--additional-config {KEY}: {error}") from None
    return tuple(sorted(taps - {FINAL_NORM}))
