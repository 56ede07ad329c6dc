"""What a prepare stage reads: its files in order, the rules of the first pass, and what preflight finds wrong."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.errors import UserError
from pipeline.recipe.references import StageReference
from pipeline.store.inputs import SourceFile, check_unchanged
from pipeline.store.stage import Stage
from pipeline.text.chatml import check_messages, turns_of
from pipeline.text.examine import Rules, last_prompt_hash
from pipeline.text.files import is_readable, is_splittable
from pipeline.text.overlap import Prompt
from pipeline.text.render import InputFile
from pipeline.text.settings import PrepareSettings


def preflight(stage: Stage) -> None:
    """Raise UserError for an input without readable files, empty, or written as one JSON array."""
    settings: PrepareSettings = stage.settings
    for reference in settings.references():
        if isinstance(reference, StageReference):
            continue
        rows = stage.rows(reference)
        files = [file for file in rows.files() if is_readable(file.name)]
        _check_files(rows.name, files, [file.name for file in rows.files()])


def input_files(stage: Stage) -> list[InputFile]:
    """The files to read, ordered by name; files of several references carry their reference's name in front.

    Raises UserError when an external file is not what the run was locked with.
    """
    settings: PrepareSettings = stage.settings
    references = settings.references()
    found: list[InputFile] = []
    for reference in references:
        rows = stage.rows(reference)
        upstream = isinstance(reference, StageReference)
        readable = [file for file in rows.files() if is_readable(file.name)]
        skipped = [file.name for file in rows.files() if not is_readable(file.name)]
        if skipped:
            stage.log.info("%s: files that hold no rows are not read: %s", rows.name, ", ".join(skipped[:8]))
        if not upstream:
            check_unchanged(readable)
        name = re.sub(r"^input:", "", rows.name).rstrip("/").rsplit("/", 1)[-1]
        front = f"{name}/" if len(references) > 1 or upstream else ""
        found.extend(InputFile(file, front + file.name, upstream) for file in readable)
    return sorted(found, key=lambda entry: (entry.plain_origin, entry.file.url))


def _check_files(name: str, readable: Sequence[SourceFile], every: list[str]) -> None:
    if not readable:
        shown = ", ".join(every[:8])
        raise UserError(
            f"{name!r} has no file that prepare reads; it holds {shown}",
            "Give .jsonl (plain, .gz or .zst) or .parquet files",
        )
    if not any(file.bytes for file in readable):
        raise UserError(f"{name!r}: {len(readable)} files, all empty", "Check how they were written")
    for file in readable:
        if is_splittable(file.name) and file.bytes:
            head = file.read_range(0, min(file.bytes, 64)).removeprefix(b"\xef\xbb\xbf").lstrip()
            if file.name.endswith(".json") and head.startswith(b"["):
                raise UserError(f"{file.url} is one JSON array", "Write one row a line: jq -c '.[]' FILE > FILE.jsonl")


def rules_of(stage: Stage) -> Rules:
    """What the first pass asks of a row; reads the sets of exclude_overlap_with."""
    settings: PrepareSettings = stage.settings
    sources = settings.sources
    return Rules(
        columns=settings.columns,
        include=None if sources.include is None else frozenset(sources.include),
        exclude=frozenset(sources.exclude),
        max_row_bytes=settings.max_row_bytes,
        max_chars=settings.max_chars,
        chinese=settings.chinese,
        prompts=settings.heldout is not None,
        overlap=frozenset() if settings.overlap_ngrams is not None else _overlap(stage),  # else: `comparing` looks
    )


def _overlap(stage: Stage) -> frozenset[int]:
    """The hashes of every prompt in the sets that the recipe wants no overlap with."""
    return frozenset(last_prompt_hash(turns_of(row["messages"])) for _, _, row in _overlap_rows(stage))


def overlap_prompts(stage: Stage) -> Iterator[Prompt]:
    """The prompts in the sets that the recipe wants no overlap with: all turns but the answer and the system turn."""
    for name, number, row in _overlap_rows(stage):
        turns = turns_of(row["messages"])
        asked = turns[:-1] if turns[-1].role == "assistant" else turns
        texts = [turn.content for turn in asked if turn.role != "system"]
        yield Prompt(name, number, str(row.get("origin", "")), texts, last_prompt_hash(turns))


def _overlap_rows(stage: Stage) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Each row of those sets with its set's name and its number in it, from 1."""
    settings: PrepareSettings = stage.settings
    for reference in settings.exclude_overlap_with:
        rows = stage.rows(reference)
        for number, row in enumerate(rows, 1):
            if check_messages(row.get("messages")) not in (None, "no_answer"):
                raise UserError(
                    f"exclude_overlap_with {reference!r}: row {number} has no sound messages",
                    "Name rows that prepare wrote, or prepare them first",
                )
            yield rows.name, number, row
