"""augment: a teacher rewrites the last answers of a sample of rows: plan, ask what the cache lacks, build, commit.

Invariants: every planned row ends as ok, rejected(reason) or failed(reason); an answer is stored before anything is
built from it; a unit's bytes follow from the plan and the stored answers alone, so a kill at any instant changes none.
"""

import ctypes
import platform
import time
from typing import Any

from pipeline.errors import UserError
from pipeline.store.commit import Counts
from pipeline.store.stage import Stage
from pipeline.teacher.answers import AnswerCache, teacher_folder
from pipeline.teacher.asking import Asking
from pipeline.teacher.compose import Requests
from pipeline.teacher.endpoint import check_teacher, identity
from pipeline.teacher.in_hand import of_done_units, of_open_units, refuse_if_broken, sources_of_done_units
from pipeline.teacher.reading import Piece, pieces
from pipeline.teacher.sample import make_plan
from pipeline.teacher.settings import AugmentSettings
from pipeline.teacher.takeover import Takeover
from pipeline.teacher.worker import Worker

M_ARENA_MAX = -8  # malloc.h


def preflight(stage: Stage) -> None:
    """UserError when the teacher cannot answer. A teacher that has answered before is not asked for here: what it said
    may be all that is needed, and a passing outage must not end the stage for good."""
    cache = answers(stage)
    if not stage.store.list(cache.folder):
        check_teacher(stage)


def run(stage: Stage) -> None:
    """Do the stage, or this worker's share of it and what others leave lying; commits the manifest when all is done.

    GateRefused as soon as what the teacher says breaks the stop rule, and again at each start until either changes.
    """
    began = time.monotonic()
    _keep_one_heap()
    settings: AugmentSettings = stage.settings
    source, plan = planned(stage)
    for kind, missing in plan["sample"]["shortfall"].items():
        stage.log.warning(
            "the source lacks %d %s-turn rows for the ratio asked; filled with the other kind", missing, kind
        )
    total = sum(unit["rows"] for unit in plan["units"])
    if settings.stop_if is not None and settings.stop_if.after > total:
        stage.log.warning("stop_if waits for %d outcomes, the stage has %d rows", settings.stop_if.after, total)
    names = [unit["name"] for unit in plan["units"]]
    cache, requests = answers(stage), Requests(identity(stage), settings)
    takeover = Takeover(stage, names, settings.takeover_seconds)
    while (mine := takeover.next_units()) is not None:
        cache.refresh()
        quality, counted = of_done_units(stage), set[str]()
        if settings.stop_if is not None:
            found, counted = of_open_units(stage, source, plan, cache, requests)
            quality += found
            refuse_if_broken(stage, quality, cache.folder, began)
        units = [unit for unit in plan["units"] if unit["name"] in mine]
        asking = Asking(source, plan, units, cache, requests)
        Worker(stage, cache, asking, total, quality, counted).work()
    _finish(stage, names, plan)


def planned(stage: Stage) -> tuple[list[Piece], dict[str, Any]]:
    """The source's pieces and the plan that stands; UserError when there is nothing to do."""
    settings: AugmentSettings = stage.settings
    source = pieces(stage.pinned_rows(settings.source))
    plan = stage.directory.plan(lambda: make_plan(source, settings))
    if not plan["units"]:
        raise UserError(f"stage {stage.name!r}: its source has no rows", "Check the stage or the files that it reads")
    return source, plan


def answers(stage: Stage) -> AnswerCache:
    """The cache of the stage's teacher."""
    return AnswerCache(stage.store, teacher_folder(stage.settings.teacher.name(), identity(stage)))


def _keep_one_heap() -> None:
    """Let glibc serve all threads from one heap; nothing on another C library. See mallopt(3).

    As it comes each thread that reads or builds gets its own, and what the others have freed is never used again.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def _finish(stage: Stage, names: list[str], plan: dict[str, Any]) -> None:
    """Refuse a set without a single row, before a manifest stands; else commit the manifest."""
    counts = sum((done.counts for done in stage.directory.done().values()), Counts())
    if not counts.ok:
        reasons = ", ".join(f"{reason} {count}" for reason, count in (counts.rejected | counts.failed).items())
        raise UserError(
            f"stage {stage.name!r}: none of {counts.planned} rows came through: {reasons}",
            "Look at the teacher's answers, its reasoning_parser, prompt and max_tokens",
        )
    measured = {
        "sample": plan["sample"],
        "teacher": identity(stage),
        "quality": of_done_units(stage).plain(),
        "sources": sources_of_done_units(stage),
    }
    stage.directory.commit_manifest(names, measured)
