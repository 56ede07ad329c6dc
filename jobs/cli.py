"""`hanforge`: names every command. Heavy libraries are imported by the command that needs them."""

import os
import signal
import sys
from collections.abc import Callable

import typer

from jobs import control, deploy, diff, driver, estimate, inspect, models, plan, rows, run, upkeep
from pipeline.errors import HanforgeError, Stopped

COMMANDS: dict[str, Callable[..., None]] = {
    "run": run.run,
    "stage": run.stage,
    "promote": models.promote,
    "recipes": inspect.recipes,
    "render": inspect.render,
    "schema": inspect.schema,
    "plan": plan.plan,
    "status": inspect.status,
    "logs": inspect.logs,
    "why": inspect.why,
    "show-sample": rows.show_sample,
    "peek": rows.peek,
    "estimate": estimate.estimate,
    "lineage": models.lineage,
    "report": inspect.report,
    "diff": diff.diff,
    "chat": models.chat,
    "engine": models.engine,
    "fetch": models.fetch,
    "export": rows.export,
    "parts": rows.parts,
    "gc": upkeep.gc,
    "doctor": upkeep.doctor,
    "stop": control.stop,
    "retry": control.retry,
    "driver": driver.driver,
}
app = typer.Typer(
    name="hanforge",
    help="Fine-tuning pipelines for Korean language and vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(deploy.app, name="deploy")


def main() -> None:
    """Run the command line; an error that a person can act on is one message and its exit code, never a traceback."""
    if os.getpid() == 1:  # in a container the kernel drops SIGTERM to process 1 until somebody listens
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(Stopped.exit_code))
    try:
        app()
    except HanforgeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
