"""Which engines of a run are asked for held-out tokens, on which model, and what run.json says about each."""

import shutil
from pathlib import Path
from typing import Any

from bench.errors import PlanError, RunFolderError
from bench.plans.plan import Plan
from bench.plans.tables import Engine, Quality
from bench.quality import texts as held_out
from bench.quality.scoring import CannotScore, score
from bench.quality.texts import Texts
from bench.run import quality as figures
from bench.run import store
from bench.target import CannotServe, Target, own_server
from checkpoints.cache import Progress
from checkpoints.catalog import TRAINED, models
from checkpoints.errors import CheckpointError
from checkpoints.prepare import has_random_weights, held_out_text
from checkpoints.tensors import schemes

Json = dict[str, Any]
_FACTS = (
    "form", "top", "pieces", "tokens_sha256", "repeat_kl", "seconds", "figures", "against", "unpaired", "applied",
)  # fmt: skip
_SPARE_TOKENS = 64  # of a server that answers pieces only: what stands before a piece, and a token after it


def start(plan: Plan, *, remote: bool) -> Json | None:
    """The `quality` of a new run's document, every engine pending; None without [quality].

    Raises PlanError, before anything is written: texts or a baseline that are not there, or too little text.
    """
    asked = plan.quality
    if asked is None:
        return None
    names = [engine.name for engine in plan.engines]
    external = asked.baseline is not None and asked.baseline not in names
    return {
        "baseline": None if external else asked.baseline or names[0],
        "baseline_run": _baseline_run(Path(str(asked.baseline)), names) if external else None,
        "texts": _described(read, asked) if (read := _read(asked)) else None,
        "engines": [_entry(engine, asked, remote=remote) for engine in plan.engines],
    }


def _read(asked: Quality) -> Texts | None:
    """The texts of the plan's file; None where they come with the model."""
    return held_out.read(Path(asked.texts)) if asked.texts else None


def _described(texts: Texts, asked: Quality) -> Json:
    parts = held_out.parts(texts, asked)
    return {"name": texts.name, "sha256": texts.sha256, "texts": len({number for number, _ in parts})}


def _baseline_run(path: Path, names: list[str]) -> Json:
    """What is kept of the run whose baseline is this run's, too."""
    try:
        run = store.open_run(path)
    except RunFolderError as error:
        raise PlanError(
            f"[quality] baseline = {str(path)!r}: is neither an engine of the plan ({', '.join(names)}) nor a run "
            f"folder. {error}"
        ) from None
    judged = run.document.get("quality") or {}
    entry = next((one for one in judged.get("engines") or [] if one["engine"] == judged.get("baseline")), None)
    if entry is None or entry["outcome"] != "ok" or run.scored(entry["engine"]) is None:
        raise PlanError(f"[quality] baseline: the run {path} has no quality of a baseline of its own.")
    return {"run": run.document.get("run_id"), "path": str(path.resolve()), **entry}


def _entry(engine: Engine, asked: Quality, *, remote: bool) -> Json:
    model = engine.model if remote else asked.model or engine.model
    entry: Json = {"engine": engine.name, "model": model, "scheme": schemes.wanted(engine.quantization).name}
    entry |= {"kv_cache_dtype": engine.kv_cache_dtype or "auto", "outcome": "pending", "reason": None}
    entry |= {"known_beforehand": False, "rounded": False, **dict.fromkeys(_FACTS)}
    known = models().get(model)
    if has_random_weights(model):
        entry |= {"outcome": "unsupported", "known_beforehand": True}
        entry["reason"] = f"No quality: {model} has random weights, so what it predicts is noise."
    elif not asked.texts and (remote or known is None or known.kind != TRAINED) and held_out_text(model) is None:
        raise PlanError(
            f"[quality] of {engine.name}: {model} comes without text that it was not trained on. Name a text file as "
            "`texts`."
        )
    return entry


def keep_baseline(run_dir: Path, document: Json) -> None:
    """Copy the rows of a baseline of another run into this one, so that it stands by itself."""
    external = (document.get("quality") or {}).get("baseline_run")
    target = store.quality_file(run_dir, figures.BASELINE_RUN)
    if external is not None and not target.exists():
        with store.explained(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(store.quality_file(Path(external["path"]), external["engine"]), target)


def engines(document: Json) -> list[Json]:
    """An entry for each engine whose quality is asked for."""
    found: list[Json] = (document.get("quality") or {}).get("engines") or []
    return found


def pending(document: Json, engine: Engine | None = None) -> list[Json]:
    """The entries that are still to be measured; of one engine only what can be measured on the server of its cells."""
    return [
        entry
        for entry in engines(document)
        if entry["outcome"] == "pending"
        and (engine is None or (entry["engine"], entry["model"]) == (engine.name, engine.model))
    ]


def retry(document: Json, outcomes: tuple[str, ...]) -> None:
    """Make the entries with one of these outcomes pending again."""
    for entry in engines(document):
        if entry["outcome"] in outcomes:
            entry.update(outcome="pending", reason=None)


def give_up(document: Json, engine: Engine, problem: CannotServe) -> None:
    """Why an engine that could not be served has no quality of the model that it was to serve.

    One that rounds weights alone and is unsupported here is left to `judge_elsewhere`.
    """
    rounding = schemes.wanted(engine.quantization)
    for entry in pending(document, engine):
        if problem.outcome == "unsupported" and rounding.scheme in schemes.WEIGHTS_ONLY and not rounding.rounded:
            continue
        entry.update(outcome=problem.outcome, reason=str(problem), known_beforehand=problem.beforehand)


def judge(run_dir: Path, document: Json, plan: Plan, engine: Engine, target: Target, say: Progress) -> None:
    """Ask an engine's server for the held-out tokens, if that is still to be done, and write down what came of it.

    An interrupt leaves it to be done.
    """
    for entry in pending(document, engine):
        say(f"{engine.name}: asking for held-out tokens of {entry['model']} …")
        entry.update(_pass(run_dir, document, plan, entry, target, say))
        document["quality"]["engines"] = figures.results(document, store.Run(run_dir, document).scored)
        say(f"{engine.name}: {line(next(one for one in engines(document) if one['engine'] == engine.name))}")


def judge_elsewhere(run_dir: Path, document: Json, plan: Plan, engine: Engine, say: Progress) -> None:
    """As `judge`, of an engine's settings on another model, which takes a server of its own."""
    entry = next((one for one in pending(document) if one["engine"] == engine.name), None)
    if entry is None or plan.quality is None:
        return
    room = plan.quality.window_tokens + _SPARE_TOKENS
    other = engine.model_copy(update={"model": entry["model"], "max_model_len": room, "speculative": None})
    cells = [cell for cell in document["cells"] if cell["engine"]["name"] == engine.name]
    if all(cell["outcome"] == "unsupported" for cell in cells):  # the same settings would be refused again
        give_up(document, other, CannotServe("unsupported", cells[0]["reason"]))
        if entry["outcome"] != "pending":
            return
        wanted = schemes.wanted(engine.quantization)
        entry["rounded"] = True
        other = other.model_copy(update={"quantization": wanted._replace(rounded=True).name})
        say(f"{engine.name}: cannot be served here, so its weights are judged rounded as {wanted.name}, at 16 bit")
    log_path = run_dir / "logs" / f"{store.slug(engine.name)}-quality.log"
    try:
        with own_server(other, log_path, start_timeout_s=plan.start_timeout_s, say=say) as served:
            judge(run_dir, document, plan, other, served.target, say)
    except CannotServe as problem:
        say(f"{engine.name}: quality {problem.outcome}: {problem}")
        give_up(document, other, problem)


def _pass(run_dir: Path, document: Json, plan: Plan, entry: Json, target: Target, say: Progress) -> Json:
    asked, judged = plan.quality or Quality(), document["quality"]
    out = store.quality_file(run_dir, entry["engine"])
    try:
        texts = _read(asked) or held_out.read(held_out_text(entry["model"], say) or Path())
        described = _described(texts, asked)
        judged["texts"] = judged["texts"] or described
        if judged["texts"]["sha256"] != described["sha256"]:
            raise CannotScore("failed", f"Quality: {texts.name} is not the text that the run began with.")
        return score(target, asked, texts, out, timeout_s=plan.cell_timeout_s) | {"outcome": "ok"}
    except CannotScore as problem:
        return {"outcome": problem.outcome, "reason": str(problem)}
    except (PlanError, CheckpointError) as problem:
        return {"outcome": "failed", "reason": f"Quality: {problem}"}


def line(entry: Json) -> str:
    """One engine's quality in one line."""
    found, against = entry["figures"], entry["against"]
    if found is None:
        return f"quality {entry['outcome']}: {entry['reason']}"
    text = f"quality on {found['tokens']:,} tokens of {entry['model']}: perplexity {found['perplexity']:.2f}"
    if against is not None:
        text += f", ΔNLL {against['delta_nll']:+.4f} ± {against['delta_nll_se']:.4f}, KL {against['kl']:.4f}, "
        text += f"same first token {against['agreement']:.1%}"
    return text + ("; not applied" if entry["applied"] is False else "")
