"""`hanforge peek`: finished samples in a terminal while the augment stage runs."""

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.options import DEFAULT_STORE, JsonOption, RunOption, StoreOption

if TYPE_CHECKING:
    from pipeline.store.stage import Stage

LOOK_SECONDS = 2.0


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("peek")(peek)


def peek(
    stage: Annotated[str, typer.Argument(help="An augment stage's name, or RUN:STAGE.")] = "augment",
    store: StoreOption = DEFAULT_STORE,
    run: RunOption = "latest",
    once: Annotated[bool, typer.Option("--once", help="Show the newest samples and end.")] = False,
    rejected: Annotated[bool, typer.Option("--rejected", help="Only samples that some stage rejects.")] = False,
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", min=1, help="At most so many at each look.")] = 5,
    show_full: Annotated[bool, typer.Option("--show-full", help="Whole texts, not their beginnings.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what the teacher answers, newest first, while the stage runs. Ends with the stage, or on Ctrl-C."""
    from pipeline.store.probe import open_store
    from pipeline.store.runs import find_run
    from pipeline.store.stage import Stage
    from pipeline.teacher.peek import Peek

    opened = open_store(store)
    named_run, _, stage = stage.rpartition(":")
    looked_at = Stage(opened, find_run(opened, named_run or run), stage)
    peeking = Peek(looked_at)
    draw = _Drawn(looked_at, show_full, as_json)
    try:
        if not once:
            print(f"following {looked_at.run_id}:{stage}; Ctrl-C ends this look", file=sys.stderr, flush=True)
        while True:
            ended = once or looked_at.directory.manifest() is not None  # before the look: nothing comes after it
            draw.batch(*peeking.look(num_samples, rejected))
            if ended:
                break
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        pass
    draw.end()


class _Drawn:
    """Prints batches of samples: panels for people, a JSON line a sample for machines."""

    def __init__(self, stage: "Stage", show_full: bool, as_json: bool) -> None:
        from rich.console import Console

        self._stage, self._full, self._as_json = stage, show_full, as_json
        self._console = Console(highlight=False)
        self._shown = 0
        self._note = ""

    def batch(self, samples: list[dict[str, Any]], left: int) -> None:
        """Print new samples, how many more there were, and the stage's progress when it says something new."""
        from pipeline.reporting.samples import sample_panel
        from pipeline.store.status import newest_progress

        self._shown += len(samples)
        if self._as_json:
            for sample in samples:
                typer.echo(json.dumps(sample, ensure_ascii=False))
            return
        for number, sample in enumerate(samples, 1):
            self._console.print(sample_panel(sample, number, len(samples), self._full))
        progress = newest_progress(self._stage.directory)
        note = f"{progress.get('done', 0):,} of {progress.get('total') or 0:,} done: {progress.get('note') or ''}"
        if samples or left or (progress and note != self._note):
            more = f"and {left:,} more; " if left else ""
            self._console.print(f"[dim]{more}{note.replace('[', chr(92) + '[')}[/]" if progress else "")
        self._note = note

    def end(self) -> None:
        """Say so when there was nothing to see."""
        if not self._shown and not self._as_json:
            typer.echo(f"no answers yet to the prompt of {self._stage.run_id}:{self._stage.name}")
