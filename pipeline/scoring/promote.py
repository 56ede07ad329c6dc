"""Promotions: `promotions/<recipe>/<n>.json`, numbered and create-only; the highest n is what serving follows.

A model is judged against its limits and against the highest n; who loses the race for n + 1 is judged again against
the winner. A rollback is a new n that names an earlier model. Nothing is ever overwritten.
"""

import logging
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import GateRefused, UserError
from pipeline.recipe.references import StageReference
from pipeline.scoring.evaluate import scores_of
from pipeline.scoring.settings import PromoteSettings
from pipeline.scoring.verdict import Bound, limit_refusals, regression_refusals
from pipeline.store.commit import Counts, dumped
from pipeline.store.named import NamedModel
from pipeline.store.objects import Store
from pipeline.store.promotions import highest_promotion, newest_promotion, own_promotion, promotion_key, promotions
from pipeline.store.runs import RunLock
from pipeline.store.stage import Stage
from pipeline.store.status import require_done

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A model that may be promoted: `run`:`stage` made it; `by` is the promote stage, or "command"."""

    run: str
    stage: str
    by: str
    scores: dict[str, float]
    limits: dict[str, Bound] = field(default_factory=dict)
    max_drop: dict[str, float] = field(default_factory=dict)


def promote(store: Store, recipe: str, candidate: Candidate) -> dict[str, Any]:
    """Write the next promotion when the candidate's scores suffice; gives the record.

    Raises GateRefused, saying which limit is missed and by how much.
    """
    if not store.exclusive:
        LOG.warning("this store ignores create-only writes: of two promotions at once, one would be lost")
    while True:
        standing = highest_promotion(store, recipe)
        before = dict((standing or {}).get("scores") or {})
        refusals = limit_refusals(candidate.limits, candidate.scores)
        refusals += regression_refusals(candidate.max_drop, candidate.scores, before)
        if refusals:
            raise GateRefused(
                f"{candidate.run}:{candidate.stage} is not promoted: {'; '.join(refusals)}",
                "Train on, or change the limits; "
                + (f"promotion {standing['n']} stays." if standing else "nothing is promoted yet."),
            )
        record: dict[str, Any] = {"run": candidate.run, "stage": candidate.stage, "by": candidate.by}
        record |= {"scores": candidate.scores, "promoted_before": before}
        record |= {"replaces": standing["n"] if standing else None}
        written = _write(store, recipe, int(standing["n"]) + 1 if standing else 1, record)
        if written is not None:
            return written


def rollback(store: Store, recipe: str | None = None, to: int | None = None) -> dict[str, Any]:
    """Promote an earlier model again as a new n: number `to`, by default the newest that is another model.

    Without a recipe it is the only one that has promotions. Raises UserError when there is none.
    """
    recipe = recipe or str(newest_promotion(store)["recipe"])
    while True:
        known = promotions(store, recipe)
        if not known:
            raise UserError(
                f"nothing is promoted for recipe {recipe!r}", "Promote a model first: hanforge promote MODEL"
            )
        current = known[-1]
        wanted = [r for r in known if (r["n"] == to if to is not None else _model(r) != _model(current))]
        if not wanted:
            what = f"promotion {to}" if to is not None else "earlier model"
            raise UserError(
                f"recipe {recipe!r} has no {what} to go back to (promotions: 1 to {current['n']})",
                "Name one with --to.",
            )
        chosen = wanted[-1]
        if _model(chosen) == _model(current):
            raise UserError(f"promotion {chosen['n']} is {_model(current)}, which is promoted now as {current['n']}")
        record = {key: chosen[key] for key in ("run", "stage", "scores", "promoted_before")}
        record |= {"by": "rollback", "rollback_to": chosen["n"], "replaces": current["n"]}
        written = _write(store, recipe, current["n"] + 1, record)
        if written is not None:
            return written


def promote_named(store: Store, model: NamedModel) -> dict[str, Any]:
    """Promote a stage's model from the command line, by the limits of its recipe's promote stage when there is one.

    Raises UserError when the word names no stage's model, GateRefused when the limits are missed.
    """
    if model.lock is None or model.stage is None:
        raise UserError(
            f"{model.label!r} is no stage's output, so nobody could say later what was served", "Name RUN:STAGE."
        )
    lock, stage = model.lock, model.stage
    outputs = type(lock.settings(stage)).OUTPUTS
    if "model" not in outputs.values():
        raise UserError(
            f"{model.label!r} is a {next(iter(outputs.values()))}, and only models are promoted", "Merge it first."
        )
    candidate = Candidate(lock.run_id, stage, "command", {})
    for settings in lock.recipe.stages.values():
        if isinstance(settings, PromoteSettings) and getattr(settings.model, "stage", None) == stage:
            measured = measured_scores(store, lock, settings)
            if measured is None:
                raise UserError(
                    f"the scores of recipe {lock.recipe.name!r} are no stage's", "Let `scores` name an evaluate stage."
                )
            candidate = replace(
                candidate, scores=dict(measured["scores"]), limits=settings.limits, max_drop=settings.max_drop
            )
            break
    return promote(store, lock.recipe.name, candidate)


def preflight(stage: Stage) -> None:
    """UserError when the model is no stage's output, or the scores cannot be read."""
    settings: PromoteSettings = stage.settings
    made_by = _model_stage(stage)
    scores_of(stage, settings.scores)
    measured = measured_scores(stage.store, stage.lock, settings)
    if measured is not None and measured.get("model") != stage.identity(settings.model):
        raise UserError(
            f"stage {stage.name!r}: the scores are of another model than {made_by!r}",
            "Let `scores` name the evaluate stage of that model.",
        )


def run(stage: Stage) -> None:
    """Judge and promote, once for this run; then the manifest, whose measurements the gate is computed from."""
    settings: PromoteSettings = stage.settings
    stage.directory.plan(lambda: {"units": ["promotion"]})
    record = own_promotion(stage.store, stage.recipe_name, stage.run_id, stage.name)
    if record is None:
        scores = scores_of(stage, settings.scores)
        made_by = _model_stage(stage)
        candidate = Candidate(stage.run_id, made_by, stage.name, scores, settings.limits, settings.max_drop)
        record = promote(stage.store, stage.recipe_name, candidate)
        stage.log.info("promotion %s of %s is %s", record["n"], stage.recipe_name, _model(record))
    path = stage.scratch() / "promotion.json"
    path.write_bytes(dumped(record))
    part = stage.directory.write_file("promotion", path, path.name)
    stage.directory.commit_unit("promotion", {"promotion": [part]}, Counts())
    measured = {key: record[key] for key in ("n", "recipe", "scores", "promoted_before")}
    stage.directory.commit_manifest(["promotion"], measured)


def _model_stage(stage: Stage) -> str:
    """The stage that made the model; UserError when it is no stage's: nobody could say later what was served."""
    model = stage.settings.model
    if not isinstance(model, StageReference):
        raise UserError(f"stage {stage.name!r}: model {model!r} is no stage's output", "Promote a stage's model.")
    return model.stage


def measured_scores(store: Store, lock: RunLock, settings: PromoteSettings) -> dict[str, Any] | None:
    """What the evaluate stage behind `scores` measured; None for scores from elsewhere."""
    if not isinstance(settings.scores, StageReference):
        return None
    return require_done(store, lock, settings.scores.stage).measurements


def _model(record: dict[str, Any]) -> str:
    return f"{record['run']}:{record['stage']}"


def _write(store: Store, recipe: str, n: int, record: dict[str, Any]) -> dict[str, Any] | None:
    """Create promotion n; None when another was first. `id` makes our bytes ours."""
    whole = {**record, "n": n, "recipe": recipe, "time": time.time(), "id": uuid.uuid4().hex}
    return whole if store.create(promotion_key(recipe, n), dumped(whole)) else None
