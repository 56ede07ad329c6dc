"""prepare beside its peers and its own lower bound, all on the same rows in the same run: python -m benchmarks.prepare

Generates the raw rows (800,000 in ten files, 1.78 GB), installs the peers into an environment of its own and keeps both
in a cache folder. `times` is a way's time divided by ours; memory is the proportional set size of all its processes.
The bounds read the same files, decode every line and write 40 % of the lines (as many as our rows and rejects) as zstd
shards, in as many processes and with nothing else: no rule, no key, no order, no second look at the input.

`--overlap` adds our stage with 2,000 held-out prompts, by exact text and by n-grams; 100 of them are three quarters of
a raw row's question written without spaces. `--near-duplicates` adds it with MinHash.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.prepare_peers import PACKAGES
from benchmarks.synthetic import SYSTEM, generate

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hanforge-benchmarks"


class Way(NamedTuple):
    """One way to do the work: where it runs, how often, on clean rows or not, and what of the work it leaves out."""

    call: str
    runs: int
    peer: bool = False
    clean: bool = False
    leaves_out: str = ""


WAYS = {
    "hanforge prepare": Way("ours", 3, leaves_out="nothing"),
    "bound: orjson.loads": Way("bound_orjson", 3, leaves_out="everything but reading, decoding, writing"),
    "bound: msgspec, types only": Way("bound_msgspec", 3, leaves_out="the same; contents stay undecoded"),
    "datatrove, 2 processes": Way("datatrove", 1, True, leaves_out="duplicates, sample, rejects, manifest"),
    "HF datasets, 2 processes": Way(
        "hf_datasets", 1, True, True, "broken lines, duplicates, quotas, zstd, rejects, manifest"
    ),
    "  exclude_overlap_with": Way("ours_exact", 1, leaves_out="nothing"),
    "  and overlap_ngrams": Way("ours_ngrams", 1, leaves_out="nothing"),
    "  near_duplicates": Way("ours_near", 1, leaves_out="nothing"),
    "json + re, one process": Way("stdlib", 1, True, leaves_out="quotas, zstd, rejects, manifest, memory bound"),
}


OVERLAP = ["  exclude_overlap_with", "  and overlap_ngrams"]
NEAR_DUPLICATES = ["  near_duplicates"]


def ours_exact(raw: Path, out: Path, target: int, workers: int) -> None:
    """Our stage with prompts to exclude."""
    ours(raw, out, target, workers, exclude_overlap_with=[str(_prompts(raw, out))])


def ours_ngrams(raw: Path, out: Path, target: int, workers: int) -> None:
    """The same, also by n-grams."""
    ours(raw, out, target, workers, exclude_overlap_with=[str(_prompts(raw, out))], overlap_ngrams={"share": 0.5})


def ours_near(raw: Path, out: Path, target: int, workers: int) -> None:
    """Our stage with near-duplicates removed."""
    ours(raw, out, target, workers, near_duplicates={})


def _prompts(raw: Path, out: Path) -> Path:
    """2,000 held-out prompts: 100 taken from the raw rows, the others of the same words in another order."""
    rng = random.Random(5)
    with (raw / "source0.jsonl").open() as file:
        lines = [line for line in itertools.islice(file, 4000) if line.endswith("}\n")]
    path = out / "prompts.jsonl"
    with path.open("w") as file:
        for number, line in enumerate(lines[:2000]):
            words = json.loads(line)["messages"][0]["content"].split()
            taken = "".join(words[: len(words) * 3 // 4])
            rng.shuffle(words)
            turns = [{"role": "user", "content": taken if number < 100 else " ".join(words)}]
            file.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
    return path


def ours(raw: Path, out: Path, target: int, workers: int, **more: Any) -> None:
    """Our stage over a file:// store, from the recipe on: inputs are looked at and hashed too."""
    from pipeline.recipe.models import Recipe
    from pipeline.store import pins, runs
    from pipeline.store.objects import Store
    from pipeline.store.stage import Stage
    from pipeline.text import prepare

    settings = {"target_samples": target, "system_prompt": {"text": SYSTEM}, "workers": workers, **more}
    stage = {"kind": "prepare", "source": {"input": "raw"}, **settings}
    recipe = Recipe(name="bench", inputs={"raw": {"url": str(raw)}}, stages={"prepare": stage})
    store = Store(str(out))
    prepare.run(Stage(store, runs.create_run(store, pins.resolve(store, recipe)), "prepare"))


def bound_orjson(raw: Path, out: Path, target: int, workers: int) -> None:
    """Decode with the parser that the plain rule uses."""
    import orjson

    _bound(raw, out, workers, orjson.loads)


def bound_msgspec(raw: Path, out: Path, target: int, workers: int) -> None:
    """Decode by type, contents left as bytes, which msgspec then does not check."""
    import msgspec

    class Message(msgspec.Struct, gc=False):
        role: str
        content: msgspec.Raw

    class Row(msgspec.Struct, gc=False):
        messages: list[Message]
        source: str | None = None

    _bound(raw, out, workers, msgspec.json.Decoder(Row).decode)


def _bound(raw: Path, out: Path, workers: int, decode: Callable[[bytes], object]) -> None:
    units = [(path, start) for path in sorted(raw.glob("*.jsonl")) for start in range(0, path.stat().st_size, 1 << 26)]
    children = []
    for worker in range(workers):
        child = os.fork()
        if not child:
            for path, start in units[worker::workers]:
                _copy(path, start, out / f"{path.name}-{start}.zst", decode)
            os._exit(0)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        raise SystemExit("a process of the bound failed")


def _copy(path: Path, start: int, target: Path, decode: Callable[[bytes], object]) -> None:
    """Read 64 MB in blocks, decode every line, write two of five."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=1)
    with path.open("rb") as source, target.open("wb") as file, compressor.stream_writer(file) as writer:
        source.seek(start)
        left, number, carry = 1 << 26, 0, b""
        while left > 0 and (data := source.read(1 << 18)):
            left -= len(data)
            *lines, carry = (carry + data).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):
                    decode(line)
                number += 1
                if number % 5 < 2:
                    writer.write(line)
                    writer.write(b"\n")


class Measured(NamedTuple):
    """Seconds and CPU seconds of one run, start-up included, and its peak memory in MB over all its processes."""

    seconds: float
    cpu: float
    peak: float


def measured(way: Way, python: Path, arguments: list[str]) -> Measured:
    """Run one way in a process of its own and watch it and its children."""
    import psutil

    with tempfile.TemporaryDirectory(dir=CACHE) as out:
        command = [str(python), "-m", "benchmarks.prepare_peers" if way.peer else "benchmarks.prepare"]
        command += [way.call, arguments[0], out, *arguments[1:]]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HANFORGE_SCRATCH": out, "TMPDIR": out}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        began, peak = time.monotonic(), 0
        cpu: dict[int, float] = {}  # by process id, as last seen: workers may end before their parent
        with (CACHE / "log.txt").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):  # it may end between two looks
                family = [watched, *watched.children(recursive=True)]
                peak = max(peak, sum(member.memory_full_info().pss for member in family))
                cpu.update({member.pid: sum(member.cpu_times()[:2]) for member in family})
            time.sleep(0.1)
        if process.returncode:
            raise SystemExit(f"{way.call} ended with exit code {process.returncode}; see {CACHE / 'log.txt'}")
        return Measured(time.monotonic() - began, sum(cpu.values()), peak / 1e6)


def peers_python() -> Path:
    """The interpreter of the peers' environment, made at the first use."""
    folder = CACHE / "peers"
    python = folder / "bin" / "python"
    stamp = folder / "packages.txt"
    if not (stamp.exists() and stamp.read_text() == "\n".join(PACKAGES)):
        subprocess.run(["uv", "venv", "-q", "--clear", "--python", "3.11", str(folder)], check=True)
        subprocess.run(["uv", "pip", "install", "-q", "--python", str(python), *PACKAGES], check=True)
        stamp.write_text("\n".join(PACKAGES))
    return python


def main() -> None:
    """Make what is needed, run every way, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=800_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ways", nargs="*", choices=list(WAYS))
    parser.add_argument("--overlap", action="store_true", help="also with prompts to exclude")
    parser.add_argument("--near-duplicates", action="store_true", help="also without near-duplicates")
    options = parser.parse_args()
    left = OVERLAP * (not options.overlap) + NEAR_DUPLICATES * (not options.near_duplicates)
    ways = {name: WAYS[name] for name in options.ways or WAYS if name not in left}
    raw = {clean: CACHE / f"raw-{options.rows}{'-clean' * clean}" for clean in (False, True)}
    sizes = {clean: generate(raw[clean], options.rows, clean=clean) for clean in {way.clean for way in ways.values()}}
    python = peers_python() if any(way.peer for way in ways.values()) else Path(sys.executable)
    print(f"{options.rows:,} rows, {sizes.get(False, 0) / 1e6:,.0f} MB in 10 files, {options.workers} processes")
    print(f"{'way':27} {'rows/s':>9} {'MB/s':>6} {'seconds':>8} {'CPU s':>6} {'peak MB':>8} {'times':>6}  leaves out")
    first = 0.0
    for name, way in ways.items():
        arguments = [str(raw[way.clean]), str(options.rows * 8 // 25), str(options.workers)]
        found = [measured(way, python if way.peer else Path(sys.executable), arguments) for _ in range(way.runs)]
        seconds, cpu = (
            statistics.median(values) for values in ([run.seconds for run in found], [run.cpu for run in found])
        )
        peak = max(run.peak for run in found)
        first = first or seconds
        speed = f"{options.rows / seconds:9,.0f} {sizes[way.clean] / 1e6 / seconds:6.1f} {seconds:8.1f} {cpu:6.1f}"
        print(f"{name:27} {speed} {peak:8.0f} {seconds / first:6.2f}  {way.leaves_out}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in {way.call for way in WAYS.values()}:
        call, raw_folder, out_folder, wanted, processes = sys.argv[1:]
        globals()[call](Path(raw_folder), Path(out_folder), int(wanted), int(processes))
    else:
        main()
