"""`hanforge`: registers every command. Heavy libraries are imported by the command that needs them."""

import os
import sys

import typer

from jobs import (
    chat,
    diff,
    doctor,
    engine,
    estimate,
    export,
    fetch,
    gc,
    inspect,
    lineage,
    peek,
    promote,
    report,
    run,
    samples,
)
from pipeline.errors import HanforgeError

app = typer.Typer(
    name="hanforge",
    help="Fine-tuning pipelines for Korean language and vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
run.register(app)
promote.register(app)
inspect.register(app)
samples.register(app)
peek.register(app)
estimate.register(app)
lineage.register(app)
report.register(app)
diff.register(app)
chat.register(app)
engine.register(app)
fetch.register(app)
export.register(app)
gc.register(app)
doctor.register(app)


def main() -> None:
    """Run the command line; an error that a person can act on is one message and its exit code, never a traceback."""
    try:
        app()
    except HanforgeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
