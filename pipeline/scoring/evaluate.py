"""The kind `evaluate`: ask, mark, average. A unit is a stretch of one collection in one mode, committed by itself.

Predictions are rows; the averages stand in the manifest's measurements and in `scores.json`, both computed from the
committed predictions and nothing else.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import orjson

from pipeline.engine.loadable import check_loadable
from pipeline.errors import UserError
from pipeline.recipe.references import StageReference
from pipeline.scoring import ask
from pipeline.scoring.asked import Asked, heldout, robot_questions, seen_in_training
from pipeline.scoring.metrics import Reply, averaged, compared, flat, marks
from pipeline.scoring.settings import EvaluateSettings
from pipeline.scoring.template import TEMPLATE_FILES, Switch, thinking_switch
from pipeline.store.commit import Counts
from pipeline.store.division import undone
from pipeline.store.shards import part_lines
from pipeline.store.stage import Stage
from pipeline.text.thinking import split_thinking

SCORES = "scores"  # the unit and the file of the averages
Answers = Callable[[Sequence[Asked], bool], list[Reply]]
Units = dict[str, tuple[list[Asked], bool]]


def preflight(stage: Stage) -> None:
    """Find at the start what cannot work: nothing to ask, no thinking switch, an engine or judge that is not there."""
    settings: EvaluateSettings = stage.settings
    _collections(stage)
    if settings.baseline is not None:
        scores_of(stage, settings.baseline)
    early(stage)


def early(stage: Stage) -> None:
    """The part of preflight that needs no other stage's rows: the judge, and the model where it is there."""
    settings: EvaluateSettings = stage.settings
    if settings.judge is not None:
        endpoint = ask.judge_endpoint(settings.judge)
        ask.check_endpoint(endpoint, settings.client, f"judge {settings.judge.served_model_name!r}")
    if not stage.is_there(settings.model):
        return
    _switch(stage)
    if settings.backend == "vllm" and settings.url() is None:
        check_loadable(stage.model_path(settings.model), settings.engine)


def run(stage: Stage) -> None:
    """Answer, mark and commit every unit that is not done, then the averages and the manifest."""
    settings: EvaluateSettings = stage.settings
    collections = _collections(stage)
    _refuse_seen(stage, collections.get("data", []))
    units = dict(_units(collections, settings))
    names = [*units, SCORES]
    stage.directory.plan(lambda: {"units": names, "asked": {name: len(items) for name, items in collections.items()}})
    _report(stage, units)
    with ExitStack() as stack:
        answers: Answers | None = None
        for name in undone(stage, list(units)):
            answers = answers or _backend(stage, stack)
            items, thinking = units[name]
            _answer_unit(stage, name, items, thinking, answers)
            _report(stage, units)
    measured = _scores(stage, list(units))
    for _ in undone(stage, names):
        _commit_scores(stage, measured)
    stage.directory.commit_manifest(names, measured)


def _report(stage: Stage, units: Units) -> None:
    """Say how many answers are committed, whoever did."""
    finished = stage.directory.done_names()
    done = sum(len(items) for name, (items, _) in units.items() if name in finished)
    stage.progress.update(done=done, total=sum(len(items) for items, _ in units.values()))


def _collections(stage: Stage) -> dict[str, list[Asked]]:
    """What is asked, by collection, in the order in which it stands in the predictions."""
    settings: EvaluateSettings = stage.settings
    found: dict[str, list[Asked]] = {}
    if settings.data is not None:
        rows = stage.pinned_rows(settings.data)
        found["data"] = heldout(rows, settings.limit, rows.name)
    if settings.questions is not None:
        found["questions"] = list(robot_questions(settings.questions, settings.system_prompt))
    return found


def _units(
    collections: dict[str, list[Asked]], settings: EvaluateSettings
) -> Iterator[tuple[str, tuple[list[Asked], bool]]]:
    """Example: 600 held-out rows, unit_rows 512 -> data-off-00000, data-off-00001, data-on-00000, ..."""
    for collection, items in collections.items():
        for thinking in settings.modes:
            for number, start in enumerate(range(0, len(items), settings.unit_rows)):
                name = f"{collection}-{'on' if thinking else 'off'}-{number:05d}"
                yield name, (items[start : start + settings.unit_rows], thinking)


def _refuse_seen(stage: Stage, asked: list[Asked]) -> None:
    """UserError when a held-out prompt stands in the training rows: its score would mean nothing."""
    settings: EvaluateSettings = stage.settings
    for reference in settings.training_data or []:
        rows = stage.rows(reference)
        seen = seen_in_training(asked, rows)
        if seen:
            first = seen[0]
            raise UserError(
                f"{len(seen)} of {len(asked)} held-out rows stand in the training rows of {rows.name!r}, first "
                f"{first.id!r}: {first.messages[-1]['content'][:80]!r}",
                "Hold them out: prepare's `heldout`, or `exclude_overlap_with` the held-out set.",
            )


def _switch(stage: Stage) -> Switch:
    """What the model's template does with thinking; UserError when it is to be switched and cannot."""
    settings: EvaluateSettings = stage.settings
    switch = thinking_switch(stage.model_path(settings.model, TEMPLATE_FILES))
    if len(settings.modes) == 2 and not switch.switches:
        raise UserError(
            f"stage {stage.name!r}: thinking is 'both', and the model's chat template has no switch enable_thinking",
            "Set thinking: off (or on, for a model that always thinks).",
        )
    return switch


def _backend(stage: Stage, stack: ExitStack) -> Answers:
    """What answers: a function from items and mode to replies. A server of our own ends with `stack`."""
    settings: EvaluateSettings = stage.settings
    if settings.backend == "transformers":
        from pipeline.scoring.generate import Generator

        generator = Generator(stage.model_path(settings.model), settings, stage.execution)
        return lambda items, thinking: generator.answers(items, thinking, settings.seed, stage.stop.raise_if_requested)
    endpoint, check = stack.enter_context(ask.model_endpoint(stage))
    opened = _switch(stage).opened
    return lambda items, thinking: ask.ask_model(stage, endpoint, items, thinking, opened, check)


def _answer_unit(stage: Stage, unit: str, items: list[Asked], thinking: bool, answers: Answers) -> None:
    """Ask one unit, mark it, and commit its predictions."""
    settings: EvaluateSettings = stage.settings
    began = time.monotonic()
    replies = answers(items, thinking)
    verdicts = _verdicts(stage, unit, items, replies)
    failed: dict[str, int] = {}
    with stage.directory.write_rows(unit, "predictions") as writer:
        for item, reply, verdict in zip(items, replies, verdicts, strict=True):
            found = {**marks(item, reply, thinking, settings.chinese), **verdict}
            writer.write(orjson.dumps(_prediction(item, reply, thinking, found)))
            if reply.failed:
                failed[reply.failed] = failed.get(reply.failed, 0) + 1
    counts = Counts(len(items), len(items) - sum(failed.values()), failed=failed)
    stage.directory.commit_unit(unit, {"predictions": [writer.committed()]}, counts)
    tokens = sum(reply.completion_tokens for reply in replies)
    stage.metrics.write({"unit": unit, "rows": len(items), "tokens": tokens, "seconds": time.monotonic() - began})


def _verdicts(stage: Stage, unit: str, items: list[Asked], replies: list[Reply]) -> list[dict[str, int]]:
    """The judge's marks for the first `judge.limit` items of each collection and mode."""
    settings: EvaluateSettings = stage.settings
    if settings.judge is None:
        return [{} for _ in items]
    before = int(unit.rpartition("-")[2]) * settings.unit_rows
    count = min(len(items), max(0, settings.judge.limit - before))
    return [*ask.judged(stage, items[:count], replies[:count]), *({} for _ in items[count:])]


def _prediction(item: Asked, reply: Reply, thinking: bool, found: dict[str, Any]) -> dict[str, Any]:
    parts = split_thinking(reply.text)
    row = {
        "id": item.id,
        "collection": item.collection,
        "source": item.source,
        "thinking": thinking,
        "messages": item.messages,
        "expected": item.expected,
        "answer": parts.answer,
        "reasoning": parts.reasoning,
        "text": reply.text,
        "marks": found,
    }
    row |= {key: value for key, value in asdict(reply).items() if key in ("finish_reason", "failed") and value}
    return row


def _predictions(stage: Stage, units: list[str]) -> Iterator[dict[str, Any]]:
    """Every committed prediction, in the plan's order."""
    done = stage.directory.done()
    for unit in units:
        for part in done[unit].outputs["predictions"]:
            for line in part_lines(stage.store, part):
                yield orjson.loads(line)


def _scores(stage: Stage, units: list[str]) -> dict[str, Any]:
    """The averages over the committed predictions; with a baseline, before and after."""
    settings: EvaluateSettings = stage.settings
    missed: list[dict[str, Any]] = []
    averages = averaged(_noting_missed(_predictions(stage, units), missed))
    found: dict[str, Any] = {
        "scores": flat(averages),
        "averages": averages,
        "model": stage.identity(settings.model),
        "backend": settings.backend,
        "missed_questions": missed,
    }
    if settings.training_data is not None:
        found["overlap_with_training"] = 0  # any other number ends the stage
    if settings.baseline is not None:
        before = scores_of(stage, settings.baseline)
        found |= {"before": before, "compared": compared(before, found["scores"])}
    return found


def _noting_missed(rows: Iterable[dict[str, Any]], missed: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same rows; the shipped questions that were not passed are noted, each with the rules its answer broke."""
    for row in rows:
        if row["collection"] == "questions" and not row["marks"]["passed"]:
            missed.append({"id": row["id"], "thinking": row["thinking"], "missed": row["marks"]["missed"]})
        yield row


def _commit_scores(stage: Stage, measured: dict[str, Any]) -> None:
    """Commit the averages as a file, for readers elsewhere."""
    path = stage.scratch() / "scores.json"
    path.write_bytes(orjson.dumps(measured, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")
    part = stage.directory.write_file(SCORES, path, path.name)
    stage.directory.commit_unit(SCORES, {SCORES: [part]}, Counts())


def scores_of(stage: Stage, reference: Any) -> dict[str, float]:
    """The flat scores behind a reference: a stage's, or a `scores.json` elsewhere; UserError when it is neither."""
    if isinstance(reference, StageReference):
        manifest, _ = stage.upstream(reference)
        return dict(manifest.measurements["scores"])
    for file in stage.source(reference).files:
        if file.name.endswith(".json"):
            with file.open() as stream:
                found = orjson.loads(stream.read())
            if isinstance(found, dict) and isinstance(found.get("scores"), dict):
                return dict(found["scores"])
    raise UserError(
        f"{reference!r} holds no scores.json of an evaluate stage", "Name an evaluate stage, or its scores.json."
    )
