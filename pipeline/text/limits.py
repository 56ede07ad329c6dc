"""What must hold after the first pass, before anything is committed: enough rows, and sources that exist."""

import logging
from typing import Any

from pipeline.errors import UserError
from pipeline.recipe.models import nearest
from pipeline.text.funnel import totals
from pipeline.text.sampling import HELDOUT, Selection
from pipeline.text.settings import PrepareSettings
from pipeline.text.table import Table

LOG = logging.getLogger(__name__)


def check_source_names(stage: str, settings: PrepareSettings, table: Table) -> None:
    """A source that the recipe includes must exist; excluded and capped ones that do not are a warning."""
    sources = settings.sources
    for name in sources.include or []:
        if name not in table.sources:
            raise UserError(
                f"stage {stage!r}: sources.include names {name!r}, which no row has",
                nearest(name, table.sources[:50]),
            )
    for name in [*sources.exclude, *sources.cap]:
        if name not in table.sources:
            LOG.warning("sources names %r, which no row has; %s", name, nearest(name, table.sources[:50]))


def check_enough(stage: str, settings: PrepareSettings, selection: Selection, measured: dict[str, Any]) -> None:
    """UserError when nothing or less than target_samples is left, with the counts by reason."""
    offered, target = sum(selection.available.values()), settings.target_samples
    found = _shown({state: n for state, n in totals(measured).items() if state not in ("sampled", "not_sampled")})
    heldout = selection.counts()[HELDOUT]
    wanted = settings.heldout.rows if settings.heldout is not None else None
    if not offered and not heldout:
        raise UserError(
            f"stage {stage!r}: every row was rejected ({found or 'the input has no rows'})",
            "Look at the reasons: the columns may have other names, or the rules may be too strict",
        )
    if wanted is not None and heldout < wanted:
        raise UserError(
            f"stage {stage!r}: heldout.rows is {wanted:,}, but only {heldout:,} rows pass ({found})",
            "Lower heldout.rows or loosen the rules",
        )
    if offered < (target or 1):
        raise UserError(
            f"stage {stage!r}: target_samples is {target or 1:,}, but {offered:,} rows are left ({found}; "
            f"by source: {_shown(selection.available) or 'none'})",
            "Lower target_samples, or loosen caps, sources, heldout or the Chinese rule",
        )


def _shown(counts: dict[str, int]) -> str:
    """The largest counts, e.g. "chinese 1,200, duplicate 30"."""
    largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:20]
    return ", ".join(f"{name} {count:,}" for name, count in largest if count)
