"""`python3 -m images.daemon start|stop`: a docker engine by hand, for a machine that has none running and no service
manager (a container, a build machine). Where an engine answers, `start` leaves it alone and `stop` does too.

Debian: apt-get install docker.io debootstrap. No packet filter rules: containers use the machine's own network.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from images import engine

PIDFILE = Path("/run/hanforge-dockerd.pid")
LOG = Path("/var/log/hanforge-dockerd.log")
READY_SECONDS = 60


def answers() -> bool:
    """Whether an engine is there to work with."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0


def start() -> None:
    """Start an engine unless one answers, and wait until it does."""
    if shutil.which("docker") is None or shutil.which("dockerd") is None:
        engine.fail("docker is not installed", "On Debian, as root: apt-get install docker.io debootstrap")
    if answers():
        return
    if os.getuid() != 0:
        engine.fail("no docker engine answers, and only root can start one", "Start yours, or: sudo make ...")
    words = ["dockerd", "--iptables=false", f"--pidfile={PIDFILE}"]
    with LOG.open("ab") as log:
        child = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + READY_SECONDS
    while not answers():
        if child.poll() is not None or time.monotonic() > deadline:
            engine.fail("the docker engine does not start", f"See {LOG}")
        time.sleep(0.3)
    print(f"docker engine started; its log: {LOG}")


def stop() -> None:
    """End the engine that `start` started."""
    try:
        pid = int(PIDFILE.read_text())
        os.kill(pid, signal.SIGTERM)
    except (FileNotFoundError, ProcessLookupError):
        print("no docker engine of ours runs")
        return
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.2)
    PIDFILE.unlink(missing_ok=True)
    print("docker engine stopped; images and layers stay in its folder")


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="A docker engine by hand.")
    parser.add_argument("what", choices=("start", "stop"))
    {"start": start, "stop": stop}[parser.parse_args().what]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
