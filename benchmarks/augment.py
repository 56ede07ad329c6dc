"""augment beside its peers: python -m benchmarks.augment [--samples N] [--in-flight 512] [--memory N] [--vllm]

Speed: a scripted endpoint in its own process, latencies log-normal around 2 s, shares core 0 with each client in turn.
Ours is the whole stage (plan, requests, names, checks, stored answers, rows, manifest); the others only ask and write
answers down. --memory: resident memory over so many samples at a tenth of the latency. --vllm: tokens a second against
a real vLLM on this CPU beside vLLM's own benchmark client, the same prompts and lengths, in turns.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from benchmarks.augment_peers import PACKAGES, WAYS
from pipeline.engine.server import serving
from pipeline.engine.settings import EngineSettings
from pipeline.store.cache import cache_folder
from pipeline.teacher.compose import Requests
from pipeline.teacher.reading import Piece, read_row
from pipeline.teacher.settings import AugmentSettings
from tests.servers.openai_endpoint import openai_server

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {
    "ours": "",
    "openai": "names, journal, checks, rows",
    "openai-aiohttp": "names, journal, checks, rows",
    "distilabel": "names, journal, checks, earlier turns",
}
BENCH = "vllm bench serve"
WORDS = ["로봇", "창고", "이동", "경로", "장애물", "질문", "계산", "결과", "속도", "거리", "시간", "지도", "명령"]
# What `vllm bench serve` runs; the command itself looks for a package called vllm, which the CPU build is not
BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def write_rows(path: Path, count: int, words: tuple[int, int] = (40, 160)) -> None:
    """Prepared rows: a question and an answer in Korean of so many words. The same arguments give the same file."""
    rng = random.Random(11)
    with path.open("wb") as file:
        for number in range(count):
            question = " ".join(rng.choices(WORDS, k=rng.randrange(*words)))
            messages = [
                {"role": "user", "content": f"{number}번: {question}?"},
                {"role": "assistant", "content": " ".join(rng.choices(WORDS, k=40))},
            ]
            row = {"messages": messages, "source": f"s{number % 7}", "id": f"{number:032x}", "origin": f"s:{number}"}
            file.write(orjson.dumps(row) + b"\n")


def write_requests(rows: Path, path: Path) -> None:
    """The requests that our stage makes of these rows, for the others to send."""
    settings = AugmentSettings.model_validate({"source": str(rows), "teacher": {"served_model_name": "teacher"}})
    requests = Requests("endpoint:teacher", settings)
    piece = Piece(rows.name, rows.stem, None, lambda: iter(()))
    with rows.open("rb") as source, path.open("wb") as file:
        for number, line in enumerate(source, 1):
            file.write(requests.request(read_row(piece, number, line.rstrip(b"\n")))[1] + b"\n")


def peers_python() -> Path:
    """The Python of an environment of the peers' own, made when it is not there."""
    folder = cache_folder() / "benchmarks" / "augment"
    python = folder / "bin" / "python"
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != "\n".join(PACKAGES):
        subprocess.run(["uv", "venv", "-q", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run(["uv", "pip", "install", "-q", "--python", str(python), *PACKAGES], check=True)
        stamp.write_text("\n".join(PACKAGES))
    return python


def answer_of(words: list[str], core: int | None) -> dict[str, Any]:
    """Run a client and read the JSON that it prints last."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
    environment.pop("HANFORGE_TEACHER_ENDPOINT", None)
    environment["BENCHMARK_CORE"] = "" if core is None else str(core)
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)[:200]} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def ours(
    urls: list[str], rows: Path, out: Path, settings: dict[str, Any], core: int | None = 0, **more: Any
) -> dict[str, Any]:
    """Our stage on these rows."""
    given = {"urls": urls, "rows": str(rows), "out": f"file://{out}", "settings": settings, **more}
    return answer_of([sys.executable, "-m", "benchmarks.augment_ours", json.dumps(given)], core)


@contextlib.contextmanager
def teacher(latency_seconds: float, core: int | None = 0) -> Iterator[str]:
    """The scripted endpoint, on one core; its URL."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    with openai_server() as server:
        os.sched_setaffinity(0, before)
        server.control(latency_seconds=latency_seconds, latency_sigma=0.3, steps=8)
        yield server.url


def speed(folder: Path, samples: int, in_flight: int, ways: list[str]) -> None:
    """The table of ours and the peers."""
    rows, requests = folder / "rows.jsonl", folder / "requests.jsonl"
    write_rows(rows, samples)
    write_requests(rows, requests)
    print(f"\n{samples:,} samples, {in_flight} in flight, latency 2.0 s on average, server and client on one core\n")
    print("| client | samples | samples/s | CPU ms each | ratio of CPU | leaves out |\n|---|---|---|---|---|---|")
    base = 0.0
    for way in ways:
        with teacher(1.9) as url:
            if way == "ours":
                found = ours([url], rows, folder / way, {"client": {"concurrency": in_flight}})
            else:
                words = [str(peers_python()), "-m", "benchmarks.augment_peers", way, url, str(requests)]
                found = answer_of([*words, str(folder / f"{way}.jsonl"), str(in_flight)], 0)
        each, rate = 1000 * found["cpu_seconds"] / found["samples"], found["samples"] / found["seconds"]
        base = base or each
        cells = [way, f"{found['samples']:,}", f"{rate:.0f}", f"{each:.2f}", f"{each / base:.1f}", LEFT_OUT[way]]
        print(f"| {' | '.join(cells)} |", flush=True)


def memory(folder: Path, samples: int, in_flight: int) -> None:
    """Resident memory of our stage while it grows."""
    rows = folder / "many.jsonl"
    write_rows(rows, samples)
    with teacher(0.19, core=None) as url:
        found = ours([url], rows, folder / "memory", {"client": {"concurrency": in_flight}}, core=None)
    each = 1000 * found["cpu_seconds"] / found["samples"]
    print(f"\n{samples:,} samples, {in_flight} in flight, latency 0.2 s, both cores: ", end="")
    print(f"{found['samples'] / found['seconds']:.0f} samples/s, {each:.2f} ms of CPU each\n")
    print("| samples done | resident MB |\n|---|---|")
    for mark, mb in found["mb"].items():
        print(f"| {int(mark):,} | {mb:.0f} |")


def checkpoint() -> Path:
    """SmolLM2-135M-Instruct in the cache, converted when it is not there."""
    folder = cache_folder() / "benchmarks" / "smollm2"
    if not (folder / "tokenizer.json").exists():
        subprocess.run([sys.executable, str(ROOT / "examples/smollm/convert.py"), str(folder)], check=True)
    return folder


def vllm(folder: Path, samples: int, tokens: int, turns: int) -> None:
    """Tokens a second of our stage and of vLLM's own benchmark client, in pairs of turns, each pair the other way
    round."""
    rows, prompts, model = folder / "rows.jsonl", folder / "prompts.jsonl", checkpoint()
    write_rows(rows, samples, words=(8, 30))
    questions = [orjson.loads(line)["messages"][0]["content"] for line in rows.open("rb")]
    prompts.write_bytes(b"".join(orjson.dumps({"prompt": question}) + b"\n" for question in questions))
    engine = EngineSettings(max_model_len=1024, dtype="float32", extra_args=["--no-enable-prefix-caching"])
    sampling = {"max_tokens": tokens, "temperature": 0.0, "top_p": None, "seed": None, "enable_thinking": None}
    settings = {"prompt": "{question}", "sampling": sampling}
    pairs: list[dict[str, float]] = []
    with serving(model, engine, served_name="teacher", log=folder / "vllm.log") as server:

        def rate(way: str) -> float:
            if way == BENCH:
                return its_own(server.url, prompts, model, samples, tokens, folder)
            out = folder / f"ours{len(pairs)}"
            found = ours([server.url], rows, out, settings, core=None, ignore_eos=True)
            return samples * tokens / float(found["seconds"])

        its_own(server.url, prompts, model, min(samples, 16), tokens, folder)  # to warm it up
        print(f"\nSmolLM2-135M, float32, {samples} prompts, {tokens} tokens each, pairs of turns on one server\n")
        print(f"| pair | ours, tokens/s | {BENCH}, tokens/s | share |\n|---|---|---|---|", flush=True)
        for number in range(turns):
            order = ("ours", BENCH) if number % 2 == 0 else (BENCH, "ours")  # what drifts meets both alike
            pairs.append({way: rate(way) for way in order})
            pair = pairs[-1]
            print(f"| {number + 1} | {pair['ours']:.1f} | {pair[BENCH]:.1f} | {100 * share(pair):.1f} % |", flush=True)
    shares = sorted(map(share, pairs))
    print(f"\nmedian share {100 * median(shares):.1f} %, from {100 * shares[0]:.1f} to {100 * shares[-1]:.1f} %")


def share(pair: dict[str, float]) -> float:
    """Our tokens a second as a share of the other's in the same pair of turns."""
    return pair["ours"] / pair[BENCH]


def its_own(url: str, prompts: Path, model: Path, samples: int, tokens: int, folder: Path) -> float:
    """Output tokens a second as `vllm bench serve` counts them, everything sent at once."""
    result = folder / "bench.json"
    words = ["--backend", "openai-chat", "--base-url", url.removesuffix("/v1")]
    words += ["--endpoint", "/v1/chat/completions", "--model", str(model), "--served-model-name", "teacher"]
    words += ["--dataset-name", "custom", "--dataset-path", str(prompts), "--skip-chat-template", "--disable-shuffle"]
    words += ["--num-prompts", str(samples), "--custom-output-len", str(tokens), "--ignore-eos", "--temperature", "0"]
    words += ["--disable-tqdm", "--save-result", "--result-dir", str(folder), "--result-filename", result.name]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    program = [sys.executable, "-c", BENCH_SERVE]
    done = subprocess.run([*program, *words], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"vllm bench serve ended with {done.returncode}:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    found = orjson.loads(result.read_bytes())
    if found["completed"] != samples or found["total_output_tokens"] != samples * tokens:
        sys.exit(f"vllm bench serve did {found['completed']} of {samples}, {found['total_output_tokens']} tokens")
    return float(found["output_throughput"])


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, help="speed: 6,000; --vllm: 96")
    parser.add_argument("--in-flight", type=int, default=512)
    parser.add_argument("--ways", nargs="+", default=["ours", *WAYS], choices=["ours", *WAYS])
    parser.add_argument("--memory", type=int, metavar="N", help="resident memory over N samples, nothing else")
    parser.add_argument("--vllm", action="store_true", help="beside vLLM's own benchmark client, nothing else")
    parser.add_argument("--tokens", type=int, default=96, help="--vllm: tokens of each answer")
    parser.add_argument("--turns", type=int, default=4, help="--vllm: pairs of turns")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hanforge-bench-") as name:
        folder = Path(name)
        if arguments.vllm:
            vllm(folder, arguments.samples or 96, arguments.tokens, arguments.turns)
        elif arguments.memory:
            memory(folder, arguments.memory, arguments.in_flight)
        else:
            speed(folder, arguments.samples or 6_000, arguments.in_flight, arguments.ways)


if __name__ == "__main__":
    main()
