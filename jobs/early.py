"""Before the first stage of a local run starts: what every stage in scope can already know to be wrong, exit code 2.

A stage that is done is not looked at, nor what an upstream stage has yet to make; the stage's own preflight looks at
the rest. In the driver's own process, so without torch, and before the run is written down.
"""

import importlib
import shutil
from collections.abc import Callable

from pipeline.errors import HanforgeError
from pipeline.local.chain import Options, check_upstream, scope
from pipeline.store.objects import Store
from pipeline.store.outline import Outlined
from pipeline.store.runs import RunLock
from pipeline.store.stage import Stage
from pipeline.store.standing import is_done

CHECKS = {
    "prepare": "pipeline.text.inputs:preflight",
    "augment": "pipeline.teacher.endpoint:early",
    "train": "pipeline.training.early:early",
    "merge": "pipeline.merging.stage:early",
    "evaluate": "pipeline.scoring.evaluate:early",
}


def check_early(store: Store, lock: RunLock, options: Options) -> None:
    """UserError, naming the stage, for the first one in scope that cannot work as things stand."""
    inside = scope(lock, options)
    check_upstream(store, lock, set(inside))
    for name in inside:
        place = CHECKS.get(lock.stages[name].kind)
        if place is None or is_done(store, lock, name):
            continue
        module, function = place.split(":")
        check: Callable[[Stage], None] = getattr(importlib.import_module(module), function)
        stage = Outlined(store, lock, name)
        try:
            check(stage)
        except HanforgeError as error:
            what = stage.in_words(error.what)
            raise type(error)(what if repr(name) in what else f"stage {name!r}: {what}", error.remedy) from error
        finally:
            shutil.rmtree(stage.scratch(), ignore_errors=True)
