"""augment: a teacher rewrites the last answers of a sample of rows: plan, ask what the cache lacks, build, commit.

Invariants: every planned row ends as ok, rejected(reason) or failed(reason); an answer is stored before anything is
built from it; a unit's bytes follow from the plan and the stored answers alone, so a kill at any instant changes none.
"""

import asyncio
import time
from contextlib import ExitStack
from typing import Any

from pipeline.engine.client import Client
from pipeline.engine.protocol import Answer, Failure
from pipeline.engine.ticking import ticking
from pipeline.errors import UserError
from pipeline.store.commit import Counts
from pipeline.store.stage import Stage
from pipeline.teacher.answers import AnswerCache, teacher_folder
from pipeline.teacher.asking import Asking, Question, Unit
from pipeline.teacher.compose import Rejected, compose
from pipeline.teacher.endpoint import check_teacher, heartbeat, identity, patience_seconds, teacher_endpoint
from pipeline.teacher.reading import pieces, reject_line
from pipeline.teacher.sample import make_plan
from pipeline.teacher.settings import AugmentSettings
from pipeline.teacher.takeover import Takeover

TICK_SECONDS = 0.5
DRAIN_SECONDS = 8.0


def preflight(stage: Stage) -> None:
    """UserError when the teacher cannot answer. A teacher that has answered before is not asked for here: what it said
    may be all that is needed, and a passing outage must not end the stage for good."""
    cache = _cache(stage)
    if not stage.store.list(cache.folder):
        check_teacher(stage)


def run(stage: Stage) -> None:
    """Do the stage, or this worker's share of it and what others leave lying; commits the manifest when all is done."""
    settings: AugmentSettings = stage.settings
    source = pieces(stage.rows(settings.source))
    plan = stage.directory.plan(lambda: make_plan(source, settings))
    if not plan["units"]:
        raise UserError(f"stage {stage.name!r}: its source has no rows", "Check the stage or the files that it reads")
    for kind, missing in plan["sample"]["shortfall"].items():
        stage.log.warning(
            "the source lacks %d %s-turn rows for the ratio asked; filled with the other kind", missing, kind
        )
    names = [unit["name"] for unit in plan["units"]]
    cache = _cache(stage)
    takeover = Takeover(stage, names, settings.takeover_seconds)
    while (mine := takeover.next_units()) is not None:
        cache.refresh()
        units = [unit for unit in plan["units"] if unit["name"] in mine]
        _Worker(stage, cache, Asking(source, plan, units, cache, settings, identity(stage)), plan).work()
    _finish(stage, names, plan)


class _Worker:
    """One pass over some units: asks what is lacking, builds and commits each unit as soon as it is answered."""

    def __init__(self, stage: Stage, cache: AnswerCache, asking: Asking, plan: dict[str, Any]) -> None:
        self.stage = stage
        self.settings: AugmentSettings = stage.settings
        self.cache = cache
        self.asking = asking
        self.counts = sum((done.counts for done in stage.directory.done().values()), Counts())
        self.total = sum(unit["rows"] for unit in plan["units"])
        self.flushed = time.monotonic()

    def work(self) -> None:
        """Start the teacher only when something is lacking; Stopped when asked to stop, with all answers stored."""
        if self.asking.first(self._build_ready) is None:
            return
        with ExitStack() as stack:
            endpoint, check = stack.enter_context(teacher_endpoint(self.stage))
            try:
                asyncio.run(self._ask(Client(endpoint, self.settings.client, check)))
            finally:
                self.cache.flush()
        self.stage.stop.raise_if_requested()

    async def _ask(self, client: Client) -> None:
        async with client:
            with heartbeat(self.stage):
                await client.wait_ready(patience_seconds(self.settings), self._stopping)
            outcomes = client.ask(iter(self.asking), self._stopping, DRAIN_SECONDS)
            building = asyncio.create_task(asyncio.sleep(0))
            try:
                async for item in ticking(outcomes, TICK_SECONDS):
                    if item is not None:
                        self._keep(*item)
                    if self._is_due():
                        await asyncio.to_thread(self._flush)
                    if building.done():
                        building.result()
                        if self.asking.has_ready:
                            building = asyncio.create_task(asyncio.to_thread(self._build_ready))
                    self._say(client)
                await building
                await asyncio.to_thread(self._build_ready)
            finally:
                self.asking.close()

    def _keep(self, question: Question, outcome: Answer | Failure) -> None:
        name = question.key if isinstance(outcome, Answer) else question.failure_key
        self.cache.add(name, question.row, outcome)
        self.asking.answered(question)

    def _flush(self) -> None:
        self.cache.flush()
        self.flushed = time.monotonic()

    def _is_due(self) -> bool:
        waited = time.monotonic() - self.flushed >= self.settings.flush_seconds
        return waited or self.cache.pending >= self.settings.flush_rows

    def _build_ready(self) -> None:
        for unit in self.asking.ready():
            if self._stopping():
                return
            self.counts += build(self.stage, self.cache, unit, self.asking.teacher)
            self.stage.progress.update(done=self.counts.planned, total=self.total, counts=_flat(self.counts))

    def _say(self, client: Client) -> None:
        self.stage.progress.update(
            done=self.counts.planned + self.asking.answered_rows,
            total=self.total,
            counts=_flat(self.counts),
            in_flight=client.in_flight,
            retries=client.retries,
        )

    def _stopping(self) -> bool:
        return self.stage.stop.requested


def build(stage: Stage, cache: AnswerCache, unit: Unit, teacher: str) -> Counts:
    """Write and commit one answered unit from stored answers; gives the counts that stand, ours or another writer's."""
    settings: AugmentSettings = stage.settings
    outcomes = cache.fetch([key for question in unit.questions for key in (question.key, question.failure_key)])
    ok, rejected, failed = 0, dict[str, int](), dict[str, int]()
    directory = stage.directory
    with (
        directory.write_rows(unit.name, "rows", settings.compression) as rows,
        directory.write_rows(unit.name, "rejects", settings.compression) as rejects,
    ):
        for row, question in zip(unit.rows, unit.questions, strict=True):
            result: bytes | Rejected = Rejected(row.reason, row.detail)
            if not row.reason:
                outcome = outcomes.get(question.key) or outcomes[question.failure_key]
                result = compose(row, outcome, question.key, teacher, settings)
            if isinstance(result, bytes):
                rows.write(result)
                ok += 1
                continue
            rejects.write(reject_line(row, result.reason, result.detail))
            states = failed if result.failed else rejected
            states[result.reason] = states.get(result.reason, 0) + 1
    parts = {"rows": [rows.committed()], "rejects": [rejects.committed()]}
    counts = Counts(len(unit.rows), ok, dict(sorted(rejected.items())), dict(sorted(failed.items())))
    return directory.commit_unit(unit.name, parts, counts).counts


def _finish(stage: Stage, names: list[str], plan: dict[str, Any]) -> None:
    """Refuse a set without a single row, before a manifest stands; else commit the manifest."""
    counts = sum((done.counts for done in stage.directory.done().values()), Counts())
    if not counts.ok:
        reasons = ", ".join(f"{reason} {count}" for reason, count in (counts.rejected | counts.failed).items())
        raise UserError(
            f"stage {stage.name!r}: none of {counts.planned} rows came through: {reasons}",
            "Look at the teacher's answers, its reasoning_parser, prompt and max_tokens",
        )
    stage.directory.commit_manifest(names, {"sample": plan["sample"], "teacher": identity(stage)})


def _cache(stage: Stage) -> AnswerCache:
    return AnswerCache(stage.store, teacher_folder(stage.settings.teacher.name(), identity(stage)))


def _flat(counts: Counts) -> dict[str, int]:
    """Example: ok 3, rejected {"truncated": 1} -> {"ok": 3, "rejected": 1, "failed": 0}"""
    return {"ok": counts.ok, "rejected": sum(counts.rejected.values()), "failed": sum(counts.failed.values())}
