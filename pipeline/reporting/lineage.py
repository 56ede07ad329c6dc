"""What made a model: the stages above it with fingerprints and settings, rows by source and file, teacher, bases, code.

A plain document (JSON values), the one source of both the terminal's tree and `--json`.
"""

from typing import Any

from pipeline.recipe import models
from pipeline.recipe.references import StageReference, is_hub_id, references_in
from pipeline.reporting.funnel import ROW_KINDS
from pipeline.reporting.raw import raw_lines
from pipeline.reporting.rows import count_rows, output_rows
from pipeline.reporting.settings_shown import settings_shown
from pipeline.store.named import NamedModel
from pipeline.store.objects import Store
from pipeline.store.pins import identity
from pipeline.store.progress import read_metrics
from pipeline.store.runs import RunLock, reference_key
from pipeline.store.standing import standing

Document = dict[str, Any]


def lineage_of(store: Store, model: NamedModel, examples: int = 0, seed: int = 42) -> Document:
    """The lineage of a model: {model, files, run, recipe, stages (raw data first), inputs, hub_models, examples}.

    A model that no run here made (a folder, a Hub id) has its files alone. `examples` rows of each training set are
    shown with their raw lines. Raises UserError when a stage above has no manifest any more.
    """
    document: Document = {"model": model.label, "files": _files(model)}
    if model.lock is None or model.stage is None:
        return {**document, "run": None, "recipe": None, "stages": [], "inputs": [], "hub_models": {}, "examples": []}
    lock = model.lock
    names = ancestors(lock, model.stage)
    external = {key for name in names for key in _external(lock, name)}
    return {
        **document,
        "run": lock.run_id,
        "recipe": lock.recipe.name,
        "created": lock.created,
        "stage": model.stage,
        "stages": [_stage(store, lock, name) for name in names],
        "inputs": [{"name": key, **source.plain()} for key, source in lock.inputs.items() if key in external],
        "hub_models": {key: revision for key, revision in lock.hub_models.items() if key in external},
        "examples": _examples(store, lock, names, examples, seed) if examples else [],
    }


def ancestors(lock: RunLock, stage: str) -> list[str]:
    """The stages whose data is in `stage`, itself last, in the recipe's order."""
    wanted, open_names = {stage}, [stage]
    while open_names:
        for _, reference, _ in references_in(lock.settings(open_names.pop())):
            if isinstance(reference, StageReference) and reference.stage not in wanted:
                wanted.add(reference.stage)
                open_names.append(reference.stage)
    return [name for name in models.order(lock.recipe) if name in wanted]


def code_versions(records: list[Document]) -> list[dict[str, str]]:
    """The code that finished a stage, from its usage records: [{"version", "commit"}], without doubles."""
    found = {
        (str(record["version"]), str(record.get("commit", "")))
        for record in records
        if record.get("record") == "usage" and record.get("exit_code") == 0 and "version" in record
    }
    return [{"version": version, "commit": commit} for version, commit in sorted(found)]


def execution_of(lock: RunLock, name: str) -> Document | None:
    """Where a computing stage runs (card, precision, devices), None for stages whose result does not depend on it."""
    return lock.stages[name].execution.model_dump() if type(lock.settings(name)).COMPUTES else None


def _stage(store: Store, lock: RunLock, name: str) -> Document:
    settings, directory = lock.settings(name), lock.directory(store, name)
    manifest = directory.manifest()
    measured = manifest.measurements if manifest else {}
    out: Document = {
        "name": name,
        "kind": settings.kind,
        "fingerprint": directory.fingerprint,
        "contract": type(settings).CONTRACT,
        "done": standing(store, lock, name).done,
        "settings": settings_shown(settings),
        "reads": [_read(store, lock, name, path, reference) for path, reference, _ in references_in(settings)],
        "rows": manifest.counts.plain() if manifest and settings.kind in ROW_KINDS else None,
        "outputs": {output: manifest.content(output) for output in manifest.outputs} if manifest else {},
        "code": code_versions(read_metrics(directory)),
    }
    if execution := execution_of(lock, name):
        out["execution"] = execution
    if "teacher" in measured:
        out["teacher"] = {"name": getattr(settings, "teacher").name(), "identity": measured["teacher"]}  # noqa: B009
    return out


def _read(store: Store, lock: RunLock, stage: str, path: tuple[str, ...], reference: Any) -> Document:
    """One thing that a stage reads: which setting says so, what it is, its identity, and the rows of training data."""
    out: Document = {"setting": ".".join(path), "identity": identity(lock, reference)}
    if not isinstance(reference, StageReference):
        key = reference_key(reference)
        known = {"hub_model": reference} if is_hub_id(reference) else {"input": key.removeprefix("input:")}
        return {**out, **known, **({"revision": lock.hub_models[key]} if key in lock.hub_models else {})}
    output = models.output_name(lock.settings(reference.stage), reference)
    out |= {"stage": reference.stage, "output": output}
    if lock.settings(stage).kind == "train" and path[0] == "data":
        rows = output_rows(store, lock, reference.stage, output)
        out |= {"rows": rows.total, "sources": count_rows(rows)}
    return out


def _external(lock: RunLock, stage: str) -> list[str]:
    references = [reference for _, reference, _ in references_in(lock.settings(stage))]
    return [reference_key(reference) for reference in references if not isinstance(reference, StageReference)]


def _examples(store: Store, lock: RunLock, names: list[str], count: int, seed: int) -> list[Document]:
    """`count` rows of every set that a training reads, each with the raw line that it came from."""
    out: list[Document] = []
    for name in names:
        for path, reference, _ in references_in(lock.settings(name)):
            if lock.settings(name).kind != "train" or path[0] != "data" or not isinstance(reference, StageReference):
                continue
            rows = output_rows(store, lock, reference.stage, reference.output).sample(count, seed)
            inputs = {key for above in ancestors(lock, reference.stage) for key in _external(lock, above)}
            raw = raw_lines(lock, {str(row.get("origin")) for row in rows}, inputs)
            for row in rows:
                line = raw.get(str(row.get("origin")))
                text = None if line is None else line.decode("utf-8", "replace")
                out.append({"trained_by": name, "from": reference.stage, "row": row, "raw": text})
    return out


def _files(model: NamedModel) -> list[Document]:
    return [{"name": file.name, "bytes": file.bytes, "digest": file.tag} for file in model.files]
