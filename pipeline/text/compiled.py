"""Whether the compiled row reader can be used, and if not, why. Everything it does has a plain way beside it."""

import hashlib
import logging
import sys
from functools import cache
from pathlib import Path

from pipeline.text.settings import Columns

LOG = logging.getLogger(__name__)

_REMEDY = "Compile it: install a C compiler, or run ./bootstrap.sh, which fetches one where there is none"


@cache
def has_row_reader() -> bool:
    """Whether `rowreader` was compiled here, from the text that lies beside it."""
    return not _trouble()


def knows(columns: Columns) -> bool:
    """Whether the row reader understands rows with these columns."""
    return columns.user is None and columns.messages != columns.source


def warn_without_row_reader() -> None:
    """Say what the plain way costs where it has to be taken."""
    if not has_row_reader():
        LOG.warning(
            "rows are read by the plain rule, which takes about three times the time for the same output: %s. %s",
            _trouble(),
            _REMEDY,
        )


@cache
def _trouble() -> str:
    if sys.byteorder != "little":
        return "this machine writes numbers in another order than the records have"
    try:
        from pipeline.text import rowreader
    except ImportError as error:
        return f"the row reader was not compiled ({error})"
    return "" if rowreader.COMPILED_FROM in ("", source_digest()) else "the row reader was compiled from another text"


def source_digest() -> str:
    """What `COMPILED_FROM` must be: the sha256 of the row reader's files (setup.py computes the same)."""
    files = sorted(Path(__file__).parent.glob("rowreader*.px[iy]*"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
