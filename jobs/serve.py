"""The serve stage: the highest promotion answers a question."""

from pipeline.engine.serve import is_done, preflight, run

__all__ = ["is_done", "preflight", "run"]
