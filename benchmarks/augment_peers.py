"""What others do with the requests of the augment benchmark, each as its own documentation has it.

Runs in the benchmark's own environment: python -m benchmarks.augment_peers WAY URL REQUESTS OUT IN_FLIGHT
Prints one line of JSON: samples, seconds, and this process's own CPU seconds with its children's.
"""

import asyncio
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# distilabel imports requests without asking for it
PACKAGES = ("distilabel[openai]==1.5.3", "openai[aiohttp]==3.54.0", "requests==2.34.2")


def requests(path: Path) -> Iterator[dict[str, Any]]:
    """The chat requests of a JSONL file, one by one."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)


def openai(url: str, source: Path, out: Path, in_flight: int, http_client: Any = None) -> None:
    """AsyncOpenAI as its README has it: a semaphore, a task for each request, a line for each answer."""
    from openai import AsyncOpenAI

    async def main() -> None:
        client = AsyncOpenAI(base_url=url, api_key="none", timeout=600, max_retries=8, http_client=http_client)
        places = asyncio.Semaphore(in_flight)
        with out.open("w", encoding="utf-8") as file:

            async def ask(body: dict[str, Any]) -> None:
                try:
                    extra = {"chat_template_kwargs": body.pop("chat_template_kwargs")}
                    answer = await client.chat.completions.create(model="teacher", extra_body=extra, **body)
                    line = {"messages": body["messages"], "answer": answer.choices[0].message.content}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                finally:
                    places.release()

            async with asyncio.TaskGroup() as group:
                for body in requests(source):
                    await places.acquire()
                    group.create_task(ask(body))

    asyncio.run(main())


def openai_aiohttp(url: str, source: Path, out: Path, in_flight: int) -> None:
    """AsyncOpenAI over its aiohttp client."""
    from openai import DefaultAioHttpClient

    openai(url, source, out, in_flight, DefaultAioHttpClient())


def distilabel(url: str, source: Path, out: Path, in_flight: int) -> None:
    """distilabel: a pipeline of one TextGeneration over OpenAILLM, a batch as large as what we have in flight."""
    from distilabel.models import OpenAILLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts
    from distilabel.steps.tasks import TextGeneration

    rows = [{"instruction": body["messages"][-1]["content"]} for body in requests(source)]
    sampling = {"max_new_tokens": 4096, "temperature": 0.7, "top_p": 0.95}
    with Pipeline(name="augment") as pipeline:
        llm = OpenAILLM(
            model="teacher", base_url=url, api_key="none", timeout=600, max_retries=8, generation_kwargs=sampling
        )
        load = LoadDataFromDicts(data=rows, batch_size=in_flight)
        load >> TextGeneration(llm=llm, input_batch_size=in_flight, add_raw_input=False, add_raw_output=False)
    found = pipeline.run(use_cache=False, use_fs_to_pass_data=False)
    found["default"]["train"].to_json(str(out), force_ascii=False)


WAYS: dict[str, Callable[[str, Path, Path, int], None]] = {
    "openai": openai, "openai-aiohttp": openai_aiohttp, "distilabel": distilabel,
}  # fmt: skip


def cpu_seconds() -> float:
    """User and system time of this process and its children that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def imported(way: str) -> None:
    """Import what the way needs, so that only its work is timed."""
    for module in ("distilabel.models", "distilabel.pipeline", "distilabel.steps.tasks"):
        importlib.import_module(module if way == "distilabel" else "openai")


def main() -> None:
    """Do the work one way and print what it took."""
    way, url, source, out, in_flight = sys.argv[1:]
    if os.environ.get("BENCHMARK_CORE"):
        os.sched_setaffinity(0, {int(os.environ["BENCHMARK_CORE"])})
    imported(way)
    started, cpu = time.monotonic(), cpu_seconds()
    WAYS[way](url, Path(source), Path(out), int(in_flight))
    done = Path(out).read_bytes().count(b"\n")
    seconds, cpu = time.monotonic() - started, cpu_seconds() - cpu
    print(json.dumps({"samples": done, "seconds": seconds, "cpu_seconds": cpu}), flush=True)


if __name__ == "__main__":
    main()
