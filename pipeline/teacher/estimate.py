"""How long augment will take and what it will cost, from a few samples that are asked now and are part of the result.

The samples are a uniform choice, by seed, of the planned rows that have no answer yet; their answers are stored like
any others, so that no later start asks for them again, and another estimate asks others.
"""

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import xxhash

from pipeline.engine.client import Client
from pipeline.engine.protocol import Answer, Failure
from pipeline.errors import UserError
from pipeline.recipe.profiles import Profile
from pipeline.store.stage import Stage
from pipeline.teacher.answers import AnswerCache
from pipeline.teacher.asking import Question, question_of
from pipeline.teacher.augment import answers, planned
from pipeline.teacher.compose import Requests, judge
from pipeline.teacher.endpoint import given_endpoints, identity, patience_seconds, teacher_endpoints
from pipeline.teacher.forecast import Range, Speed, Timed, end_seconds, mean_of, seconds_each, share_of, speed
from pipeline.teacher.judging import Judges
from pipeline.teacher.quality import Quality
from pipeline.teacher.sample import unit_rows
from pipeline.teacher.settings import AugmentSettings

SEED = 42
DRAIN_SECONDS = 8.0
Found = list[tuple[Question, Answer | Failure, float]]  # the question, what came, when by time.monotonic()


@dataclass(frozen=True)
class _Asked:
    """What came back, from how many endpoints, how long an engine of our own took to start, and how long the asking."""

    found: Found
    endpoints: int
    start_seconds: float
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What is left of an augment stage. Tokens are per sample, times in seconds, shares from 0 to 1.

    The figures after `left` are None when nothing is left. `gpus` counts the profile's at every endpoint, `price_usd`
    is of one GPU hour, `cost_usd` None without a price. `concurrency` is the bound of the whole run. `rejected` is by
    "stage: reason", with "all" for the sum.
    """

    planned: int
    answered_before: int
    asked: int
    left: int
    asking_seconds: float = 0.0
    start_seconds: float = 0.0
    prompt_tokens: Range | None = None
    completion_tokens: Range | None = None
    speed: Speed | None = None
    concurrency: int | str = 0
    seconds: Range | None = None
    gpus: int = 0
    price_usd: float | None = None
    cost_usd: Range | None = None
    rejected: dict[str, Range] | None = None
    quality: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        ranges = {name: value._asdict() for name, value in self.__dict__.items() if isinstance(value, Range)}
        rejected = {reason: share._asdict() for reason, share in (self.rejected or {}).items()}
        return {**asdict(self), **ranges, "rejected": rejected}


def estimate(stage: Stage, samples: int, profile: Profile, say: Callable[[int, int], None]) -> Estimate:
    """Ask up to `samples` planned rows and reckon from them; `say(answered, asked)` is called while they come.

    UserError when no request is answered; Stopped on request, with all answers stored.
    """
    cache, requests = answers(stage), Requests(identity(stage), stage.settings)
    cache.refresh()
    rows, unanswered, chosen = _chosen(stage, cache, requests, samples)
    if not chosen:
        return Estimate(rows, rows, 0, 0)
    asked = _ask(stage, cache, requests, chosen, say)
    found = asked.found
    got = [outcome for _, outcome, _ in found if isinstance(outcome, Answer)]
    if not got:
        reasons = Counter(outcome.reason for _, outcome, _ in found if isinstance(outcome, Failure))
        said = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
        raise UserError(f"none of {len(found)} samples was answered: {said}", "See the teacher's log and its context")
    timed = [_timed(outcome, ended) for _, outcome, ended in found]
    left = unanswered - len(found)
    seconds = seconds_each(timed, SEED).times(left, asked.start_seconds + end_seconds(timed) if left else 0.0)
    gpus = profile.gpu.count * asked.endpoints if profile.gpu else 0
    price = profile.price_per_gpu_hour_usd
    return Estimate(
        planned=rows,
        answered_before=rows - unanswered,
        asked=len(found),
        left=left,
        asking_seconds=asked.seconds,
        start_seconds=asked.start_seconds,
        prompt_tokens=mean_of([answer.prompt_tokens for answer in got], SEED),
        completion_tokens=mean_of([answer.tokens for answer in timed], SEED),
        speed=speed(timed),
        concurrency=stage.settings.client.concurrency,
        seconds=seconds,
        gpus=gpus,
        price_usd=price,
        cost_usd=seconds.times(gpus * price / 3600) if price is not None and gpus else None,
        rejected=_rejected(Judges(stage.lock, stage.name), found),
        quality=_quality(stage.settings, found).in_words(),
    )


def _chosen(
    stage: Stage, cache: AnswerCache, requests: Requests, samples: int
) -> tuple[int, int, list[tuple[Question, bytes]]]:
    """(rows that can be asked, those without an answer, some of the latter: the lowest by a hash of seed and id)."""
    source, plan = planned(stage)
    done = stage.directory.done_names()
    rows = sum(unit["rows"] for unit in plan["units"] if unit["name"] in done)
    unanswered = 0
    lowest: list[tuple[int, int, Question, bytes]] = []
    for _, unit in unit_rows(source, plan, [unit for unit in plan["units"] if unit["name"] not in done]):
        stage.stop.raise_if_requested()
        for row in unit:
            question, body = question_of(row, requests)
            rows += bool(body)
            if not body or question.key in cache or question.failure_key in cache:
                continue
            unanswered += 1
            rank = -xxhash.xxh3_64_intdigest(row.id.encode(), seed=SEED)
            entry = (rank, unanswered, question, body)
            if len(lowest) < samples:
                heapq.heappush(lowest, entry)
            elif rank > lowest[0][0]:
                heapq.heapreplace(lowest, entry)
    once = {question.key: (question, body) for _, _, question, body in lowest}
    return rows, unanswered, list(once.values())


def _ask(
    stage: Stage,
    cache: AnswerCache,
    requests: Requests,
    chosen: list[tuple[Question, bytes]],
    say: Callable[[int, int], None],
) -> _Asked:
    """Ask, and store what the teacher says."""
    settings: AugmentSettings = stage.settings
    found: Found = []
    began = time.monotonic()
    times: list[float] = []

    async def ask(client: Client) -> None:
        async with client:
            await client.wait_ready(patience_seconds(settings), lambda: stage.stop.requested)
            times.append(time.monotonic())
            async for question, outcome in client.ask(iter(chosen), lambda: stage.stop.requested, DRAIN_SECONDS):
                found.append((question, outcome, time.monotonic()))
                name = question.key if isinstance(outcome, Answer) else question.failure_key
                cache.add(name, question.asked(requests.setup), outcome)
                say(len(found), len(chosen))
            times.append(time.monotonic())

    try:
        with teacher_endpoints(stage) as (endpoints, check):
            asyncio.run(ask(Client(endpoints, settings.client, check)))
    finally:
        cache.flush()
    stage.stop.raise_if_requested()
    start_seconds = 0.0 if given_endpoints(settings.teacher) else times[0] - began
    return _Asked(found, len(endpoints), start_seconds, times[1] - times[0])


def _timed(outcome: Answer | Failure, ended: float) -> Timed:
    if isinstance(outcome, Failure):
        return Timed(ended, ended, 0)
    return Timed(ended - outcome.seconds, ended, outcome.completion_tokens)


def _rejected(judges: Judges, found: Found) -> dict[str, Range]:
    judged = [judges.judge(question.row, outcome) for question, outcome, _ in found]
    reasons = Counter(f"{judgement.by}: {judgement.reason}" for judgement in judged if judgement.reason)
    shares = {reason: share_of(count, len(found)) for reason, count in reasons.most_common()}
    return {"all": share_of(reasons.total(), len(found)), **shares}


def _quality(settings: AugmentSettings, found: Found) -> Quality:
    quality = Quality()
    for question, outcome, _ in found:
        quality.note(question.row, outcome, judge(question.row, outcome, settings))
    return quality
