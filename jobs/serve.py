"""The serve stage: the highest promotion answers a question, here or where HANFORGE_SERVE_DEPLOYMENT serves it."""

import os
from functools import partial
from typing import TYPE_CHECKING

from pipeline.engine import serve

if TYPE_CHECKING:
    from pipeline.store.stage import Stage


def preflight(stage: "Stage") -> None:
    """See pipeline.engine.serve."""
    serve.preflight(stage, _deployed())


def run(stage: "Stage") -> None:
    """See pipeline.engine.serve."""
    serve.run(stage, _deployed())


def _deployed() -> serve.Deployed | None:
    name = os.environ.get("HANFORGE_SERVE_DEPLOYMENT")
    if name is None:
        return None
    from k8s.connection import connect
    from k8s.serving import roll_out

    url = os.environ.get("HANFORGE_SERVE_ENDPOINT", f"http://{name}:8000/v1")
    model = os.environ.get("HANFORGE_SERVE_MODEL", "hanforge")
    return serve.Deployed(url, model, partial(roll_out, connect(), name))
