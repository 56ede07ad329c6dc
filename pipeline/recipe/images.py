"""Which image holds what a stage needs, when the stage is alone: a vLLM that it uses is then a process of its own.

In a pod the engine of augment and evaluate is a sidecar, so that the stage itself runs in `data` (the chart says so).
"""

import os
from typing import Literal

from pipeline.recipe.kinds import AnySettings
from pipeline.scoring.settings import EvaluateSettings
from pipeline.teacher.settings import AugmentSettings

Image = Literal["data", "train", "serve"]
IMAGES: tuple[Image, ...] = ("data", "train", "serve")


def image_of(settings: AnySettings) -> Image:
    """Example: an augment stage runs in `serve`, or in `data` where an endpoint is named for it."""
    if isinstance(settings, AugmentSettings):
        return "data" if settings.teacher.endpoints or os.environ.get("HANFORGE_TEACHER_ENDPOINT") else "serve"
    if isinstance(settings, EvaluateSettings):
        if settings.backend == "transformers":
            return "train"
        return "data" if settings.url() else "serve"
    if settings.kind in ("train", "merge"):
        return "train"
    return "serve" if settings.kind == "serve" else "data"
