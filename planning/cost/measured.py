"""From a run's cells to a case's inputs: tokens a second at full load and within the SLO, and the time of a token.

A *mix* is what was asked: input and output tokens of a request. Full load of an engine at a mix is its load with the
most requests a second; repeats give the range. With two or more different mixes, the time of an input token and of an
output token follow from

    1 second = a · (input tokens a second) + b · (output tokens a second)        at full load, for each mix

by least squares (a, b ≥ 0), and with them the speed at any mix between: 1 / (a·input + b·output) requests a second.
"""

import difflib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date as Date
from typing import Any

import numpy as np

from planning.cost.assumptions import INPUTS, Case, RequestKind, mean_request
from planning.cost.uncertainty import Quantity
from planning.errors import MissingMeasurement, UnknownName
from planning.speed.capacity import LEAST_ATTAINMENT

# Mixes whose input-to-output ratios differ by less cannot tell the two kinds of tokens apart.
_DIFFERENT = 1.25
# One repeat has no range of its own.
_ASSUMED_SPREAD = 0.10
_SAME_MIX = 0.10


@dataclass(frozen=True)
class Mix:
    """An engine at full load under one mix of tokens; rates are per second, one value per repeat. `goodput_rps` is the
    best over its loads of the requests a second that met the SLO, of loads at which nine in ten requests met it; empty
    where there are none, or the run has no SLO."""

    engine: str
    load: str
    input_tokens: float
    output_tokens: float
    rps: tuple[float, ...]
    goodput_rps: tuple[float, ...]
    goodput_load: str | None
    slo: str | None

    @property
    def ratio(self) -> float:
        return self.input_tokens / self.output_tokens


@dataclass(frozen=True)
class Split:
    """The seconds of full load that one input and one output token take; `misfit` is the largest share by which a
    mix's time is missed."""

    seconds_per_input_token: float
    seconds_per_output_token: float
    misfit: float
    mixes: int

    def rps(self, input_tokens: float, output_tokens: float) -> float:
        """Return the requests a second at full load for a mix."""
        seconds = self.seconds_per_input_token * input_tokens + self.seconds_per_output_token * output_tokens
        return 1 / seconds

    def usd_per_mtok(self, usd_per_hour: float) -> tuple[float, float]:
        """Return what a million input tokens and a million output tokens cost at full load."""
        per_second = usd_per_hour / 3600 * 1e6
        return per_second * self.seconds_per_input_token, per_second * self.seconds_per_output_token


def mixes(cells: Sequence[Mapping[str, Any]]) -> list[Mix]:
    """Return each engine's full load under each of its mixes, from the cells of a run.json that are ok and valid."""
    groups: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for cell in cells:
        if _usable(cell) and not cell.get("point"):  # a search goes beyond what a server shall carry
            key = (str(cell["engine"]["name"]), _mix_key(cell["load"]))
            groups.setdefault(key, {}).setdefault(str(cell["load"]["name"]), []).append(cell["metrics"])
    found = []
    for (engine, _), loads in groups.items():
        load, measured = max(loads.items(), key=lambda pair: _median(pair[1], "request_throughput_rps"))
        good = {name: ms for name, ms in loads.items() if all(_meets(metrics) for metrics in ms)}
        best = max(good, key=lambda name: _median(good[name], "goodput_rps")) if good else None
        answered = sum(metrics["requests"]["ok"] for metrics in measured)
        found.append(
            Mix(
                engine=engine,
                load=load,
                input_tokens=sum(metrics["prompt_tokens"] for metrics in measured) / answered,
                output_tokens=sum(metrics["output_tokens"] for metrics in measured) / answered,
                rps=tuple(metrics["request_throughput_rps"] for metrics in measured),
                goodput_rps=tuple(metrics["goodput_rps"] for metrics in good[best]) if best else (),
                goodput_load=best,
                slo=_slo(measured[0].get("slo")),
            )
        )
    return found


def split(measured: Sequence[Mix]) -> Split:
    """Return the time of an input and of an output token from two or more different mixes of one engine.

    Raises MissingMeasurement when there is only one, or when they are too alike to tell the kinds apart.
    """
    if not measured:
        raise MissingMeasurement("No mix of this engine was measured, so its input and output cannot be told apart.")
    ratios = [mix.ratio for mix in measured]
    if len(measured) < 2 or max(ratios) < _DIFFERENT * min(ratios):
        listed = ", ".join(f"{mix.input_tokens:.0f}:{mix.output_tokens:.0f}" for mix in measured)
        raise MissingMeasurement(
            f"The time of input and output tokens can be told apart only by measuring different mixes; measured are "
            f"{listed} (input:output). Add a load with another prompt_tokens or output_tokens to the plan."
        )
    rates = np.array([[mix.input_tokens, mix.output_tokens] for mix in measured])
    rates *= np.array([[statistics.median(mix.rps)] for mix in measured])
    ones = np.ones(len(measured))
    a, b = (float(x) for x in np.linalg.lstsq(rates, ones, rcond=None)[0])
    if a < 0 or b < 0:
        # No token takes negative time: the other kind alone explains it best.
        column = 1 if a < 0 else 0
        alone = float(rates[:, column] @ ones / (rates[:, column] @ rates[:, column]))
        a, b = (0.0, alone) if column else (alone, 0.0)
    misfit = float(np.abs(rates @ np.array([a, b]) - 1).max())
    return Split(a, b, misfit, len(measured))


def with_run(case: Case, run: Mapping[str, Any], *, engine: str | None = None, keep_mix: bool = False) -> Case:
    """Return the case with the speed that a run (its run.json) measured for `engine` (the fastest when None).

    Without `keep_mix` the case's requests become those of the engine's fastest mix. With it they stay, and the speed is
    that of the measured mix most like them; two or more measured mixes also give the weight of an input token. Raises
    MissingMeasurement when the run does not tell, UnknownName when it has no such engine.
    """
    name = str(run.get("run_id") or "the run")
    own = _mixes_of(run, engine, name)
    wanted = mean_request(case.requests)
    if keep_mix:
        mix = min(own, key=lambda one: abs(math.log((one.ratio + 0.01) / (wanted[0] / wanted[1] + 0.01))))
    else:
        mix = max(own, key=lambda one: statistics.median(one.rps) * one.output_tokens)
    date = Quantity.model_validate(
        {"low": 0, "mode": 0, "high": 0, "date": str(run.get("created") or "")[:10] or None}
    ).date
    where = f"{name}, engine {mix.engine}"
    inputs = {key: value for key, value in case.inputs.items() if key != "slo_output_tok_s"}
    inputs["output_tok_s"] = _speed(mix.rps, mix.output_tokens, f"{where}, load {mix.load}", date)
    if mix.slo and not mix.goodput_rps:
        raise MissingMeasurement(
            f"In {name} engine {mix.engine} met the SLO ({mix.slo}) for nine in ten requests at no load, so there is "
            "no goodput to plan with. Measure lighter loads, or relax the SLO."
        )
    if mix.goodput_rps:
        within = f"{where}, load {mix.goodput_load}, within {mix.slo}"
        inputs["slo_output_tok_s"] = _speed(mix.goodput_rps, mix.output_tokens, within, date)
    weight = _weight(own, where, date)
    if weight is not None:
        inputs["input_token_weight"] = weight
    return case.model_copy(
        update={
            "name": f"{mix.engine} of {name}",
            "hosting": case.hosting.model_copy(update={**_engine_of(case, run, mix.engine), "slo": mix.slo}),
            "requests": case.requests if keep_mix else (_request_of(mix, f"measured in {name}", date),),
            "inputs": inputs,
            "speed_mix": (mix.input_tokens, mix.output_tokens),
            "notes": tuple(_notes(case, run, mix, wanted if keep_mix and weight is None else None)),
        }
    )


def _mixes_of(run: Mapping[str, Any], engine: str | None, name: str) -> list[Mix]:
    measured = mixes(run.get("cells") or [])
    engines = list(dict.fromkeys(mix.engine for mix in measured))
    if not engines:
        raise MissingMeasurement(
            f"{name} has no valid cell with a throughput, so it says nothing about cost. `nbridge report` says why."
        )
    if engine is not None and engine not in engines:
        near = difflib.get_close_matches(engine, engines, n=2, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Measured are {', '.join(engines)}."
        raise UnknownName(f"{name} has no measured engine {engine!r}. {hint}")
    chosen = engine or max(measured, key=lambda mix: statistics.median(mix.rps) * mix.output_tokens).engine
    return [mix for mix in measured if mix.engine == chosen]


def _request_of(mix: Mix, source: str, date: Date | None) -> RequestKind:
    return RequestKind(
        input_tokens=Quantity.point(mix.input_tokens, "tokens", source, date),
        output_tokens=Quantity.point(mix.output_tokens, "tokens", source, date),
        cached_share=Quantity.point(0.0, "share", "assumed: none", date),
    )


def _weight(own: Sequence[Mix], where: str, date: Date | None) -> Quantity | None:
    """The weight of an input token with its range, where the mixes of an engine tell it."""
    try:
        found = split(own)
    except MissingMeasurement:
        return None
    if found.seconds_per_output_token <= 0:
        return None
    mode = min(found.seconds_per_input_token / found.seconds_per_output_token, INPUTS["input_token_weight"].highest)
    spread = max(found.misfit, _ASSUMED_SPREAD)
    return Quantity(
        low=mode * max(0.0, 1 - spread),
        mode=mode,
        high=min(mode * (1 + spread), INPUTS["input_token_weight"].highest),
        unit="ratio",
        source=f"{where}: least squares over {found.mixes} mixes, largest misfit {found.misfit:.1%}",
        date=date,
    )


def _speed(rps: tuple[float, ...], output_tokens: float, source: str, date: Date | None) -> Quantity:
    rates = sorted(value * output_tokens for value in rps)
    mode = statistics.median(rates)
    low, high = rates[0], rates[-1]
    if len(rates) == 1:
        low, high = mode * (1 - _ASSUMED_SPREAD), mode * (1 + _ASSUMED_SPREAD)
        source += f"; one repeat, ±{_ASSUMED_SPREAD:.0%} assumed"
    else:
        source += f"; range of {len(rates)} repeats"
    return Quantity(low=low, mode=mode, high=high, unit="tok/s", source=source, date=date)


def _notes(case: Case, run: Mapping[str, Any], mix: Mix, wanted: tuple[float, float] | None) -> list[str]:
    found = [note for note in case.notes if not note.startswith("The example's speed")]
    if not (run.get("environment") or {}).get("gpus"):
        found.append(
            "The run was measured on a machine without a GPU: a rent or price of GPUs does not belong to its speed. "
            "Give the price of a machine like it."
        )
    if wanted is not None and not _alike(mix, wanted):
        found.append(
            f"Requests of {wanted[0]:.0f} input and {wanted[1]:.0f} output tokens were not measured; the speed is "
            f"worked out from {mix.input_tokens:.0f}:{mix.output_tokens:.0f} with an assumed weight of input tokens. A "
            "second mix in the plan measures it."
        )
    return found


def _alike(mix: Mix, wanted: tuple[float, float]) -> bool:
    same_input = abs(mix.input_tokens - wanted[0]) <= _SAME_MIX * max(wanted[0], 1.0)
    return same_input and abs(mix.output_tokens / wanted[1] - 1) <= _SAME_MIX


def _engine_of(case: Case, run: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """The model of an engine, and the GPUs that it was spread over."""
    settings = next(cell["engine"] for cell in run["cells"] if cell["engine"]["name"] == engine)
    gpus = (settings.get("tensor_parallel_size") or 1) * (settings.get("pipeline_parallel_size") or 1)
    return {"model": settings.get("model"), "gpus_per_replica": max(case.hosting.gpus_per_replica, int(gpus))}


def _usable(cell: Mapping[str, Any]) -> bool:
    metrics = cell.get("metrics") or {}
    valid = (cell.get("validity") or {}).get("valid", True)
    return (
        cell.get("outcome") == "ok"
        and valid is not False
        and bool(metrics.get("request_throughput_rps"))
        and bool(metrics.get("output_tokens"))
        and bool((metrics.get("requests") or {}).get("ok"))
    )


def _meets(metrics: Mapping[str, Any]) -> bool:
    """Whether a load was light enough for most requests to meet the SLO: only then is its goodput a capacity."""
    good, rate, asked = metrics.get("goodput_rps"), metrics["request_throughput_rps"], metrics["requests"]
    if good and (share := metrics.get("slo_share")) is not None:
        return bool(share >= LEAST_ATTAINMENT)
    return bool(good) and good / rate * asked["ok"] / asked["total"] >= LEAST_ATTAINMENT


def _mix_key(load: Mapping[str, Any]) -> str:
    return repr((load.get("scenario"), load.get("prompt_tokens"), load.get("output_tokens"), load.get("prompts_file")))


def _median(measured: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(statistics.median(metrics[name] for metrics in measured))


def _slo(limits: Mapping[str, float] | None) -> str | None:
    return ", ".join(f"{name} ≤ {value:g}" for name, value in limits.items()) if limits else None
