"""Builds a unit whose every request has an outcome: its bytes follow from the plan and the stored answers alone."""

from collections import Counter
from collections.abc import Container

from pipeline.engine.protocol import Answer
from pipeline.store.commit import Counts
from pipeline.store.stage import Stage
from pipeline.teacher.answers import AnswerCache
from pipeline.teacher.asking import Unit
from pipeline.teacher.compose import Requests, Verdict, compose, judge
from pipeline.teacher.quality import Quality
from pipeline.teacher.reading import reject_line
from pipeline.teacher.settings import AugmentSettings


def build(
    stage: Stage, cache: AnswerCache, unit: Unit, requests: Requests, counted: Container[str]
) -> tuple[Counts, Quality]:
    """Write and commit one answered unit; gives the counts that stand, ours or another writer's, and the quality of
    those answers that the worker has not counted yet: neither when they came nor among the names `counted`."""
    settings: AugmentSettings = stage.settings
    outcomes = cache.fetch([key for question in unit.questions for key in (question.key, question.failure_key)])
    ok, rejected, failed = 0, dict[str, int](), dict[str, int]()
    quality, uncounted = Quality(), Quality()
    sources: dict[str, Counter[str]] = {}
    directory = stage.directory
    with (
        directory.write_rows(unit.name, "rows", settings.compression) as rows,
        directory.write_rows(unit.name, "rejects", settings.compression) as rejects,
    ):
        for question in unit.questions:
            row, verdict = question.row, Verdict(reason=question.row.reason, detail=question.row.detail)
            if not row.reason:
                name = question.key if question.key in outcomes else question.failure_key
                outcome = outcomes[name]
                verdict = judge(row, outcome, settings)
                quality.note(row, outcome, verdict)
                if not question.counted and name not in counted:
                    uncounted.note(row, outcome, verdict)
            sources.setdefault(row.source, Counter()).update(["planned", verdict.reason or "ok"])
            if not verdict.reason and isinstance(outcome, Answer):
                rows.write(compose(row, outcome, verdict, question.key, requests.teacher, settings))
                ok += 1
                continue
            rejects.write(reject_line(row, verdict.reason, verdict.detail))
            states = failed if verdict.failed else rejected
            states[verdict.reason] = states.get(verdict.reason, 0) + 1
    parts = {"rows": [rows.committed()], "rejects": [rejects.committed()]}
    counts = Counts(len(unit.questions), ok, dict(sorted(rejected.items())), dict(sorted(failed.items())))
    measured = {"quality": quality.plain(), "sources": sources}
    return directory.commit_unit(unit.name, parts, counts, measured).counts, uncounted
