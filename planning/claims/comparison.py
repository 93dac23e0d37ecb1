"""“N times cheaper than the API”, taken apart: from the ratio as stated, step by step, to the one that holds.

Each step mends one thing and leaves the ratio that remains: today's price, no speed above the roofline, whole requests
on both sides, the utilization that the demand gives, the full cost, the discounts that the API gives, the same model.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date

from inputs.quantities import count, number
from planning import catalogs
from planning.claims.claimfile import Comparison
from planning.claims.formula import Span
from planning.cost import api_prices
from planning.cost.api_prices import PER_MTOK
from planning.cost.uncertainty import Number
from planning.cost.wording import span_text, times_text
from planning.memory import models
from planning.speed import roofline

_SECONDS = 3600.0
_QUANTIZATIONS = {
    "fp8": "fp8",
    "int8": "int8",
    "w8a8": "int8",
    **dict.fromkeys(("int4", "w4a16"), "int4"),
    "awq": "awq",
    "gptq": "gptq",
    "bitsandbytes": "bitsandbytes",
    "nf4": "bitsandbytes",
}


@dataclass(frozen=True)
class WalkStep:
    """The ratio (API cost over own cost) after one correction; `code` is None for a step that mends no mistake."""

    code: str | None
    label: str
    ratio: float


@dataclass(frozen=True)
class Walk:
    """All steps of a comparison. `codes` are the mistakes found, also those that no number can mend."""

    steps: tuple[WalkStep, ...]
    codes: tuple[str, ...]
    reason: str
    inputs: tuple[str, ...]

    @property
    def corrected(self) -> float:
        return self.steps[-1].ratio


@dataclass
class _State:
    """What is compared at a point of the walk: USD per million tokens of either side."""

    own: float
    api: float
    steps: list[WalkStep] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)

    def step(self, code: str | None, label: str) -> None:
        self.steps.append(WalkStep(code, label, self.api / self.own))
        if code:
            self.codes.append(code)


def walk(claimed: Span, stated: Comparison, *, on: date | None = None, tolerance: float = 0.05, text: str = "") -> Walk:
    """Return the walk from the stated ratio to the one that holds, with API prices of the day `on`.

    The weights are those of the comparison's `quantization`, else of the one that the claim's `text` names.
    Raises UnknownName when a model or GPU is not known.
    """
    price = api_prices.find(stated.api, on=on)
    rate = (price.standard.output if stated.price_of == "output" else price.standard.input).base
    said = stated.api_usd_per_mtok or rate
    state = _State(own=stated.usd_per_hour / _SECONDS / stated.tok_s * PER_MTOK, api=said)
    state.step(
        None,
        f"as stated: ${said:g} per M {stated.price_of} tokens of {price.name} over ${stated.usd_per_hour:g}/h ÷ "
        f"{stated.tok_s:,.0f} {stated.tok_s_of} tok/s = ${number(state.own)} per M",
    )
    if not _near(claimed, state.api / state.own, tolerance):
        state.codes.append("ARITHMETIC")
    if abs(said - rate) > 0.01 * rate:
        state.api = rate
        state.step("STALE_PRICE", f"{price.name} asks ${rate:g} per M {stated.price_of} tokens on {price.on}")
    quantization = stated.quantization or quantization_in(text)
    speed = _within_roofline(stated, state, quantization)
    per_request = stated.input_tokens + stated.output_tokens
    rps = _requests_per_second(stated, speed)
    _whole_requests(stated, state, price.standard, rps)
    if stated.slo_tok_s is not None and stated.slo_tok_s < speed:
        rps *= stated.slo_tok_s / speed
        state.own *= speed / stated.slo_tok_s
        state.step("NO_SLO", f"{stated.slo_tok_s:,.0f} tok/s is what meets the latency limit")
    elif stated.slo is None:
        state.codes.append("NO_SLO")
    _demand(stated, state, rps, per_request)
    _discounts(stated, state, price, per_request)
    _same_model(stated, state, per_request, on)
    inputs = (
        f"API price of {price.on}: {price.package}",
        f"requests of {count(stated.input_tokens)} input and {count(stated.output_tokens)} output tokens",
        f"{stated.hours_per_month:g} h a month",
        *([f"weights in {quantization}"] if stated.model and quantization != "none" else []),
    )
    return Walk(tuple(state.steps), tuple(dict.fromkeys(state.codes)), _reason(claimed, state), inputs)


def quantization_in(text: str) -> str:
    """Return the quantization of weights that a text names ("none" when it names none, or more than one)."""
    words = set(re.findall(r"[a-z0-9]+", text.lower().replace("4-bit", "int4").replace("8-bit", "int8")))
    found = {meaning for word, meaning in _QUANTIZATIONS.items() if word in words}
    return found.pop() if len(found) == 1 else "none"


def _near(claimed: Span, ratio: float, tolerance: float) -> bool:
    return claimed[0] * (1 - tolerance) <= ratio <= claimed[1] * (1 + tolerance)


def _within_roofline(stated: Comparison, state: _State, quantization: str) -> float:
    """The stated speed, or the bound of the hardware where it lies above it."""
    if stated.model is None or stated.gpu is None:
        return stated.tok_s
    shape, gpu = models.read(stated.model, quantization), catalogs.load().gpu(stated.gpu)
    if stated.tok_s_of == "output":
        if stated.batch is None:
            return stated.tok_s
        bound = roofline.decode_bound(
            shape, gpu, gpus=stated.gpus, batch=stated.batch, context_tokens=stated.input_tokens
        ).ceiling_tok_s
        what = f"decoding {stated.batch:g} requests at a time"
    else:
        bound = roofline.prefill_bound(shape, gpu, gpus=stated.gpus).tok_s
        what = "reading prompts"
    if stated.tok_s <= bound:
        return stated.tok_s
    state.own *= stated.tok_s / bound
    many = f"{stated.gpus} × " if stated.gpus > 1 else ""
    state.step("ABOVE_ROOFLINE", f"{many}{gpu.label} cannot pass {bound:,.0f} tok/s {what} with {stated.model}")
    return bound


def _requests_per_second(stated: Comparison, speed: float) -> float:
    match stated.tok_s_of:
        case "output":
            return speed / stated.output_tokens
        case "total":
            return speed / (stated.input_tokens + stated.output_tokens)
        case "input":
            # The prompt alone: the answer's tokens take their own time, at the speed stated for them if any.
            seconds = stated.input_tokens / speed
            if stated.output_tok_s is not None:
                seconds += stated.output_tokens / stated.output_tok_s
            return 1 / seconds


def _whole_requests(stated: Comparison, state: _State, rates: api_prices.Rates, rps: float) -> None:
    per_request = stated.input_tokens + stated.output_tokens
    mixed = stated.tok_s_of != stated.price_of
    state.own = stated.usd_per_hour / _SECONDS / rps / per_request * PER_MTOK
    state.api = float(rates.request_usd(stated.input_tokens, stated.output_tokens)) / per_request * PER_MTOK
    left_out = ""
    if stated.tok_s_of == "input" and stated.output_tok_s is None:
        left_out = " (the time of the answers is not stated and still left out)"
    state.step(
        "TOKEN_KIND_MISMATCH" if mixed else None,
        f"whole requests on both sides: ${number(state.api)} by API, ${number(state.own)} of own, "
        f"per M tokens{left_out}",
    )


def _demand(stated: Comparison, state: _State, rps: float, per_request: float) -> None:
    machines = 1
    monthly = stated.usd_per_hour * stated.hours_per_month
    capacity = rps * per_request * stated.hours_per_month * _SECONDS
    if stated.tokens_per_month is not None:
        share = stated.tokens_per_month / capacity
        machines = max(1, math.ceil(share - 1e-9))
        state.own = machines * monthly / stated.tokens_per_month * PER_MTOK
        if machines > 1:
            state.step(
                "OVER_CAPACITY",
                f"{stated.tokens_per_month / 1e6:,.0f} M tokens a month need {machines} machines: one carries "
                f"{capacity / 1e6:,.0f} M",
            )
        elif share < 0.95:
            state.step(
                "PEAK_VS_LIST",
                f"{stated.tokens_per_month / 1e6:,.3g} M tokens a month use {share:.2%} of it, and the month is paid "
                f"whole: ${state.own:,.4g} per M",
            )
    else:
        state.codes.append("PEAK_VS_LIST")
    if stated.extra_usd_per_month is None:
        state.codes.append("MARGINAL_VS_FULL")
    elif stated.extra_usd_per_month > 0:
        tokens = stated.tokens_per_month or capacity
        state.own += stated.extra_usd_per_month / tokens * PER_MTOK
        state.step(
            "MARGINAL_VS_FULL", f"with ${stated.extra_usd_per_month:,.0f} a month for work, storage and the rest"
        )


def _discounts(stated: Comparison, state: _State, price: api_prices.ApiPrice, per_request: float) -> None:
    if not stated.batch_share and not stated.cached_share:
        return
    cached = stated.cached_share * stated.input_tokens
    ways: tuple[tuple[float, Callable[[float, float, float], Number]], ...] = (
        (1 - stated.batch_share, price.standard.request_usd),
        (stated.batch_share, (price.batch or price.standard).request_usd),
    )
    usd = sum(share * float(ask(stated.input_tokens, stated.output_tokens, cached)) for share, ask in ways)
    state.api = usd / per_request * PER_MTOK
    state.step(
        "BATCH_OR_CACHE_IGNORED",
        f"{stated.batch_share:.0%} of requests by batch and {stated.cached_share:.0%} of input from the API's cache: "
        f"${number(state.api)} per M",
    )


def _same_model(stated: Comparison, state: _State, per_request: float, on: date | None) -> None:
    if stated.same_model_api is None:
        state.codes.append("NOT_SAME_QUALITY")
        return
    same = api_prices.find(stated.same_model_api, on=on)
    if same.name == api_prices.find(stated.api, on=on).name:
        return
    usd = float(same.standard.request_usd(stated.input_tokens, stated.output_tokens))
    state.api = usd / per_request * PER_MTOK
    state.step("NOT_SAME_QUALITY", f"the same model is sold as {same.name}: ${number(state.api)} per M")


def _reason(claimed: Span, state: _State) -> str:
    said = span_text(claimed, "times")
    return f"Said to be {said} cheaper; with every step below it is {times_text(state.steps[-1].ratio)}."
