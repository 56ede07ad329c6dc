"""Everything about a training that can be known to be wrong before it starts: each a UserError with its remedy."""

import torch

from pipeline.merging.checkpoint import read_header
from pipeline.store.disk import require_room
from pipeline.store.stage import Stage
from pipeline.training.architecture import Architecture, read_architecture
from pipeline.training.early import check_complete, check_length
from pipeline.training.estimate import checkpoint_bytes, estimate
from pipeline.training.hardware import require_device, require_packages
from pipeline.training.model import check_quantised_shapes
from pipeline.training.parameters import parameter_counts
from pipeline.training.settings import TrainSettings
from pipeline.training.templates import choose_template


def preflight(stage: Stage) -> None:
    """Check the settings against the machine and, where its stage is done, against the base checkpoint."""
    settings: TrainSettings = stage.settings
    require_packages([name for name in settings.report_to if name != "tensorboard"])
    require_device(stage.execution)
    if not stage.is_there(settings.base):
        return
    from transformers import AutoTokenizer

    folder = stage.model_path(settings.base)
    architecture = read_architecture(folder)
    check_complete(folder)
    for file in folder.glob("*.safetensors"):
        read_header(file)
    check_settings(stage, architecture)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    choose_template(tokenizer, settings.chat_template, str(folder))


def check_settings(stage: Stage, architecture: Architecture) -> None:
    """Check length, quantisation and disk space against the base's own configuration."""
    settings: TrainSettings = stage.settings
    check_length(settings, architecture)
    check_quantised_shapes(architecture.text, settings.quantization, stage.execution.device)
    _warn_of_memory(stage, architecture)
    # One that is being saved, one that was fetched to go on from.
    needed = 2 * checkpoint_bytes(parameter_counts(architecture.config), settings)
    require_room(stage.scratch(), needed, "Checkpoints go there: free space, or set HANFORGE_SCRATCH to a larger disk.")


def _warn_of_memory(stage: Stage, architecture: Architecture) -> None:
    """Say beforehand when the estimate is above the card's memory; the first step shows whether it is."""
    if stage.execution.device != "cuda":
        return
    has = torch.cuda.get_device_properties(0).total_memory / 2**30
    needs = estimate(architecture.config, stage.settings, rows=1, precision=stage.execution.precision)
    if needs.total_gib > has:
        stage.log.warning("this training may not fit %.1f GiB: %s", has, "; ".join(needs.lines))
