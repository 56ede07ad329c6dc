"""Rows to tokens: a memory-mapped dataset of `input_ids`, `labels` and `seq_lengths`, in the manifest's order.

Every row ends as trained or rejected with a reason; over-long rows follow the declared policy. planned = ok + rejected.
"""

import bisect
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import UserError
from pipeline.store.stage import Rows
from pipeline.teacher.reading import Row, pieces, read_row
from pipeline.training.early import check_prompt
from pipeline.training.masks import IGNORED, NOTHING_TO_TRAIN, ChatEncoder, Encoded
from pipeline.training.packing import pack_best_fit

LOG = logging.getLogger(__name__)
OVER_LONG = "over_long"
SCHEMA_BROKEN = "schema"
CHUNK_ROWS = 512
SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("seq_lengths", pa.list_(pa.int32())),
        ("length", pa.int32()),
    ]
)
Tokens = npt.NDArray[np.int32]
OverLength = Literal["drop", "truncate", "error"]


@dataclass
class Tally:
    """What became of the rows: counts by state, and lengths in tokens of the rows that are trained on."""

    planned: int = 0
    truncated: int = 0
    untrained_turns: int = 0
    trained_tokens: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)

    @property
    def ok(self) -> int:
        """Rows that are trained on."""
        return len(self.lengths)

    def reject(self, reason: str) -> None:
        """Count one more row out."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def measurements(self) -> dict[str, Any]:
        """Row and token counts, with the lengths' spread in tokens."""
        spread = np.percentile(self.lengths, [50, 95, 100]) if self.lengths else np.zeros(3)
        return {
            "rows": self.ok,
            "truncated_rows": self.truncated,
            "untrained_turns": self.untrained_turns,
            "tokens": int(sum(self.lengths)),
            "trained_tokens": self.trained_tokens,
            "length_median": int(spread[0]),
            "length_95_percent": int(spread[1]),
            "length_max": int(spread[2]),
        }


@dataclass(frozen=True)
class Rejected:
    """A row that is not trained on, and why; `unread` is the line of an external file that holds no conversation."""

    row: dict[str, Any]
    reason: str
    detail: str
    unread: Row | None = None


def readable(rows: Rows) -> Iterator[dict[str, Any] | Rejected]:
    """Every row in order. What a stage committed is sound; lines of external files are judged as prepare judges them.

    Example: the external line {"text": "안녕"} -> Rejected({}, "schema", "messages_missing")
    """
    if rows.source is None:
        yield from rows
        return
    for piece in pieces(rows):
        for number, line in piece.lines():
            row = read_row(piece, number, line)
            rule = ": ".join(filter(None, (row.reason, row.detail)))
            yield Rejected({}, SCHEMA_BROKEN, rule, row) if rule else row.value


def tokenised(
    rows: Iterable[dict[str, Any] | Rejected],
    encoder: ChatEncoder,
    tally: Tally,
    *,
    max_length: int,
    over_length: OverLength,
) -> Iterator[Encoded | Rejected]:
    """Encode rows in order, each as Encoded of at most `max_length` tokens or Rejected; `tally` counts them all.

    UserError at once when system prompts leave no room, or for an over-long row under the policy `error`.
    """
    stream = iter(rows)
    first = True
    while chunk := list(itertools.islice(stream, CHUNK_ROWS)):
        sound = [row for row in chunk if not isinstance(row, Rejected)]
        if first:
            check_room_for_system_prompt(sound, encoder, max_length)
            first = False
        encodings = iter(encoder.encode([row["messages"] for row in sound]))
        for row in chunk:
            tally.planned += 1
            if isinstance(row, Rejected):
                tally.reject(row.reason)
                yield row
                continue
            encoded = next(encodings)
            result = _fitted(row, encoded, max_length, over_length)
            if isinstance(result, Rejected):
                tally.reject(result.reason)
            else:
                tally.truncated += not isinstance(encoded, str) and len(result.input_ids) < len(encoded.input_ids)
                tally.lengths.append(len(result.input_ids))
                tally.trained_tokens += result.trained
                tally.untrained_turns += result.untrained_turns
            yield result


def _fitted(
    row: dict[str, Any], encoded: Encoded | str, max_length: int, over_length: OverLength
) -> Encoded | Rejected:
    if isinstance(encoded, str):
        return Rejected(row, encoded, "no answer's prompt is what inference would send")
    length = len(encoded.input_ids)
    if length > max_length:
        if over_length == "error":
            raise UserError(
                f"row {row.get('id')!r} ({row.get('origin')}) has {length} tokens, max_length is {max_length}",
                "Raise max_length, or set over_length to drop or truncate.",
            )
        if over_length == "drop":
            return Rejected(row, OVER_LONG, f"{length} tokens, max_length is {max_length}")
        encoded = Encoded(encoded.input_ids[:max_length], encoded.labels[:max_length], encoded.untrained_turns)
    # The first token has no predecessor, so a label there trains nothing.
    rest = encoded.labels[1:]
    if rest.count(IGNORED) == len(rest):
        return Rejected(row, NOTHING_TO_TRAIN, f"the first {max_length} of {length} tokens hold no answer")
    return encoded


def check_room_for_system_prompt(rows: list[dict[str, Any]], encoder: ChatEncoder, max_length: int) -> None:
    """UserError when a system prompt alone fills `max_length`: no row would keep an answer."""
    prompts = {row["messages"][0]["content"] for row in rows if row["messages"][0]["role"] == "system"}
    for prompt in sorted(prompts):
        # A user turn stands beside it, since some templates refuse a system prompt alone.
        asked = [{"role": "system", "content": prompt}, {"role": "user", "content": "?"}]
        check_prompt(prompt, encoder.token_count(asked), max_length)


def write_dataset(path: Path, results: Iterable[Encoded]) -> Path:
    """Write encoded rows to an Arrow stream file; memory stays bounded by one chunk."""
    return _write(path, ((one.input_ids, one.labels, [len(one.input_ids)]) for one in results))


def _write(path: Path, rows: Iterable[tuple[Any, Any, list[int]]]) -> Path:
    """Write (input_ids, labels, seq_lengths) of each row."""
    rows = iter(rows)
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, SCHEMA) as writer:
        while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
            inputs, labels, lengths = (list(column) for column in zip(*chunk, strict=True))
            columns = [inputs, labels, lengths, [sum(each) for each in lengths]]
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
    return path


def open_dataset(path: Path) -> Any:
    """The file as a memory-mapped `datasets.Dataset`."""
    from datasets import Dataset

    return Dataset.from_file(str(path))


def write_packed(path: Path, dataset: Any, max_length: int) -> Path:
    """Write a dataset's rows packed into sequences of at most `max_length`; `seq_lengths` keeps the documents apart.

    Example: rows of 3 and 4 tokens, max_length 8 -> one sequence of 7 with seq_lengths [4, 3]
    """
    lengths: list[int] = dataset.data.column("length").to_pylist()
    inputs, labels = _reader(dataset, "input_ids"), _reader(dataset, "labels")
    sequences = pack_best_fit(lengths, max_length)
    LOG.info("packed %d rows into %d sequences of at most %d tokens", len(lengths), len(sequences), max_length)
    packed = (
        (
            np.concatenate([inputs(row) for row in rows]),
            _kept_apart([labels(row) for row in rows]),
            [lengths[row] for row in rows],
        )
        for rows in sequences
    )
    return _write(path, packed)


def _reader(dataset: Any, column: str) -> Callable[[int], Tokens]:
    """Gives a row's tokens, int32 [length], a view into the mapped file; a dataset's rows are 8 times slower."""
    chunks = dataset.data.column(column).chunks
    starts = list(itertools.accumulate((len(chunk) for chunk in chunks), initial=0))
    parts = [(chunk.values.to_numpy(), chunk.offsets.to_numpy()) for chunk in chunks]

    def read(row: int) -> Tokens:
        number = bisect.bisect_right(starts, row) - 1
        (values, offsets), position = parts[number], row - starts[number]
        tokens: Tokens = values[offsets[position] : offsets[position + 1]]
        return tokens

    return read


def _kept_apart(labels: list[Tokens]) -> Tokens:
    """Several rows' labels as one; that of each document's first token is IGNORED.

    Without that, the last token of one document would be trained to predict the first of the next.
    """
    joined = np.concatenate(labels)
    joined[list(itertools.accumulate((len(one) for one in labels[:-1]), initial=0))] = IGNORED
    return joined
