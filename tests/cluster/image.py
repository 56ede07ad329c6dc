"""Writes a container image as a tar in Docker's archive format, from files alone: no daemon, no base image."""

import hashlib
import io
import json
import platform
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def scratch_image(
    path: Path, name: str, files: Mapping[str, Path | bytes], entrypoint: Sequence[str], user: int = 0
) -> None:
    """Write image NAME, one layer of `files` (by their path inside) with /tmp, to the tar at `path`.

    A file named bin/busybox brings the commands of busybox as links, so that the image has a shell.
    """
    layer = _layer(files)
    digest = hashlib.sha256(layer).hexdigest()
    settings = {"Entrypoint": list(entrypoint), "Env": ["PATH=/bin"], "User": str(user), "WorkingDir": "/"}
    config = json.dumps({
        "architecture": ARCHITECTURES[platform.machine()], "os": "linux", "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }).encode()  # fmt: skip
    layer_name, config_name = f"{digest}.tar", f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}]
    parts = {layer_name: layer, config_name: config, "manifest.json": json.dumps(manifest).encode()}
    unfinished = path.with_suffix(".unfinished")
    with tarfile.open(unfinished, "w") as archive:
        for part, content in parts.items():
            _add(archive, part, content, 0o644)
    unfinished.rename(path)


def is_static(program: Path) -> bool:
    """Whether a 64-bit ELF program needs no loader (no PT_INTERP header), so that it runs in an image without one."""
    content = program.read_bytes()
    start, (size, count) = struct.unpack_from("<Q", content, 32)[0], struct.unpack_from("<HH", content, 54)
    return all(struct.unpack_from("<I", content, start + i * size)[0] != PT_INTERP for i in range(count))


def _layer(files: Mapping[str, Path | bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for directory, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        for name, source in files.items():
            _add(archive, name, source if isinstance(source, bytes) else source.read_bytes(), 0o755)
        if "bin/busybox" in files:
            for command in BUSYBOX_COMMANDS:
                link = tarfile.TarInfo(f"bin/{command}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


PT_INTERP = 3
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # as Go and container images name them
BUSYBOX_COMMANDS = (
    "sh", "cat", "cp", "dd", "df", "echo", "env", "false", "grep", "head", "httpd", "id", "kill", "ls", "mkdir", "mv",
    "nc", "nslookup", "printf", "ps", "rm", "sleep", "sort", "tail", "tr", "true", "wc", "wget", "whoami",
)  # fmt: skip
