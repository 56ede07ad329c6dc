"""Every kind of stage by name: its settings. Imports only torch-free settings modules."""

from typing import Annotated

from pydantic import Field

from pipeline.engine.settings import ServeSettings
from pipeline.merging.settings import MergeSettings
from pipeline.scoring.settings import EvaluateSettings, PromoteSettings
from pipeline.teacher.settings import AugmentSettings, ValidateSettings
from pipeline.text.settings import PrepareSettings
from pipeline.training.settings import TrainSettings

AnySettings = (
    PrepareSettings
    | AugmentSettings
    | ValidateSettings
    | TrainSettings
    | MergeSettings
    | EvaluateSettings
    | PromoteSettings
    | ServeSettings
)
Settings = Annotated[AnySettings, Field(discriminator="kind")]
KINDS = ("prepare", "augment", "validate", "train", "merge", "evaluate", "promote", "serve")
