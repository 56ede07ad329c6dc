"""The validate stage: checks of reasoning rows, samples shown, a gate over the whole."""

from jobs.options import say
from pipeline.store.stage import Stage
from pipeline.teacher import show, validate


def run(stage: Stage) -> None:
    """Check every row, then print the table and samples that the recipe asks for."""
    validate.run(stage)
    manifest = stage.directory.manifest()
    if manifest is not None and stage.index == 0:
        show.print_samples(stage.store, manifest, stage.settings)
        say(show.summary(stage.settings, manifest))
