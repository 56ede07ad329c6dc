"""`make images`: builds the images and prints their sizes by group of layers.

Usage: python3 -m images.build [--images data,train,serve] [--cpu] [--base IMAGE]. What is shared is built once.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from images import engine

ALL = ("data", "train", "serve")
PULLED, MADE = "python:3.11-slim", "hanforge-base:bookworm"
# Which instruction made a layer -> the group that it belongs to; the first that fits.
GROUPS = (
    (r"media/\*\.whl", "hanforge"),
    (r"cuda\.txt", "torch and CUDA"),
    (r"common\.txt", "packages that train and serve share"),
    (r"(train|serve)\.txt|COPY /opt/hanforge", "packages of its own"),
    (r"apt-get install", "compiler and libraries"),
    (r"^(?!ARG|LABEL|ENV|USER|WORKDIR|ENTRYPOINT|CMD|RUN .*groupadd)", "base"),
    (r"", "rest"),
)


def base_image(docker: str, named: str | None) -> str:
    """BASE when it is named; else python:3.11-slim when it is here or comes; else what `make base-image` made."""
    if named:
        return named
    if engine.has_image(docker, PULLED):
        return PULLED
    if engine.has_image(docker, MADE):
        return MADE
    print(f"== pulling {PULLED}", flush=True)
    if subprocess.run([docker, "pull", "--quiet", PULLED], check=False).returncode != 0:
        engine.fail(f"{PULLED} cannot be pulled", "Make a base here: make base-image (as root), or name one: BASE=...")
    return PULLED


def build(docker: str, name: str, tag: str, arguments: dict[str, str]) -> float:
    """Build one image; gives the seconds. Ends with the engine's exit code when it fails."""
    began = time.monotonic()
    words = [docker, "build", "--network", os.environ.get("DOCKER_NETWORK", "host"), "--tag", tag]
    words += ["--file", f"images/{name}.Dockerfile"]
    bundle = os.environ.get("SSL_CERT_FILE", "")
    if Path(bundle).is_file():
        words += ["--secret", f"id=ca,src={bundle}"]
    for argument, value in arguments.items():
        words += ["--build-arg", f"{argument}={value}"]
    print(f"== building {tag}", flush=True)
    code = engine.run(*words, ".", DOCKER_BUILDKIT="1")
    if code != 0:
        raise SystemExit(code)
    return time.monotonic() - began


def layers(docker: str, tag: str) -> list[tuple[str, int]]:
    """Group and bytes of each layer of an image, as its history tells them."""
    listing = engine.asked(
        docker, "history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", tag
    )
    out = []
    for line in listing.splitlines():
        size, _, instruction = line.partition("\t")
        out.append((next(group for pattern, group in GROUPS if re.search(pattern, instruction)), int(size)))
    return out


def table(docker: str, tags: dict[str, str]) -> str:
    """A row for each group of layers, a column for each image, in MB."""
    sizes = {name: layers(docker, tag) for name, tag in tags.items()}
    order = [group for _, group in reversed(GROUPS)]
    rows = [["MB", *sizes]]
    for group in [*order[1:], order[0]]:
        held = [sum(size for own, size in sizes[name] if own == group) / 1e6 for name in sizes]
        if any(megabytes >= 0.05 for megabytes in held):
            rows.append([group, *(f"{megabytes:,.0f}" if megabytes >= 0.05 else "" for megabytes in held)])
    totals = {name: sum(size for _, size in sizes[name]) / 1e6 for name in sizes}
    over = {name: totals[name] - sum(size for own, size in sizes[name] if own == "base") / 1e6 for name in sizes}
    rows += [
        ["in all", *(f"{totals[name]:,.0f}" for name in sizes)],
        ["over its base", *(f"{over[n]:,.0f}" for n in over)],
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join("  ".join(line) for line in lines)


def commit() -> str:
    """The checkout's commit, with -dirty when it has changes; empty outside of one."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def main() -> int:
    """Build what was asked for, then print the table."""
    parser = argparse.ArgumentParser(description="Build hanforge's images.")
    parser.add_argument("--images", default=",".join(ALL), help="which, with commas between (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="serve with vLLM's CPU build")
    parser.add_argument("--base", help=f"the base image (default: {PULLED}, else {MADE})")
    parser.add_argument("--tag", default="latest", help="the images' tag (default: %(default)s)")
    parser.add_argument("--uv", help="the version of uv that installs")
    options = parser.parse_args()
    names = [name for name in options.images.replace(" ", ",").split(",") if name]
    unknown = sorted(set(names) - set(ALL))
    if unknown:
        engine.fail(f"no image {unknown[0]!r}", f"There are: {', '.join(ALL)}")
    docker = engine.client()
    arguments = {
        "BASE": base_image(docker, options.base),
        "COMMIT": commit(),
        "CREATED": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),  # noqa: UP017 - Python 3.10
        **({"UV_VERSION": options.uv} if options.uv else {}),
    }
    tags = {name: f"hanforge-{name}:{options.tag}" for name in names}
    for name, tag in tags.items():
        own = {"ENGINE": "cpu" if options.cpu else "gpu"} if name == "serve" else {}
        seconds = build(docker, name, tag, {**arguments, **own})
        print(f"== {tag} in {seconds:.0f} s", flush=True)
    print(table(docker, tags))
    return 0


if __name__ == "__main__":
    sys.exit(main())
