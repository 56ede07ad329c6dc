"""Which weights a checkpoint holds, told cheaply, so that an adapter can remember its base wherever that base lies.

`hanforge.json` beside an adapter records `{"base": {"weights": <digest>}}`; merge refuses any other base. Torch-free.
"""

import hashlib
import json
from pathlib import Path

from pipeline.errors import UserError
from pipeline.merging.checkpoint import Checkpoint, read_json

RECORD_NAME = "hanforge.json"
SAMPLE_BYTES = 1024


def weights_digest(checkpoint: Checkpoint) -> str:
    """A hash over every tensor's name, type, shape and 1 KiB from its middle: 32 hex digits, a second for 8B weights.

    How the tensors are cut into files, and where these lie, does not matter.
    """
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        tensor = checkpoint.tensors[name]
        with tensor.file.open("rb") as stream:
            stream.seek(tensor.start + max(0, (tensor.bytes - SAMPLE_BYTES) // 2))
            sample = stream.read(min(SAMPLE_BYTES, tensor.bytes))
        digest.update(json.dumps([name, tensor.dtype, tensor.shape]).encode() + sample)
    return digest.hexdigest()[:32]


def check_recorded_base(checkpoint: Checkpoint, adapter: Path) -> None:
    """Refuse an adapter whose record names other weights than the checkpoint's; one without a record passes."""
    path = adapter / RECORD_NAME
    if not path.exists():
        return
    recorded = read_json(path, "it says what made the adapter").get("base")
    if not isinstance(recorded, dict) or not recorded.get("weights"):
        return
    found = weights_digest(checkpoint)
    if recorded["weights"] != found:
        name = recorded.get("name") or recorded.get("identity") or "another checkpoint"
        raise UserError(
            f"{adapter} was trained on {name!r} (weights {recorded['weights']}), and {checkpoint.folder} holds {found}",
            "Name the base that it was trained on.",
        )
