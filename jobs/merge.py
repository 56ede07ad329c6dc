"""The kind `merge`: an adapter and its 16-bit base become one checkpoint. Logic: pipeline.merging.stage."""

from pipeline.merging.stage import preflight, run

__all__ = ["preflight", "run"]
