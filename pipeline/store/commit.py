"""The commit protocol of one stage's folder, `stages/<kind>/<fingerprint>/`.

plan.json (create-only) names the units; parts are never overwritten; `done/<unit>.json` (create-only) is the commit of
a unit; `_MANIFEST.json` (create-only) joins the units in the plan's order. Whoever finds that another was first adopts
what stands there. Readers open only what a manifest names. planned = ok + rejected + failed, always.
"""

import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from pipeline.errors import Trouble
from pipeline.store.disk import file_sha256
from pipeline.store.objects import Store
from pipeline.store.shards import SUFFIX, Compression, Part, RowsWriter

READERS = 16  # small objects that are read at once


@dataclass(frozen=True)
class Counts:
    """Rows by terminal state; `rejected` and `failed` map reasons to rows."""

    planned: int = 0
    ok: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.planned + other.planned,
            self.ok + other.ok,
            _added(self.rejected, other.rejected),
            _added(self.failed, other.failed),
        )

    def balanced(self) -> bool:
        """Whether every planned row has ended in exactly one state."""
        return self.planned == self.ok + sum(self.rejected.values()) + sum(self.failed.values())

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Done:
    """A committed unit: its parts by output, its counts, and whatever the kind measured."""

    unit: str
    outputs: dict[str, list[Part]]
    counts: Counts
    measurements: dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """A finished stage: the ordered parts of every output, counts and measurements. `raw` is the stored document."""

    outputs: dict[str, list[Part]]
    counts: Counts
    measurements: dict[str, Any]
    raw: dict[str, Any]

    def content(self, output: str) -> str:
        """One hash over an output's ordered content hashes: what "the same bytes" compares."""
        lines = [f"{part.name} {part.rows} {part.sha256}" for part in self.outputs[output]]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class StageDirectory:
    """One stage's folder in the store."""

    def __init__(self, store: Store, kind: str, fingerprint: str) -> None:
        self.store = store
        self.kind = kind
        self.fingerprint = fingerprint
        self.prefix = f"stages/{kind}/{fingerprint}"

    def key(self, *names: str) -> str:
        """The key of an object in this folder. Example: key("done", "0003.json")"""
        return "/".join((self.prefix, *names))

    def plan(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The plan that stands: made and created by the first caller, adopted by all others."""
        key = self.key("plan.json")
        try:
            return orjson.loads(self.store.read(key))  # type: ignore[no-any-return]
        except FileNotFoundError:
            return create_json(self.store, key, make())

    @contextmanager
    def write_rows(self, unit: str, output: str = "rows", compression: Compression = "zstd") -> Iterator[RowsWriter]:
        """Write one JSONL part of `unit`; it is uploaded when the block ends without an error."""
        with tempfile.TemporaryDirectory(prefix="hanforge-", dir=os.environ.get("HANFORGE_SCRATCH")) as folder:
            writer = RowsWriter(Path(folder) / "part", compression)
            try:
                yield writer
            finally:
                writer.close()
            writer.part = self._stored(unit, writer.path, f"{output}{SUFFIX[compression]}", writer.rows)

    def write_file(self, unit: str, local: Path, name: str) -> Part:
        """Upload one file of a folder output (adapter, model, scores) under its own `name`."""
        return self._stored(unit, local, name, 0, folder=True)

    def write_directory(self, unit: str, local: Path) -> list[Part]:
        """Upload every file below `local`, sorted by relative name."""
        files = sorted(path for path in local.rglob("*") if path.is_file())
        return [self.write_file(unit, path, path.relative_to(local).as_posix()) for path in files]

    def _stored(self, unit: str, local: Path, name: str, rows: int, folder: bool = False) -> Part:
        unique = f"{unit}-{uuid.uuid4().hex}"
        key = self.key("parts", unique, name) if folder else self.key("parts", f"{unique}-{name}")
        part = Part(key, rows, local.stat().st_size, file_sha256(local), name if folder else "")
        self.store.upload(key, local)
        return part

    def commit_unit(
        self, unit: str, outputs: dict[str, list[Part]], counts: Counts, measurements: dict[str, Any] | None = None
    ) -> Done:
        """Commit a unit; gives the winner's record, which is another writer's when that one was first."""
        if not counts.balanced():
            raise RuntimeError(f"unit {unit!r}: planned rows do not add up: {counts.plain()}")
        record = Done(unit, outputs, counts, measurements or {})
        return _done(create_json(self.store, self.key("done", f"{unit}.json"), record))

    def done(self) -> dict[str, Done]:
        """Every committed unit by name."""
        keys = [entry.key for entry in self.store.list(self.key("done"))]
        with ThreadPoolExecutor(READERS) as pool:
            records = [_done(orjson.loads(data)) for data in pool.map(self.store.read, keys)]
        return {record.unit: record for record in records}

    def done_names(self) -> set[str]:
        """The names of the committed units, from one listing."""
        return {entry.key.rsplit("/", 1)[-1].removesuffix(".json") for entry in self.store.list(self.key("done"))}

    def commit_manifest(self, units: list[str], measurements: dict[str, Any] | None = None) -> Manifest:
        """Join the committed units in the order given and create the manifest, or adopt the one that stands."""
        standing = self.manifest()
        if standing is not None:
            return standing
        done = self.done()
        missing = [unit for unit in units if unit not in done]
        if missing:
            raise Trouble(
                f"{self.prefix}: {len(missing)} of {len(units)} units are not committed, first {missing[0]!r}"
            )
        outputs: dict[str, list[Part]] = {}
        for unit in units:
            for name, parts in done[unit].outputs.items():
                outputs.setdefault(name, []).extend(parts)
        document = {
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "outputs": outputs,
            "counts": sum((done[unit].counts for unit in units), Counts()),
            "measurements": measurements or {},
        }
        return _manifest(create_json(self.store, self.key("_MANIFEST.json"), document))

    def manifest(self) -> Manifest | None:
        """The manifest, or None while the stage is not done."""
        try:
            return _manifest(orjson.loads(self.store.read(self.key("_MANIFEST.json"))))
        except FileNotFoundError:
            return None


def dumped(value: Any) -> bytes:
    """Canonical JSON: sorted keys, fields of dataclasses in their order, so that the same content is the same bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def create_json(store: Store, key: str, document: Any) -> dict[str, Any]:
    """Create a document once; everybody gets the one that stands, as it is stored."""
    data = dumped(document)
    return orjson.loads(data if store.create(key, data) else store.read(key))  # type: ignore[no-any-return]


def _parts(outputs: dict[str, list[dict[str, Any]]]) -> dict[str, list[Part]]:
    return {name: [Part(**part) for part in parts] for name, parts in outputs.items()}


def _manifest(raw: dict[str, Any]) -> Manifest:
    return Manifest(_parts(raw["outputs"]), Counts(**raw["counts"]), raw["measurements"], raw)


def _done(record: dict[str, Any]) -> Done:
    return Done(record["unit"], _parts(record["outputs"]), Counts(**record["counts"]), record["measurements"])


def _added(left: dict[str, int], right: dict[str, int]) -> dict[str, int]:
    return {reason: left.get(reason, 0) + right.get(reason, 0) for reason in sorted({*left, *right})}
