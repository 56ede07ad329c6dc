"""The augment stage: a teacher rewrites answers with their reasoning."""

from pipeline.teacher.augment import preflight, run

__all__ = ["preflight", "run"]
