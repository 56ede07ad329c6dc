"""Commands about a stage's rows: show-sample, peek, export, parts."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import options

if TYPE_CHECKING:
    from pipeline.store.stage import Stage

LOOK_SECONDS = 2.0


def show_sample(
    place: Annotated[str, typer.Argument(metavar="RUN:STAGE", help="A run's id or latest[@RECIPE], and a stage.")],
    output: Annotated[str | None, typer.Option(help="Such as rejects; by default the stage's rows.")] = None,
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", min=1, help="How many rows.")] = 20,
    show_full: options.Full = False,
    seed: options.Seed = 42,
    store: options.Store = options.STORE,
    as_json: options.Json = False,
) -> None:
    """Show rows that a stage wrote or rejected."""
    from rich.console import Console

    from pipeline.reporting.rows import output_rows
    from pipeline.reporting.samples import sample_panel

    run, stage = options.run_and_stage(place, "show-sample latest:prepare")
    rows = output_rows(*options.opened(store, run), stage, output)
    chosen = rows.sample(num_samples, seed)
    console = Console()
    for number, row in enumerate(chosen, 1):
        if as_json:
            typer.echo(json.dumps(row, ensure_ascii=False))
        else:
            console.print(sample_panel(row, number, len(chosen), show_full))
    if not as_json:
        typer.echo(f"{len(chosen)} of {rows.total:,} rows{'' if rows.whole else ' committed so far'}")


def peek(
    stage: Annotated[str, typer.Argument(help="An augment stage's name, or RUN:STAGE.")] = "augment",
    store: options.Store = options.STORE,
    run: options.RunOption = "latest",
    once: Annotated[bool, typer.Option("--once", help="Show the newest samples and end.")] = False,
    rejected: Annotated[bool, typer.Option("--rejected", help="Only samples that some stage rejects.")] = False,
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", min=1, help="At most so many at each look.")] = 5,
    show_full: options.Full = False,
    as_json: options.Json = False,
) -> None:
    """Show what the teacher answers, newest first, while the stage runs. Ends with the stage, or on Ctrl-C."""
    from pipeline.store.stage import Stage
    from pipeline.store.stop import StopFlag
    from pipeline.teacher.peek import Peek

    named_run, _, stage = stage.rpartition(":")
    looked_at = Stage(*options.opened(store, named_run or run), stage)
    peeking = Peek(looked_at)
    drawn = _Drawn(looked_at, show_full, as_json)
    stop = StopFlag()
    stop.listen()
    if not once:
        print(f"following {looked_at.run_id}:{stage}; Ctrl-C ends this look", file=sys.stderr, flush=True)
    while True:
        ended = once or looked_at.directory.manifest() is not None  # before the look: nothing comes after it
        drawn.batch(*peeking.look(num_samples, rejected))
        if ended or stop.wait(LOOK_SECONDS):
            break
    if not drawn.shown and not as_json:
        typer.echo(f"no answers yet to the prompt of {looked_at.run_id}:{stage}")


class _Drawn:
    """Prints batches of samples: panels for people, a JSON line a sample for machines."""

    def __init__(self, stage: "Stage", show_full: bool, as_json: bool) -> None:
        from rich.console import Console

        self._stage, self._full, self._as_json = stage, show_full, as_json
        self._console = Console(highlight=False)
        self._note = ""
        self.shown = 0

    def batch(self, samples: list[dict[str, Any]], left: int) -> None:
        """Print new samples, how many more there were, and the stage's progress when it says something new."""
        from rich.text import Text

        from pipeline.reporting.samples import printable, sample_panel
        from pipeline.store.status import newest_progress

        self.shown += len(samples)
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
            self._console.print(Text(printable(f"{more}{note}"), style="dim") if progress else "")
        self._note = note


def export(
    place: Annotated[str, typer.Argument(metavar="RUN:STAGE", help="A run's id or latest, and its stage.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.")],
    output: Annotated[str | None, typer.Option(help="Only this output, such as heldout or rejects.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files of the same name.")] = False,
    store: options.Store = options.STORE,
) -> None:
    """Write a stage's outputs as plain files: phase1_korean_256000samples.jsonl, final/, metrics.jsonl."""
    options.configure_logging()
    from pipeline.store.export import export as export_stage

    run, stage = options.run_and_stage(place, "export latest:prepare out/")
    for path in export_stage(*options.opened(store, run), stage, folder, output, overwrite):
        typer.echo(str(path))


def parts(
    place: Annotated[
        str, typer.Argument(metavar="RUN:STAGE", help="Or RUN:STAGE/OUTPUT, e.g. latest:prepare/rejects.")
    ],
    store: options.Store = options.STORE,
) -> None:
    """Print the URLs of a stage's parts, one a line, for DuckDB, datasets and others that read URLs."""
    from pipeline.store.export import part_urls

    options.run_and_stage(place, "parts latest:prepare")
    for url in part_urls(place, store):
        typer.echo(url)
