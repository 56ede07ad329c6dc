"""What a stage's process says about itself."""

import subprocess
import sys

from tests.servers.process import ROOT

PARENT = """
import subprocess, sys
held = bytearray(400 << 20)
subprocess.run([sys.executable, "-c", "from jobs.stage import peak_bytes; print(peak_bytes())"], check=True)
"""


def test_the_peak_memory_is_not_the_parents() -> None:
    done = subprocess.run([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert 10 << 20 < int(done.stdout) < 300 << 20
