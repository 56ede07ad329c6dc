"""Training on several cards through `hanforge stage`: the same losses as on one, how much faster, and what signals do.

    python benchmarks/gpus.py [--case multiturn|phase1] [--layers 8] [--cards 2] [--seconds 470]

Builds a base of the case's real shape with few layers and random weights, a tokenizer and Korean conversations, then
trains it as a run's stage does, with the recipe's settings: on one card and on all, killed, stopped and resumed, as two
nodes of which one is lost, quantised, and with more rows a step. Prints one table and, below it, what was held against
what; exit code 1 when something differs. Runs that no longer fit into --seconds are left out, and said so. `--tiny`
does the same with a tiny shape in processes on the CPU (gloo). Needs what benchmarks/train.py needs, psutil and typer.
"""

import argparse
import hashlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import psutil
import torch
from gpus_lab import Lab, Trained, as_row, build_base, write_rows
from safetensors.torch import load_file
from train import CASES, table_head

from pipeline.store.stage import Stage
from pipeline.training.checkpoints import StoredCheckpoints

# bf16 rounds a product otherwise when it has other rows beside it; in float32 only sums come in another order.
TOLERANCE = {"cuda": 1e-2, "cpu": 1e-4}
DETERMINISTIC = """import torch
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = False
"""


def report(lab: Lab) -> str:
    """The table and the findings."""
    head = table_head(
        "run", "processes", "rows a step", "tokens/s", "s/step", "peak GiB", "each card", "loss", "exit codes", "s"
    )
    links = {
        line.split(" via ")[1].split()[0]
        for one in lab.runs
        if one.log is not None
        for line in one.log.read_text(errors="replace").splitlines()
        if "NCCL INFO" in line and " via " in line
    }
    found = [f"- {'ok' if holds else 'NOT SO'}: {what}" for what, holds in lab.checks]
    return "\n".join([*head, *map(as_row, lab.runs), "", f"NCCL's links: {', '.join(sorted(links)) or '-'}", *found])


def apart(one: Trained, other: Trained) -> float:
    """The largest relative difference of two loss curves; infinite where one has other steps."""
    if one.losses.keys() != other.losses.keys() or not one.losses:
        return float("inf")
    return max(abs(one.losses[step] - other.losses[step]) / abs(other.losses[step]) for step in one.losses)


def adapters_apart(one: Trained, other: Trained) -> float:
    """0 for files of the same bytes, else the norm of their difference by the norm of `other`."""
    if one.adapter is None or other.adapter is None:
        return float("inf")
    if len({hashlib.sha256(path.read_bytes()).digest() for path in (one.adapter, other.adapter)}) == 1:
        return 0.0
    ours, theirs = load_file(one.adapter), load_file(other.adapter)
    squares = [(float((ours[name] - theirs[name]).norm() ** 2), float(theirs[name].norm() ** 2)) for name in theirs]
    return float((sum(first for first, _ in squares) / sum(second for _, second in squares)) ** 0.5)


def learn_alike(lab: Lab) -> None:
    """One process beside several, without dropout, whose draws depend on the batch."""
    cards = lab.arguments.cards
    alone, together = (lab.train(_title("", count), count, lora=without_dropout(lab)) for count in (1, cards))
    allowed, difference = TOLERANCE[lab.device], apart(together, alone)
    lab.check(
        f"losses of {cards} processes are those of one: {difference:.1e} apart, {allowed} allowed",
        difference <= allowed,
    )


def learn_twice(lab: Lab) -> None:
    """The same training again: how far apart the order of floating-point sums brings two of them."""
    cards = lab.arguments.cards
    first, again = (lab.train(f"{cards} cards, {time}", cards, lora=without_dropout(lab)) for time in ("once", "again"))
    lab.check(
        f"the same training twice: losses {apart(again, first):.1e} apart, adapters {adapters_apart(again, first):.1e}",
        apart(again, first) <= TOLERANCE[lab.device],
    )


def without_dropout(lab: Lab) -> dict[str, Any]:
    """The case's adapters without dropout."""
    return {**lab.settings["lora"], "lora_dropout": 0.0}


def survive_signals(lab: Lab) -> None:
    """Killed after a checkpoint, then stopped, then left alone, under deterministic algorithms."""
    cards, settings, exact = lab.arguments.cards, {"max_steps": 16, "save_steps": 4}, True
    calm = lab.train("undisturbed, deterministic", cards, deterministic=True, max_steps=16)
    if calm.codes != [0]:
        lab.check("every operation has a deterministic form", False)
        calm, exact = lab.train("undisturbed", cards, max_steps=16), False
    stage, disturbed = lab.stage("disturbed", cards, **settings), Trained("killed, stopped, resumed", cards, calm.rows)
    with lab.recorded(stage, disturbed):
        first = lab.start(stage, {}, deterministic=exact)
        members = _at_step(stage, first, 4)
        members[-1].kill()
        killed_in = _ended(first, disturbed)
        second = lab.start(stage, {}, deterministic=exact)
        _at_step(stage, second, _step(stage) + 4)
        second.send_signal(signal.SIGTERM)
        stopped_in = _ended(second, disturbed)
        saved = _step(stage)
        _ended(lab.start(stage, {}, deterministic=exact), disturbed)
    lab.check(f"one process killed: exit code 1, {killed_in:.1f} s later", disturbed.codes[0] == 1)
    lab.check(f"SIGTERM: exit code 143, {stopped_in:.1f} s later, at step {saved}", disturbed.codes[1] == 143)
    resumed = "going on from the checkpoint" in lab.log(stage).read_text(errors="replace")
    lab.check("the third start goes on from a checkpoint and ends with 0", disturbed.codes[2] == 0 and resumed)
    lab.check(f"its losses are those of the undisturbed: {apart(disturbed, calm):.1e} apart",
              apart(disturbed, calm) == 0)  # fmt: skip
    lab.check(f"its adapter has the same bytes (apart: {adapters_apart(disturbed, calm):.1e})",
              adapters_apart(disturbed, calm) == 0)  # fmt: skip


def lose_a_node(lab: Lab) -> None:
    """Two nodes with one card each, which NCCL joins over sockets; all processes of one are killed."""
    stage, lost = lab.stage("nodes", 2, nodes=2, save_steps=4), Trained("2 nodes, one lost", 2, lab.rows({}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = {"HANFORGE_MASTER_ADDR": "127.0.0.1", "HANFORGE_MASTER_PORT": str(free.getsockname()[1])}
    where |= {"NCCL_DEBUG": "INFO", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1"}
    with lab.recorded(stage, lost):
        nodes = [
            lab.start(stage, {**where, "NCCL_HOSTID": f"node-{number}", "CUDA_VISIBLE_DEVICES": str(number)}, number, 2)
            for number in range(2)
        ]
        for process in [nodes[1], *_at_step(stage, nodes[1], 4)]:
            process.kill()
        nodes[1].wait()
        survived = _ended(nodes[0], lost, 120)
        lost.codes.append(0)
    lab.check(f"a node is lost: its peer ends with exit code 1, {survived:.1f} s later", lost.codes[0] == 1)


def scale_otherwise(lab: Lab) -> None:
    """What else is worth a number, as long as there is time."""
    cards, quantized = lab.arguments.cards, CASES[lab.arguments.case].settings.get("quantization", "8bit")
    wanted: list[tuple[str, float, dict[str, Any]]] = [
        (f"{quantized} base", 50, {"quantization": quantized}),
        ("64 rows", 50, {"gradient_accumulation_steps": 16, "max_steps": 16}),
        ("compiled", 90, {"compile_layers": True}),
    ]
    for name, seconds, changed in wanted:
        if lab.has_time(2 * seconds, name):
            together, alone = (
                lab.train(_title(name, count), count, lora=without_dropout(lab), **changed) for count in (cards, 1)
            )
            ended = together.codes == alone.codes == [0]
            lab.check(f"{name}: both end with 0, losses {apart(together, alone):.1e} apart", ended)


def _title(name: str, processes: int) -> str:
    return ", ".join(filter(None, (name, f"{processes} cards" if processes > 1 else "one card")))


PARTS = {
    "learn": learn_alike,
    "signals": survive_signals,
    "node": lose_a_node,
    "twice": learn_twice,
    "scale": scale_otherwise,
}


def _done(lab: Lab, name: str) -> None:
    """Do one part; the others are worth their time when it breaks."""
    try:
        PARTS[name](lab)
    except Exception:  # noqa: BLE001 - said in full
        traceback.print_exc()
        lab.check(f"{name} came to its end", False)


def _step(stage: Stage) -> int:
    """The step of the newest complete checkpoint, 0 before the first."""
    complete = StoredCheckpoints(stage.directory, lambda: None, 2).complete()
    return complete[-1].step if complete else 0


def _at_step(stage: Stage, process: "subprocess.Popen[bytes]", wanted: int) -> list[psutil.Process]:
    """The processes that train under `process`, by rank, once a checkpoint of that step is complete."""
    while _step(stage) < wanted and process.poll() is None:
        time.sleep(0.05)
    found = [one for one in psutil.Process(process.pid).children() if "RANK" in one.environ()]
    return sorted(found, key=lambda one: int(one.environ()["RANK"]))


def _ended(process: "subprocess.Popen[bytes]", trained: Trained, limit_seconds: float = 180.0) -> float:
    """Wait for its end and keep its exit code, -9 when it takes too long; the seconds that it took."""
    began = time.monotonic()
    try:
        process.wait(limit_seconds)
    except subprocess.TimeoutExpired:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
    trained.codes.append(process.wait())
    return time.monotonic() - began


def main() -> None:
    """Build the base in a process of its own (so that this one holds no memory of a card), then run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), default="multiturn")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--cards", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of an undisturbed training")
    parser.add_argument("--row-tokens", type=int, default=450, help="mean length of rows")
    parser.add_argument("--seconds", type=float, default=470, help="so long at most")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape on the CPU")
    parser.add_argument("--only", choices=list(PARTS), nargs="+", help="these parts, in this order")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        build_base(arguments, arguments.build)
        return
    folder = Path(tempfile.mkdtemp(prefix="gpus-"))
    try:
        lab = Lab(arguments, folder)
        subprocess.run([sys.executable, *sys.argv, "--build", str(folder / "base")], check=True)
        write_rows(folder / "rows", max(arguments.steps * 16, 16 * 64), 60 if arguments.tiny else arguments.row_tokens)
        (folder / "deterministic").mkdir()
        (folder / "deterministic" / "sitecustomize.py").write_text(DETERMINISTIC)
        print(f"{arguments.case}, {arguments.layers} layers, torch {torch.__version__}, after "
              f"{lab.elapsed():.0f} s", flush=True)  # fmt: skip
        for name in arguments.only or PARTS:
            if lab.has_time(60, name):
                _done(lab, name)
        print(report(lab))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if all(holds for _, holds in lab.checks) else 1)


if __name__ == "__main__":
    main()
