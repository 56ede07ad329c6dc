"""`make demo`: data and tiny models into the store, the recipe `demo`, the scores checked, the report written.

All work is done by `hanforge run demo`; this adds what a user would bring (data, base models) and the final check:
the base scores near 0, phase 1 in between, phase 2 at 90 % or more. Exit code 1 and a sentence when it does not.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import generate

from pipeline.store.objects import Store
from pipeline.store.probe import open_store
from pipeline.store.runs import RunLock, find_run
from pipeline.text.thinking import split_thinking

HERE = Path(__file__).parent
EXPECTED = {  # stage -> (metric, least, most): shares of exact answers on the held-out rows
    "evaluate_base": ("data.off.exact", 0.0, 0.05),
    "evaluate_phase1": ("data.off.exact", 0.20, 0.75),
    "evaluate_phase2": ("data.on.exact", 0.90, 1.0),
}
LEAST_HELDOUT = 200


def main() -> int:
    """Run the demo against a store; the exit code of what failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default=".hanforge/demo")
    arguments, passed_on = parser.parse_known_args()
    began = time.monotonic()
    store = open_store(arguments.store)
    bring_inputs(store)
    done = hanforge("run", "demo", "--store", arguments.store, *passed_on)
    if done != 0:
        return done
    lock = find_run(store, "latest@demo")
    misses = check_scores(store, lock)
    show_answer(store, lock)
    page = Path(".hanforge") / "demo-report.html"
    reported = hanforge("report", "latest@demo", "--store", arguments.store, "--out", str(page), quiet=True)
    print(f"report:   {page.resolve()}" if reported == 0 else "report:   could not be written (see above)")
    print(f"took:     {time.monotonic() - began:.0f} s")
    for miss in misses:
        print(f"error: {miss}", file=sys.stderr)
    return 1 if misses else reported


def hanforge(*words: str, quiet: bool = False) -> int:
    """The exit code of `hanforge WORDS`; its output goes to this terminal unless quiet."""
    command = [sys.executable, "-m", "jobs", *words]
    return subprocess.run(command, stdout=subprocess.DEVNULL if quiet else None, check=False).returncode


def bring_inputs(store: Store) -> None:
    """Write the generated data and base models to `<store>/inputs/`, unless this version of them is there."""
    sources = b"".join((HERE / name).read_bytes() for name in ("generate.py", "tiny_models.py"))
    marker = f"inputs/.demo-{hashlib.sha256(sources).hexdigest()[:16]}"
    if store.exists(marker):
        return
    print("== generating three sources of Korean rows, worked examples and two tiny base models", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        generate.write_inputs(folder)
        import tiny_models  # imports torch: only when something is to be made

        tiny_models.write_models(folder, folder)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            store.upload(f"inputs/{path.relative_to(folder).as_posix()}", path)
    store.create(marker, b"")


def check_scores(store: Store, lock: RunLock) -> list[str]:
    """Print the table of scores and return what misses its bounds, a sentence each."""
    misses = []
    print("\nexact answers on held-out rows")
    for stage, (metric, least, most) in EXPECTED.items():
        manifest = lock.directory(store, stage).manifest()
        assert manifest is not None, f"{stage} is done but has no manifest"
        score, rows = float(manifest.measurements["scores"][metric]), manifest.counts.planned
        print(f"  {stage:<16} {score:7.1%}   {rows} rows")
        if not least <= score <= most:
            misses.append(f"{stage}: {metric} is {score:.3f}, expected {least:.2f} to {most:.2f}")
        if rows < LEAST_HELDOUT:
            misses.append(f"{stage}: only {rows} held-out rows, expected at least {LEAST_HELDOUT}")
    return misses


def show_answer(store: Store, lock: RunLock) -> None:
    """Print the question that the served model was asked, its reasoning and its answer."""
    manifest = lock.directory(store, "serve").manifest()
    assert manifest is not None, "serve is done but has no manifest"
    proof = manifest.measurements
    thought = split_thinking(proof["answer"])
    reasoning = proof.get("reasoning") or thought.reasoning or ""
    print(f"\nquestion: {proof['question']}")
    print("reasoning: " + json.dumps(reasoning, ensure_ascii=False).strip('"').replace("\\n", "\n           "))
    print(f"answer:   {thought.answer}\n")


if __name__ == "__main__":
    sys.exit(main())
