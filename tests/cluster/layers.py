"""Hands docker's layers to a containerd as hard links: in seconds, and without a second copy on the disk.

Docker's overlay2 and containerd's overlayfs keep a layer alike, as a folder of files (whiteouts are devices, opaque
folders an attribute) that nobody writes again: a container's own files go into a folder above it. So a layer that a
node lacks becomes a snapshot there whose files are docker's, and an image is its configuration and a manifest over
such snapshots. `docker image rm` takes nothing from a node, since a file lives as long as its last name.
"""

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.errors import Unavailable

KEPT = "containerd.io/gc.root"  # the label by which ctr keeps what no image names yet


@dataclass(frozen=True)
class Layer:
    """A layer: the digest of its tar, the id of the chain that it ends (its snapshot's name), where its files lie."""

    digest: str
    chain: str
    folder: Path
    size_bytes: int


@dataclass(frozen=True)
class Image:
    """An image that docker has: its full name, its configuration as stored, its layers from the bottom."""

    name: str
    config: bytes
    layers: tuple[Layer, ...]

    @property
    def manifest(self) -> bytes:
        """The OCI manifest; its digest is what a containerd lists for the image."""
        layers = [_blob(LAYER, layer.digest, layer.size_bytes) for layer in self.layers]
        config = _blob(CONFIG, _digest(self.config), len(self.config))
        return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}).encode()

    def archive(self) -> bytes:
        """An OCI archive (a tar) of the image without its layers."""
        named = {"io.containerd.image.name": self.name}
        entry = _blob(MANIFEST, _digest(self.manifest), len(self.manifest)) | {"annotations": named}
        parts = {
            "oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode(),
            "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
            **{f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (self.config, self.manifest)},
        }
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, content in parts.items():
                header = tarfile.TarInfo(name)
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
        return buffer.getvalue()


MANIFEST, CONFIG, LAYER = (
    f"application/vnd.oci.image.{name}" for name in ("manifest.v1+json", "config.v1+json", "layer.v1.tar")
)


def _blob(kind: str, digest: str, size_bytes: int) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest, "size": size_bytes}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def of_docker(name: str, beside: Path) -> Image | None:
    """The image NAME of docker, where its layers can be linked into the folder `beside`.

    None where they cannot: another storage driver than overlay2, another file system. Raises Unavailable for no image.
    """
    asked = subprocess.run(["docker", "image", "inspect", name], capture_output=True, text=True)
    if asked.returncode:
        raise Unavailable(f"docker has no image {name!r} to give: {asked.stderr.strip()}")
    (found,) = json.loads(asked.stdout)
    driver = found.get("GraphDriver") or {}
    data = driver.get("Data") or {}
    if driver.get("Name") != "overlay2" or "UpperDir" not in data:
        return None
    above = [Path(text) for text in (data["UpperDir"], *filter(None, data.get("LowerDir", "").split(":")))]
    database = above[0].parents[2] / "image" / "overlay2"
    config = database / "imagedb" / "content" / Path(*found["Id"].split(":"))
    if not config.exists() or above[0].stat().st_dev != beside.stat().st_dev:
        return None
    layers = tuple(_layers(found["RootFS"]["Layers"], above[::-1], database / "layerdb"))
    return Image(full_name(name), config.read_bytes(), layers)


def _layers(digests: Sequence[str], folders: Sequence[Path], database: Path) -> Iterator[Layer]:
    """Layers from the bottom. A chain's id is the digest of the chain below it and its own layer's (OCI image spec)."""
    chain = ""
    for digest, folder in zip(digests, folders, strict=True):
        chain = _digest(f"{chain} {digest}".encode()) if chain else digest
        size = (database / Path(*chain.split(":")) / "size").read_text()
        yield Layer(digest, chain, folder, int(size))


def full_name(name: str) -> str:
    """An image's name as containerd keeps it: "hanforge-data" -> "docker.io/library/hanforge-data:latest"."""
    host, _, rest = name.rpartition("/")
    name = name if ":" in rest else f"{name}:latest"
    if not host:
        return f"docker.io/library/{name}"
    first = host.split("/")[0]
    return name if "." in first or ":" in first or first == "localhost" else f"docker.io/{name}"


def give(image: Image, ctr: Sequence[str], root: Path) -> None:
    """Give the containerd that `ctr` speaks to an image; `root` is its /var/lib, seen from here. Raises Unavailable."""
    if _ask(ctr, "images", "list", f"name=={image.name}").find(_digest(image.manifest)) >= 0:
        return
    there = {line.split()[0] for line in _ask(ctr, "snapshots", "list").splitlines()[1:]}
    new = [layer for layer in image.layers if layer.chain not in there]
    below = dict(zip(image.layers[1:], image.layers, strict=False))
    for layer in new:
        _link(layer, below.get(layer), ctr, root)
    _ask(ctr, "images", "import", "-", text=image.archive())
    for layer in new:  # the image names them now
        _ask(ctr, "snapshots", "label", layer.chain, f"{KEPT}=")


def _link(layer: Layer, below: Layer | None, ctr: Sequence[str], root: Path) -> None:
    """Make a snapshot of a layer. Whoever is first wins, if two do so at once."""
    key = f"linking-{uuid.uuid4()}"
    parent = [below.chain] if below else []
    (mount,) = json.loads(_ask(ctr, "snapshots", "prepare", "--mounts", key, *parent))
    upper = [option.split("=", 1)[1] for option in mount["Options"] if option.startswith("upperdir=")]
    folder = root / Path(*upper, *([] if upper else [mount["Source"]])).relative_to("/var/lib")
    link_files(layer.folder, folder)
    try:
        _ask(ctr, "snapshots", "commit", layer.chain, key)
    except Unavailable as error:
        _ask(ctr, "snapshots", "remove", key)
        if "already exists" not in str(error):
            raise


def link_files(source: Path, target: Path) -> None:
    """Fill a folder with hard links to another's files; its folders are new, with all attributes. Raises Unavailable.

    dockerd mounts its folder on itself, and a link may not cross mounts: both are reached through a mount of their
    file system's top that nothing else sees.
    """
    top = next(folder for folder in target.parents if folder.is_mount())
    if not source.is_relative_to(top):
        raise Unavailable(f"{source} is not on the file system of {target}, mounted at {top}")
    with tempfile.TemporaryDirectory() as seen:
        inside = [Path(seen) / path.relative_to(top) for path in (source, target)]
        script = f"mount --bind {top} {seen} && exec cp -al {inside[0]}/. {inside[1]}"
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"linking {source} into {target} failed: {done.stderr.strip().splitlines()[-1]}")


def _ask(ctr: Sequence[str], *arguments: str, text: bytes = b"") -> str:
    """What ctr prints. Raises Unavailable with its words."""
    done = subprocess.run([*ctr, *arguments], input=text, capture_output=True)
    if done.returncode:
        raise Unavailable(f"`ctr {' '.join(arguments)}` failed: {done.stderr.decode().strip()}")
    return done.stdout.decode()
