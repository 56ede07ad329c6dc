"""The docker on this machine: which client can build, what a container is given of the machine, how a command runs.

Standard library alone, so that images are built and run with any Python from 3.10 on and nothing installed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

BUILTIN = 23  # from this version on, a client builds only through the plugin buildx
CLIENTS = ("docker", "/usr/bin/docker")  # a second one may lie behind the first on PATH


def fail(what: str, remedy: str) -> NoReturn:
    """One line and exit code 2: the user must mend something."""
    print(f"error: {what}. {remedy}", file=sys.stderr)
    raise SystemExit(2)


def client() -> str:
    """The docker client: DOCKER, or the first that can build with BuildKit and whose engine answers."""
    named = os.environ.get("DOCKER")
    seen = []
    for candidate in [named] if named else CLIENTS:
        path = shutil.which(candidate)
        if path is None:
            continue
        if not _builds(path):
            seen.append(f"{path} has no buildx")
        elif _said(path, "version", "--format", "{{.Server.Version}}") is None:
            seen.append(f"{path} reaches no engine")
        else:
            return path
    fail(
        f"no docker to work with: {'; '.join(seen) or f'{named or CLIENTS[0]} is not installed'}",
        "Install docker with buildx and start its engine, or name another client: DOCKER=/path/to/docker",
    )


def _builds(path: str) -> bool:
    version = re.search(r"\d+", _said(path, "--version") or "")
    return (version is not None and int(version.group()) < BUILTIN) or _said(path, "buildx", "version") is not None


def _said(*words: str) -> str | None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def has_image(docker: str, image: str) -> bool:
    """Whether the engine holds the image."""
    return _said(docker, "image", "inspect", image) is not None


def asked(*words: str) -> str:
    """What a command prints; its own words and its exit code when it fails."""
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    return done.stdout


def run(*words: str, **variables: str) -> int:
    """Run a command on this terminal and give its exit code; signals reach it and are waited for."""
    child = subprocess.Popen(words, env={**os.environ, **variables})
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the child as well
    passed_on = signal.signal(signal.SIGTERM, lambda number, frame: child.terminate())
    try:
        return child.wait()
    finally:
        signal.signal(signal.SIGINT, ignored)
        signal.signal(signal.SIGTERM, passed_on)


def machine_options(docker: str) -> list[str]:
    """GPUs where the machine has them and the engine can pass them; half the memory as shared memory."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    options = [f"--shm-size={pages // 2}"]
    if shutil.which("nvidia-smi") and _said("nvidia-smi", "-L"):
        known = _said(docker, "info", "--format", "{{json .Runtimes}} {{json .CDISpecDirs}}") or ""
        if "nvidia" in known or any(Path(folder).glob("nvidia*") for folder in map(Path, ("/etc/cdi", "/var/run/cdi"))):
            options.append("--gpus=all")
        else:
            print("this machine's GPUs are not passed: the engine lacks nvidia-container-toolkit", file=sys.stderr)
    return options


def user_options(docker: str, folder: Path) -> list[str]:
    """Run as whoever asks, so that files in the store are theirs; with a passwd file that knows them (torch asks)."""
    if "rootless" in (_said(docker, "info", "--format", "{{json .SecurityOptions}}") or ""):
        return ["--user=0:0"]  # there, root inside is the user outside
    user, group = os.getuid(), os.getgid()
    passwd = folder / "passwd"
    folder.mkdir(parents=True, exist_ok=True)
    root = "root:x:0:0:root:/home/hanforge:/usr/sbin/nologin\n"
    passwd.write_text(root if user == 0 else f"{root}user:x:{user}:{group}::/home/hanforge:/usr/sbin/nologin\n")
    return [f"--user={user}:{group}", f"--volume={passwd.resolve()}:/etc/passwd:ro"]
