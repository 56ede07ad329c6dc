"""Real stages over a real store for the tests of prepare."""

from pathlib import Path
from typing import Any

import orjson

from pipeline.recipe.models import Recipe
from pipeline.store import pins, runs
from pipeline.store.commit import Manifest
from pipeline.store.objects import Store
from pipeline.store.stage import Rows, Stage
from pipeline.text import prepare


def chat(question: str, answer: str, **more: Any) -> dict[str, Any]:
    """A single-turn row."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def jsonl(*rows: Any) -> bytes:
    """Rows as JSON lines; bytes are taken as they are."""
    return b"".join((row if isinstance(row, bytes) else orjson.dumps(row)) + b"\n" for row in rows)


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files below a folder; `a.jsonl.gz` and `a.jsonl.zst` are compressed here."""
    import gzip

    import zstandard

    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".gz"):
            data = gzip.compress(data)
        elif name.endswith(".zst"):
            data = zstandard.compress(data)
        path.write_bytes(data)
    return folder


def stages(store_url: str, raw: Path | str, **settings: dict[str, Any]) -> dict[str, Stage]:
    """Prepare stages by name over the input `raw`, locked in one run."""
    recipe = Recipe(
        name="test",
        inputs={"raw": {"url": str(raw)}},
        stages={name: {"kind": "prepare", "source": {"input": "raw"}, **values} for name, values in settings.items()},
    )
    store = Store(store_url)
    lock = runs.create_run(store, pins.resolve(store, recipe))
    return {name: Stage(store, lock, name) for name in settings}


def prepared(store_url: str, raw: Path | str, **settings: Any) -> tuple[Stage, Manifest]:
    """One prepare stage, run to its manifest."""
    stage = stages(store_url, raw, prepare=settings)["prepare"]
    prepare.preflight(stage)
    prepare.run(stage)
    manifest = stage.directory.manifest()
    assert manifest is not None
    return stage, manifest


def rows_of(stage: Stage, manifest: Manifest, output: str = "rows") -> list[dict[str, Any]]:
    """All rows of an output."""
    return list(Rows(stage.store, output, tuple(manifest.outputs.get(output, []))))


def contents(manifest: Manifest) -> dict[str, str]:
    """What "the same bytes" compares, by output."""
    return {output: manifest.content(output) for output in manifest.outputs}
