"""What the demos share: inputs into the store, `hanforge run`, the check of scores, the answer, the report.

All work is done by the stages; a demo brings what a user would bring and fails loudly when a score misses.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.store.objects import Store
from pipeline.store.probe import open_store
from pipeline.store.runs import RunLock, find_run
from pipeline.text.thinking import split_thinking


@dataclass(frozen=True)
class Bounds:
    """Where a stage's score must lie, on at least `rows` rows that training did not see."""

    metric: str
    least: float
    most: float
    rows: int = 200


@dataclass(frozen=True)
class Demo:
    """A recipe, the scripts whose text decides its inputs, what writes them into a folder, and the expected scores."""

    recipe: str
    scripts: tuple[Path, ...]
    write_inputs: Callable[[Path], None]
    expected: dict[str, Bounds]
    right_answer: str  # to the question that the recipe's serve stage asks
    parallel: int = 1  # stages at once; more than one only where each holds to one thread


def run(demo: Demo) -> int:
    """Run a demo; options of the command line that are not known here go to `hanforge run`. 0 only when all holds."""
    parser = argparse.ArgumentParser(description=f"Run the recipe {demo.recipe} on data made here.")
    parser.add_argument("--store", default=".hanforge/demo", help="a folder or URL (default: %(default)s)")
    parser.add_argument("--inputs-only", action="store_true", help="bring the inputs into the store, and end")
    arguments, passed_on = parser.parse_known_args()
    began = time.monotonic()
    store = open_store(arguments.store)
    bring_inputs(store, demo)
    if arguments.inputs_only:
        return 0
    code = hanforge("run", demo.recipe, "--store", arguments.store, "--parallel", str(demo.parallel), *passed_on)
    if code != 0:
        return code
    lock = find_run(store, f"latest@{demo.recipe}")
    misses = check_scores(store, lock, demo.expected)
    show_answer(store, lock, demo.right_answer)
    page = Path(".hanforge") / f"{demo.recipe}-report.html"
    code = hanforge("report", lock.run_id, "--store", arguments.store, "--out", str(page), quiet=True)
    print(f"report:    {page.resolve()}" if code == 0 else "report:    could not be written; see above")
    print(f"took:      {time.monotonic() - began:.0f} s")
    for miss in misses:
        print(f"error: {miss}", file=sys.stderr)
    return 1 if misses else code


def hanforge(*words: str, quiet: bool = False) -> int:
    """The exit code of `hanforge WORDS`; its output goes to this terminal unless quiet."""
    command = [sys.executable, "-m", "jobs", *words]
    return subprocess.run(command, stdout=subprocess.DEVNULL if quiet else None, check=False).returncode


def bring_inputs(store: Store, demo: Demo) -> None:
    """Write the demo's inputs to `<store>/inputs/`, unless this version of them is there."""
    digest = hashlib.sha256(b"".join(script.read_bytes() for script in demo.scripts)).hexdigest()[:16]
    marker = f"inputs/.{demo.recipe}-{digest}"
    if store.exists(marker):
        return
    print("== making the inputs: generated rows and base models", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        demo.write_inputs(folder)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            store.upload(f"inputs/{path.relative_to(folder).as_posix()}", path)
    store.create(marker, b"")


def check_scores(store: Store, lock: RunLock, expected: dict[str, Bounds]) -> list[str]:
    """Print the table of scores and return what misses its bounds, a sentence each."""
    misses = []
    print("\nexact answers on rows that training did not see")
    for stage, bounds in expected.items():
        manifest = lock.directory(store, stage).manifest()
        if manifest is None:
            misses.append(f"{stage} has not been done in this run")
            continue
        score, rows = float(manifest.measurements["scores"][bounds.metric]), manifest.counts.planned
        print(f"  {stage:<18}{score:7.1%}  of {rows}")
        if not bounds.least <= score <= bounds.most:
            misses.append(f"{stage}: {bounds.metric} is {score:.3f}, expected {bounds.least:.2f} to {bounds.most:.2f}")
        if rows < bounds.rows:
            misses.append(f"{stage}: {rows} held-out rows, expected at least {bounds.rows}")
    return misses


def show_answer(store: Store, lock: RunLock, right: str) -> None:
    """Print the question that the served model was asked, its reasoning and its answer, and whether it is right."""
    manifest = lock.directory(store, "serve").manifest()
    if manifest is None:
        return
    proof = manifest.measurements
    thought = split_thinking(str(proof["answer"]))
    reasoning = proof.get("reasoning") or thought.reasoning
    print(f"\nquestion:  {proof['question']}")
    if reasoning:
        print("reasoning: " + str(reasoning).strip().replace("\n", "\n           "))
    print(f"answer:    {thought.answer}" + ("" if thought.answer == right else f"   (wrong: {right})") + "\n")
