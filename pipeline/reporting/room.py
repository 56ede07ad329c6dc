"""How long a sampled text may be so that the page stays under about 1 MB: the longest are cut, all to one length."""

from collections.abc import Callable, Iterator
from html import escape

from pipeline.reporting.gather import Report

TEXT_BYTES = 700_000  # of all sampled texts together, as HTML


def shortened(report: Report) -> Callable[[str], str]:
    """A filter that cuts the longest of the report's sampled texts, all to one length, until they fit TEXT_BYTES."""
    sizes = sorted(_bytes(said) for said in _texts(report))
    room, left = TEXT_BYTES, len(sizes)
    limit = room
    for number in sizes:
        if number * left > room:
            limit = room // left
            break
        room, left = room - number, left - 1

    def shorten(said: str) -> str:
        if _bytes(said) <= limit:
            return said
        kept = said[: int(len(said) * limit / _bytes(said))]
        return f"{kept} … (+{len(said) - len(kept):,})"

    return shorten


def _texts(report: Report) -> Iterator[str]:
    """Every sampled text of the page that may be long."""
    for pair in report.pairs:
        yield from (pair.before, pair.reasoning, pair.after, *(content for _, content in pair.turns))
    for one in report.wrong:
        yield from (one.question, one.expected, one.reasoning, one.answer)
    for data in (stage.data for stage in report.stages if stage.data):
        for example in (example for rejection in data.rejections for example in rejection.examples):
            yield from (example.line, *(content for _, content in example.turns))
        for row in data.prepared:
            yield from (row.raw, *(content for _, content in row.turns))


def _bytes(said: str) -> int:
    """Example: "<a>" -> 9, for the page writes &lt;a&gt;"""
    return len(escape(said).encode())
