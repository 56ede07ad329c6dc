"""The kind `promote`: a model becomes the one that serving follows. Logic: pipeline.scoring.promote."""

from pipeline.scoring.promote import preflight, run

__all__ = ["preflight", "run"]
