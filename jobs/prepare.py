"""The prepare stage as a job: `hanforge stage NAME` of kind prepare."""

from pipeline.text.prepare import preflight, run

__all__ = ["preflight", "run"]
