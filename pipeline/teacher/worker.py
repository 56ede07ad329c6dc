"""One pass of augment over some units: asks what is lacking, builds and commits each unit as soon as it is answered."""

import asyncio
import gc
import time
from contextlib import ExitStack, aclosing

from pipeline.engine.client import Client
from pipeline.engine.gathering import run
from pipeline.engine.protocol import Answer, Failure
from pipeline.store.commit import Counts
from pipeline.store.stage import Stage
from pipeline.teacher.answers import AnswerCache
from pipeline.teacher.asking import Asking, Question
from pipeline.teacher.building import build
from pipeline.teacher.compose import judge
from pipeline.teacher.endpoint import heartbeat, patience_seconds, teacher_endpoints
from pipeline.teacher.quality import Quality
from pipeline.teacher.settings import AugmentSettings
from pipeline.teacher.stopping import broken

TICK_SECONDS = 0.5
JUDGE_SECONDS = 0.1
DRAIN_SECONDS = 8.0
GC_ALLOCATIONS = 20_000


class Worker:
    """`quality` and `counted`: what is known before the pass begins, and the names of answers that are part of it."""

    def __init__(
        self, stage: Stage, cache: AnswerCache, asking: Asking, total: int, quality: Quality, counted: set[str]
    ) -> None:
        self.stage = stage
        self.settings: AugmentSettings = stage.settings
        self.cache = cache
        self.asking = asking
        self.total = total
        self.counts = sum((done.counts for done in stage.directory.done().values()), Counts())
        self._known, self._counted = quality, counted
        self._came = Quality()  # of answers that came in this pass
        self._built = Quality()  # of answers that another pass brought, counted when their units were built
        self._flushed = self._judged = time.monotonic()
        self._doubts = False

    @property
    def quality(self) -> Quality:
        """What the teacher's answers are like, as far as this process knows."""
        return self._known + self._came + self._built

    def work(self) -> None:
        """Start the teacher only when something is lacking. Returns early when the stop rule looks broken, raises
        Stopped when asked to stop; either way with all answers stored."""
        if self.asking.first(self._build_ready) is None:
            return
        gc.freeze()  # what is loaded by now stays; and an answer leaves no cycles, so look for them rarely
        gc.set_threshold(GC_ALLOCATIONS)
        with ExitStack() as stack:
            endpoints, check = stack.enter_context(teacher_endpoints(self.stage))
            try:
                run(self._ask(Client(endpoints, self.settings.client, check)))
            finally:
                self.cache.flush()
        self.stage.stop.raise_if_requested()

    async def _ask(self, client: Client) -> None:
        async with client:
            with heartbeat(self.stage):
                await client.wait_ready(patience_seconds(self.settings), self._stopping)
            building = asyncio.create_task(asyncio.sleep(0))
            outcomes = client.batches(iter(self.asking), self._stopping, DRAIN_SECONDS, TICK_SECONDS)
            try:
                async with aclosing(outcomes):
                    async for batch in outcomes:
                        for question, outcome in batch:
                            self._keep(question, outcome)
                        if self._is_due():
                            await asyncio.to_thread(self._flush)
                        if building.done():
                            building.result()
                            if self.asking.has_ready:
                                building = asyncio.create_task(asyncio.to_thread(self._build_ready))
                        if time.monotonic() - self._judged >= JUDGE_SECONDS:
                            self._say(client)
                await building
                await asyncio.to_thread(self._build_ready)
                self._say(client)
            finally:
                self.asking.close()

    def _keep(self, question: Question, outcome: Answer | Failure) -> None:
        name = question.key if isinstance(outcome, Answer) else question.failure_key
        self.cache.add(name, question.asked(self.asking.requests.setup), outcome)
        self._came.note(question.row, outcome, judge(question.row, outcome, self.settings))
        question.counted = True
        self.asking.answered(question)

    def _flush(self) -> None:
        self.cache.flush()
        self._flushed = time.monotonic()

    def _is_due(self) -> bool:
        waited = time.monotonic() - self._flushed >= self.settings.flush_seconds
        return waited or self.cache.pending >= self.settings.flush_rows

    def _build_ready(self) -> None:
        for unit in self.asking.ready():
            if self._stopping():
                return
            counts, uncounted = build(self.stage, self.cache, unit, self.asking.requests, self._counted)
            self.counts += counts
            self._built += uncounted
            self.stage.progress.update(done=self.counts.planned, total=self.total, counts=_flat(self.counts))

    def _say(self, client: Client) -> None:
        """Judge by the stop rule, and tell how far it is and what the answers are like."""
        self._judged = time.monotonic()
        quality = self.quality
        rule = self.settings.stop_if
        self._doubts = rule is not None and bool(broken(rule, quality.plain()))
        self.stage.progress.update(
            done=self.counts.planned + self.asking.answered_rows,
            total=self.total,
            counts=_flat(self.counts),
            in_flight=client.in_flight,
            retries=client.retries,
            quality=quality.shares(),
            note=quality.in_words(),
        )

    def _stopping(self) -> bool:
        return self._doubts or self.stage.stop.requested


def _flat(counts: Counts) -> dict[str, int]:
    """Example: ok 3, rejected {"truncated": 1} -> {"ok": 3, "rejected": 1, "failed": 0}"""
    return {"ok": counts.ok, "rejected": sum(counts.rejected.values()), "failed": sum(counts.failed.values())}
