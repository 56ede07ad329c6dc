"""Mirrors Hub models and data sets into the store at a pinned commit, and finds them there again.

`models/<id>/<commit>/` and `datasets/<id>/<commit>/` hold the files, each checked against the Hub's checksum on its way
in, so a file that is there is whole; `_MANIFEST.json`, create-only, comes last and makes the mirror count. A fetch that
died goes on with the files that are missing.
"""

import fnmatch
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from pipeline.errors import Trouble, UserError
from pipeline.recipe.known_models import check_model_id
from pipeline.store.commit import create_json
from pipeline.store.disk import require_room
from pipeline.store.hub_client import (
    CheckedStream,
    HubFile,
    HubRevision,
    RepositoryKind,
    WriteFailed,
    download,
    hub_endpoint,
    look_up,
)
from pipeline.store.objects import Store
from pipeline.store.retry import is_passing
from pipeline.store.shards import Part

MANIFEST = "_MANIFEST.json"
FOLDERS: dict[RepositoryKind, str] = {"model": "models", "dataset": "datasets"}
WEIGHTS = ("*.safetensors",)
OLD_WEIGHTS = ("pytorch_model*.bin", "adapter_model.bin")
SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py", "LICENSE*", "NOTICE*", "README.md")
NOT_NEEDED = ("consolidated*", "*.fp16.*", "*.pth", "training_args.bin")
OTHER_FORMATS = ("original", "onnx", "openvino", "coreml", "gguf", "metal", "mlx")

Report = Callable[[int, int, str], None]  # bytes done, bytes in all, the file that just ended


@dataclass(frozen=True)
class MirroredModel:
    """A model or data set in the store: `parts` are its files (named, with bytes and sha256), in name order."""

    id: str
    revision: str
    parts: list[Part]
    url: str
    requested: str
    licence: str | None

    @property
    def bytes(self) -> int:
        """The size of all its files."""
        return sum(part.bytes for part in self.parts)


def resolve_model(store: Store, model_id: str, revision: str | None = None) -> MirroredModel:
    """The mirror of `organisation/name[@revision]`: a commit, its beginning, or the name it was fetched by.

    Raises UserError (exit 2) for an id that cannot exist, when nothing is mirrored, and when several mirrors fit.
    """
    check_model_id(model_id)
    repository, _, named = model_id.partition("@")
    wanted = revision or named or None
    standing = mirrors(store, repository)
    fitting = [m for m in standing if wanted is None or m.requested == wanted or m.revision.startswith(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(m.revision[:12] for m in fitting)
        raise UserError(
            f"{repository} is mirrored at {len(fitting)} revisions: {names}",
            f"Name one: {repository}@{fitting[0].revision[:12]}",
        )
    flag = f" --revision {wanted}" if wanted else ""
    found = f"; mirrored are {', '.join(m.revision[:12] for m in standing)}" if standing else ""
    raise NotMirrored(
        f"the model {repository}{f'@{wanted}' if wanted else ''} is not mirrored in {store.url}{found}",
        f"Fetch it first: hanforge fetch {repository}{flag} --store {store.url}",
    )


def ensure_model(store: Store, reference: str, report: Report | None = None) -> MirroredModel:
    """The mirror of a model, fetched now when the store has none."""
    try:
        return resolve_model(store, reference)
    except NotMirrored:
        return mirror(store, reference, report=report)


def pinned_revision(store: Store, reference: str) -> str:
    """The commit that a Hub id means: the mirrored one, else what the Hub says now, without bringing the files."""
    try:
        return resolve_model(store, reference).revision
    except NotMirrored:
        repository, _, revision = reference.partition("@")
        return look_up(repository, "model", revision or "main").commit


class NotMirrored(UserError):
    """The store has no mirror of it yet; the remedy is the command that fetches it."""


def mirrors(store: Store, repository: str, kind: RepositoryKind = "model") -> list[MirroredModel]:
    """Every complete mirror of a repository, by commit."""
    found = [_standing(store, kind, repository, commit) for commit in store.folders(f"{FOLDERS[kind]}/{repository}")]
    return [mirrored for mirrored in found if mirrored is not None]


def _standing(store: Store, kind: RepositoryKind, repository: str, commit: str) -> MirroredModel | None:
    prefix = f"{FOLDERS[kind]}/{repository}/{commit}"
    try:
        return _mirrored(store, prefix, orjson.loads(store.read(f"{prefix}/{MANIFEST}")))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _mirrored(store: Store, prefix: str, raw: dict[str, Any]) -> MirroredModel:
    parts = [Part(**part) for part in raw["files"]]
    return MirroredModel(raw["id"], raw["revision"], parts, f"{store.url}/{prefix}", raw["requested"], raw["licence"])


def mirror(
    store: Store,
    reference: str,
    kind: RepositoryKind = "model",
    revision: str | None = None,
    concurrency: int = 4,
    report: Report | None = None,
) -> MirroredModel:
    """Copy a repository at one commit into the store; what is there already is not fetched again.

    Memory: about 120 MB for each of `concurrency` files, whatever their size; no local disk. Raises UserError for what
    the user must mend, Trouble else.
    """
    repository, _, named = reference.partition("@")
    if kind == "model":
        check_model_id(repository)
    wanted = revision or named or "main"
    if len(wanted) == 40 and (standing := _standing(store, kind, repository, wanted)) is not None:
        return standing
    found = look_up(repository, kind, wanted)
    if (standing := _standing(store, kind, repository, found.commit)) is not None:
        return standing
    files = chosen_files(found)
    prefix = f"{FOLDERS[kind]}/{repository}/{found.commit}"
    if store.is_local:
        require_room(Path(store.root), sum(file.bytes for file in files), "Free disk space or use another --store")
    parts = _copy(store, found, files, prefix, concurrency, report)
    document = {
        "kind": kind, "id": repository, "revision": found.commit, "requested": wanted, "licence": found.licence,
        "endpoint": hub_endpoint(), "files": parts, "fetched": time.time(),
    }  # fmt: skip
    return _mirrored(store, prefix, create_json(store, f"{prefix}/{MANIFEST}", document))


def chosen_files(revision: HubRevision) -> list[HubFile]:
    """The files worth mirroring: all of a data set; of a model weights, configuration, tokenizer, template, licence.

    safetensors before old .bin weights; no second copy of the weights in another format. UserError without weights.
    """
    for file in revision.files:
        path = PurePosixPath(file.name)
        if path.is_absolute() or ".." in path.parts or "\\" in file.name:
            raise UserError(f"{revision.id} has a file named {file.name!r}", "A name that leaves its folder is refused")
    if revision.kind == "dataset":
        return [file for file in revision.files if not PurePosixPath(file.name).name.startswith(".git")]
    files = [file for file in revision.files if not _unneeded(file.name)]
    top = [file for file in files if "/" not in file.name]
    weights = [file for file in top if _matches(file.name, WEIGHTS)] or [
        file for file in top if _matches(file.name, OLD_WEIGHTS)
    ]
    if not weights:
        names = ", ".join(file.name for file in revision.files[:6])
        raise UserError(f"{revision.id} has no safetensors or .bin weights, only {names}", "Name another checkpoint")
    small = [file for file in files if _matches(file.name, SMALL_FILES)]
    return sorted({*weights, *small}, key=lambda file: file.name)


def _unneeded(name: str) -> bool:
    return PurePosixPath(name).parts[0] in OTHER_FORMATS or _matches(name, NOT_NEEDED)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(PurePosixPath(name).name, pattern) for pattern in patterns)


def _copy(
    store: Store, found: HubRevision, files: list[HubFile], prefix: str, concurrency: int, report: Report | None
) -> list[Part]:
    """Copy the files that the store lacks, several at once, largest first; parts in name order."""
    standing = {entry.key: entry.size for entry in store.list(prefix)}
    total = sum(file.bytes for file in files)
    done = 0
    lock = threading.Lock()

    def one(file: HubFile) -> Part:
        nonlocal done
        key = f"{prefix}/{file.name}"
        sha256 = file.sha256 if standing.get(key) == file.bytes else None
        part = Part(key, 0, file.bytes, sha256 or _copied(store, found, file, key), file.name)
        with lock:
            done += file.bytes
            if report is not None:
                report(done, total, file.name)
        return part

    with ThreadPoolExecutor(concurrency) as pool:
        parts = list(pool.map(one, sorted(files, key=lambda file: -file.bytes)))
    return sorted(parts, key=lambda part: part.name)


def _copied(store: Store, found: HubRevision, file: HubFile, key: str, tries: int = 3) -> str:
    """Stream one file in and give its sha256; written again from its start when the store failed or bytes differ.

    Memory: a few blocks of the store. A file whose check fails, or whose writer dies, never appears.
    """
    trouble: Exception | None = None
    for _ in range(tries):
        try:
            with store.incoming(key) as target:
                stream = CheckedStream(target, file)
                download(found, file, stream)
                stream.check()
            return stream.sha256.hexdigest()
        except Exception as error:
            if not isinstance(error, WriteFailed) and not is_passing(error):
                raise
            trouble = error
    raise Trouble(f"cannot mirror {found.id}/{file.name}: {trouble}", f"{tries} tries ended so; run the fetch again")


def described(mirrored: MirroredModel) -> dict[str, Any]:
    """A mirror as JSON values, for `fetch --json`."""
    return {
        "id": mirrored.id, "revision": mirrored.revision, "url": mirrored.url, "licence": mirrored.licence,
        "files": len(mirrored.parts), "bytes": mirrored.bytes,
    }  # fmt: skip
