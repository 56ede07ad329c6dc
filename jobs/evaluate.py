"""The kind `evaluate`: a model's answers to held-out rows and robot questions, measured. Logic: pipeline.scoring."""

from pipeline.scoring.evaluate import preflight, run

__all__ = ["preflight", "run"]
