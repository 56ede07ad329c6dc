"""What the teacher has said so far about a stage's rows, from the store alone, and what the stop rule makes of it.

The same answers give the same verdict whoever asks: a process that began to doubt its prompt, and any later start.
"""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipeline.errors import GateRefused
from pipeline.store.progress import read_metrics
from pipeline.store.stage import Stage
from pipeline.teacher.answers import AnswerCache
from pipeline.teacher.asking import Question, question_of
from pipeline.teacher.compose import Requests, judge
from pipeline.teacher.quality import Quality, quality_from
from pipeline.teacher.reading import Piece
from pipeline.teacher.sample import unit_rows
from pipeline.teacher.settings import AugmentSettings
from pipeline.teacher.stopping import MEASURES, broken


def of_done_units(stage: Stage) -> Quality:
    """What was measured when the committed units were built."""
    found = (done.measurements.get("quality") for done in stage.directory.done().values())
    return sum((quality_from(plain) for plain in found if plain), Quality())


def sources_of_done_units(stage: Stage) -> dict[str, dict[str, int]]:
    """Rows of the committed units by source. Example: {"kowiki": {"planned": 10, "ok": 9, "truncated": 1}}"""
    total: dict[str, Counter[str]] = {}
    for done in stage.directory.done().values():
        for source, counts in done.measurements.get("sources", {}).items():
            total.setdefault(source, Counter()).update(counts)
    return {source: dict(total[source]) for source in sorted(total)}


def of_open_units(
    stage: Stage, source: list[Piece], plan: dict[str, Any], cache: AnswerCache, requests: Requests
) -> tuple[Quality, set[str]]:
    """The quality of every stored answer to rows of units that are not committed, and the names of these answers.

    Reads rows until as many answers are found as this teacher and prompt have: few, unless most of the stage is done.
    """
    quality, counted = Quality(), set[str]()
    most = cache.asked_so(requests.setup)
    done = stage.directory.done_names()
    undone = [unit for unit in plan["units"] if unit["name"] not in done]
    for _, rows in unit_rows(source, plan, undone) if most else ():
        stage.stop.raise_if_requested()
        kept = dict(_kept((question_of(row, requests)[0] for row in rows), cache))
        for key, outcome in cache.fetch(kept.keys() - counted).items():
            row = kept[key].row
            quality.note(row, outcome, judge(row, outcome, requests.settings))
            counted.add(key)
        stage.progress.update()
        if len(counted) >= most:
            break
    return quality, counted


def _kept(questions: Iterator[Question], cache: AnswerCache) -> Iterator[tuple[str, Question]]:
    for question in questions:
        for key in (question.key, question.failure_key):
            if key in cache:
                yield key, question
                break


def refuse_if_broken(stage: Stage, quality: Quality, folder: str, began: float) -> None:
    """GateRefused when the stop rule is broken: which limit, by how much, three examples, what was paid so far.

    `began`: when this process began to work, by time.monotonic(); `folder` of the answers.
    """
    settings: AugmentSettings = stage.settings
    limits = broken(settings.stop_if, quality.plain()) if settings.stop_if else {}
    if not limits:
        return
    examples = quality.examples.get(MEASURES[next(iter(limits))][3], [])
    shown = [
        f"  {number}. {example['origin']}{' (' + example['reason'] + ')' if example['reason'] else ''}: "
        f"{example['question']} -> {example['answer']}"
        for number, example in enumerate(examples, 1)
    ]
    counts = quality.counts
    seconds = time.monotonic() - began
    seconds += sum(record["seconds"] for record in read_metrics(stage.directory) if record.get("record") == "usage")
    raise GateRefused(
        f"stop_if ends stage {stage.name!r}: {'; '.join(limits.values())}. "
        + "\n".join(["Examples:", *shown])
        + f"\nPaid so far: {counts['outcomes']:,} requests, {counts['prompt_tokens']:,} tokens of prompts and "
        f"{counts['completion_tokens']:,} of answers in {seconds / 60:.1f} minutes; every answer is kept in {folder}",
        f"Look closer (hanforge peek {stage.name} --run {stage.run_id} --once), mend the prompt, the reasoning_parser "
        "or the teacher, or change stop_if: with the same prompt the next start goes on from these answers",
    )
