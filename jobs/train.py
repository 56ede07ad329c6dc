"""`hanforge stage` of kind train."""

from pipeline.training.train import preflight, run

__all__ = ["preflight", "run"]
