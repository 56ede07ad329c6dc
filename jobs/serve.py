"""The serve stage: the highest promotion answers a question."""

from pipeline.engine.serve import preflight, run

__all__ = ["preflight", "run"]
