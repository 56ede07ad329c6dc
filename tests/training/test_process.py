"""What holds in a training process: freed memory is kept for the next step, and tokenizers use every core."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from pipeline.training.process import keep_freed_memory
keep_freed_memory()
def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(*[step() for _ in range(6)])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_a_freed_tensor_is_faulted_in_once() -> None:
    said = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    first, *_, last = map(int, said.split())
    assert first > 1000 and last < 100  # 64 MiB are 16,384 pages of 4 KiB


def test_tokenizers_use_every_core_whatever_the_command_line_asked_for() -> None:
    code = """
import os
from jobs.options import configure_logging
from pipeline.recipe.profiles import Execution
from pipeline.training.process import prepare_process
configure_logging()
prepare_process(Execution(precision="fp32", attention="sdpa", world_size=1, threads=1, device="cpu"))
print(os.environ["TOKENIZERS_PARALLELISM"])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "true\n"
