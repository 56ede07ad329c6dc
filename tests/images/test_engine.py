"""The data image in a docker engine: what it holds, who it runs as, how it stops. Skipped, loudly, where none is."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from images import build, engine

IMAGE = os.environ.get("HANFORGE_DATA_IMAGE", "hanforge-data:latest")
UID, GID = 12345, 12346
PUBLIC = ("/site-packages/botocore/cacert.pem", "/site-packages/certifi/cacert.pem")  # as published
RECIPE = """\
name: rows
inputs: {raw: {}}
stages:
  prepare:
    kind: prepare
    source: {input: raw}
    near_duplicates: {}
"""

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def docker() -> str:
    """A docker client whose engine holds the data image."""
    try:
        client = engine.client()
    except SystemExit:
        _skip("no docker engine on this machine")
    if not engine.has_image(client, IMAGE):
        _skip(f"{IMAGE} is not in the engine: make images IMAGES=data")
    return client


def _skip(reason: str) -> None:
    warnings.warn(f"THE IMAGES WERE NOT TESTED: {reason}", stacklevel=2)
    pytest.skip(reason)


def ran(docker: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """A container's end."""
    network = os.environ.get("DOCKER_NETWORK", "host")
    command = [docker, "run", "--rm", "--network", network, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_alone_it_prints_help(docker: str) -> None:
    done = ran(docker, IMAGE)
    assert done.returncode == 0 and "Usage: hanforge" in done.stdout


def test_it_runs_as_a_known_user_without_torch_or_compiler(docker: str) -> None:
    script = (
        "import importlib.util as u, io, os, pwd, shutil\n"
        "import kubernetes.config, pyarrow, s3fs, tokenizers, zstandard\n"
        "from kubernetes.client import ApiClient\n"
        "from pyarrow import parquet\n"
        "from pipeline.text.compiled import has_row_reader\n"
        "ApiClient()\n"
        "rows, file = [{'turns': [{'role': '사용자'}]}], io.BytesIO()\n"
        "parquet.write_table(pyarrow.Table.from_pylist(rows), file, compression='zstd')\n"
        "assert next(parquet.ParquetFile(file).iter_batches()).to_pylist() == rows\n"
        "print(pwd.getpwuid(os.getuid()).pw_name, has_row_reader(), u.find_spec('torch'), os.getpid(),\n"
        "      [c for c in ('gcc', 'cc', 'clang', 'uv', 'pip', 'strip') if shutil.which(c)])\n"
    )
    done = ran(docker, "--entrypoint", "python", "--read-only", "--cap-drop=ALL", IMAGE, "-c", script)
    assert done.stdout.split(maxsplit=4) == ["hanforge", "True", "None", "1", "[]\n"], done.stderr


def test_it_is_under_200_mb_over_its_base(docker: str) -> None:
    sizes = [size for group, size in build.layers(docker, IMAGE) if group != "base"]
    assert sum(sizes) < 200e6


def test_layers_hold_no_certificate_of_this_machine_and_no_mount(docker: str, tmp_path: Path) -> None:
    own = _certificates(Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")).read_bytes())
    archive = tmp_path / "image.tar"
    subprocess.run([docker, "save", "--output", archive, IMAGE], check=True)
    base: set[str] | None = None
    with tarfile.open(archive) as image:
        (manifest,) = json.load(_member(image, "manifest.json"))
        for layer in manifest["Layers"]:
            names, found = _layer(_member(image, layer))
            assert not [name for name in names if re.search(r"^(mnt|media|root)/.|\.cache/|/uv$|\.env$|\.aws/", name)]
            if base is None:
                base = found  # what every machine has: whoever made the base put it there
            else:
                assert not (found & own) - base
    assert base is not None


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    found = archive.extractfile(name)
    assert found is not None
    return found


def _layer(stream: IO[bytes]) -> tuple[list[str], set[str]]:
    """The names in a layer, and the certificates in any of its files."""
    names: list[str] = []
    found: set[str] = set()
    with tarfile.open(fileobj=stream) as layer:
        for entry in layer:
            names.append(entry.name)
            if entry.isfile() and not entry.name.endswith(PUBLIC):
                found |= _certificates(_member(layer, entry.name).read())
    return names, found


def _certificates(content: bytes) -> set[str]:
    blocks = re.findall(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", content, re.DOTALL)
    return {hashlib.sha256(b"".join(block.split())).hexdigest() for block in blocks}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """A folder of a user that the image does not know, with rows enough for some seconds."""
    folder = tmp_path / "store"
    raw = folder / "inputs" / "raw"
    raw.mkdir(parents=True)
    with (raw / "rows.jsonl").open("w", encoding="utf-8") as file:
        for number in range(150_000):
            turns = [
                ("user", f"질문 {number}: {number * 7919} 번 상자는 어디에"),
                ("assistant", f"{number} 번 선반에 있습니다."),
            ]
            row = {"messages": [{"role": role, "content": content} for role, content in turns]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / "rows.yaml").write_text(RECIPE)
    if os.getuid() == 0:
        subprocess.run(["chown", "-R", f"{UID}:{GID}", folder], check=True)
        for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            parent.chmod(0o755)  # pytest's own folders are the tester's alone
    yield folder
    subprocess.run(["rm", "-rf", folder], check=True)


def test_sigterm_reaches_the_stage_and_the_next_start_goes_on(docker: str, store: Path) -> None:
    user = (UID, GID) if os.getuid() == 0 else (os.getuid(), os.getgid())
    words = ["--user", "{}:{}".format(*user), "--volume", f"{store}:{store}", IMAGE, "stage", "prepare"]
    words += ["--store", str(store), "--recipe", str(store / "rows.yaml")]
    name = f"hanforge-test-{os.getpid()}"
    network = os.environ.get("DOCKER_NETWORK", "host")
    started = subprocess.Popen([docker, "run", "--rm", "--name", name, "--network", network, *words])
    deadline = time.monotonic() + 120
    while not list(store.glob("stages/prepare/*/plan.json")) and time.monotonic() < deadline:
        assert started.poll() is None, "the stage ended before it could be stopped"
        time.sleep(0.05)
    subprocess.run([docker, "kill", "--signal", "TERM", name], check=True, stdout=subprocess.DEVNULL)
    assert started.wait(timeout=120) == 143
    assert not list(store.glob("stages/prepare/*/_MANIFEST.json"))

    done = ran(docker, *words)
    assert done.returncode == 0, done.stderr
    (manifest,) = store.glob("stages/prepare/*/_MANIFEST.json")
    assert json.loads(manifest.read_text())["counts"]["planned"] == 150_000
    assert {(path.stat().st_uid, path.stat().st_gid) for path in store.rglob("*")} == {user}


def test_a_stage_in_docker_is_done_for_hanforge_outside(docker: str, store: Path) -> None:
    words = ["rows.yaml", "--store", str(store), "--only", "prepare", "--set", "prepare.target_samples=1000"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HANFORGE_CACHE": str(store / "cache")}
    done = subprocess.run([sys.executable, "-m", "images.run", *words], cwd=store, env=environment, check=False)
    assert done.returncode == 0
    lock = json.loads(next(store.glob("runs/*.json")).read_text())
    assert lock["recipe"]["stages"]["prepare"]["target_samples"] == 1000
    assert len(list(store.glob("stages/prepare/*/_MANIFEST.json"))) == 1
    assert {path.stat().st_uid for path in store.glob("stages/**/*")} == {os.getuid()}
