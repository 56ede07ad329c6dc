"""`make run-stage`, `make run-chain`: stages of a recipe in docker, each in the image that holds what it needs.

A stage is `hanforge run RECIPE --only STAGE` in a container: the same preflight, retries and exit codes as without
docker. The working folder and the store lie at the same paths inside and outside: each finds what the other wrote.
Usage: python3 -m images.run RECIPE [--store URL] [--only STAGE] [options of `hanforge run`, passed on]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from images import engine

# What a container gets of this environment, by name alone: values do not show in the list of processes.
PASSED_ON = ("AWS_", "HF_", "HANFORGE_", "WANDB_", "MLFLOW_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "CUDA_VISIBLE")
KEPT_OUT = ("HANFORGE_STORE", "HANFORGE_CACHE", "HANFORGE_SCRATCH", "HANFORGE_PARENT")
BUNDLES = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
STATE = Path(".hanforge/docker")


class Containers:
    """How every container of this command is started."""

    def __init__(self, store: str, passed_on: list[str]) -> None:
        self.docker = engine.client()
        self.store = store if "://" in store else str(Path(store).resolve())
        self.cache = Path(os.environ.get("HANFORGE_CACHE") or Path.home() / ".cache/hanforge").resolve()
        self.options = [
            "--rm",
            f"--network={os.environ.get('DOCKER_NETWORK', 'host')}",
            *engine.user_options(self.docker, STATE),
            *(f"--volume={folder}:{folder}:{mode}" for folder, mode in self._folders(passed_on).items()),
            f"--workdir={Path.cwd()}",
            f"--env=HANFORGE_CACHE={self.cache}",
            *self._environment(),
        ]

    def _folders(self, passed_on: list[str]) -> dict[str, str]:
        """What is mounted at its own path: to be read, or (store and cache) to be written too."""
        inputs = [word.partition("=")[2] for option, word in pairwise(passed_on) if option == "--input"]
        read = [str(Path.cwd()), *(path for path in inputs if path.startswith("/") and Path(path).exists())]
        store = self.store.removeprefix("file://")
        written = [str(self.cache), *([store] if "://" not in store else [])]
        for folder in written:
            Path(folder).mkdir(parents=True, exist_ok=True)  # or the engine would make it as root
        return {**dict.fromkeys(read, "ro"), **dict.fromkeys(written, "rw")}

    def _environment(self) -> list[str]:
        names = sorted(
            name for name in os.environ if name.upper().startswith(PASSED_ON) and name not in (*KEPT_OUT, *BUNDLES)
        )
        options = [f"--env={name}" for name in names]
        for name in BUNDLES:
            bundle = os.environ.get(name)
            if bundle and Path(bundle).is_file():
                inside = f"/etc/hanforge/{name}.crt"  # several variables may name one file
                options += [f"--env={name}={inside}", f"--volume={Path(bundle).resolve()}:{inside}:ro"]
        if (Path.home() / ".aws").is_dir() and self.store.startswith("s3:"):
            options.append(f"--volume={Path.home() / '.aws'}:/home/hanforge/.aws:ro")
        return options

    def command(self, image: str, *words: str, options: tuple[str, ...] = ()) -> list[str]:
        """The whole command line of one container."""
        return [self.docker, "run", *self.options, *options, self.tag(image), *words]

    def tag(self, image: str) -> str:
        """The image's name: HANFORGE_DATA_IMAGE and so on, or hanforge-data:latest. It must be here."""
        tag = os.environ.get(f"HANFORGE_{image.upper()}_IMAGE", f"hanforge-{image}:latest")
        if not engine.has_image(self.docker, tag):
            engine.fail(f"image {tag!r} is not here", f"Build it: make images IMAGES={image}")
        return tag


def plan(containers: Containers, recipe: str, words: list[str]) -> dict[str, dict[str, Any]]:
    """The recipe's stages by name, as `hanforge plan` sees them.

    Where inputs are missing and examples/RECIPE/run.py makes them (as the demo's does), it makes them first.
    """
    asking = containers.command("data", "plan", recipe, *words, "--json")
    planned = json.loads(engine.asked(*asking))
    script = Path("examples") / recipe / "run.py"
    if planned["absent"] and script.is_file():
        options = ("--entrypoint=python", "--env=PYTHONSAFEPATH=")  # the script imports what lies beside it
        making = containers.command("train", str(script), "--inputs-only", "--store", containers.store, options=options)
        code = engine.run(*making)
        if code != 0:
            raise SystemExit(code)
        planned = json.loads(engine.asked(*asking))
    return {stage["name"]: stage for stage in planned["stages"]}


def main() -> int:
    """Run the stages; the first exit code that is not 0 ends the chain."""
    parser = argparse.ArgumentParser(description="Run a recipe's stages in docker.")
    parser.add_argument("recipe", help="a shipped recipe's name, or a .yaml file below the working folder")
    parser.add_argument("--store", default=".hanforge/demo", help="a folder or a URL (default: %(default)s)")
    parser.add_argument("--only", help="this stage alone; what it needs must be done")
    arguments, passed_on = parser.parse_known_args()
    containers = Containers(arguments.store, passed_on)
    words = ["--store", containers.store, *passed_on]
    stages = plan(containers, arguments.recipe, words)
    if arguments.only is not None and arguments.only not in stages:
        engine.fail(f"no stage {arguments.only!r} in {arguments.recipe}", f"Its stages: {', '.join(stages)}")
    # A chain looks at its inputs at each stage; a single stage inherits them from the recipe's newest run.
    chosen, narrowed = ([arguments.only], []) if arguments.only else (list(stages), ["--repin"])
    machine = engine.machine_options(containers.docker)
    terminal = ["-it"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    for number, name in enumerate(chosen, 1):
        stage = stages[name]
        if stage["done"] and arguments.only is None:
            continue
        print(f"== {name} ({number} of {len(chosen)}) in {containers.tag(stage['image'])}", flush=True)
        options = (*(machine if stage["image"] != "data" else []), *terminal)
        code = engine.run(
            *containers.command(
                stage["image"], "run", arguments.recipe, *words, "--only", name, *narrowed, options=options
            )
        )
        if code != 0:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
