"""serve: the highest promotion answers, by a vLLM of the stage's own or where it is deployed; commit the proof of it.

A later promotion needs a proof of its own, so proofs lie beside the manifest, one per n: `proofs/<n>.json`.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.engine.client import Client
from pipeline.engine.loadable import check_loadable
from pipeline.engine.local import begins_inside, fitted
from pipeline.engine.protocol import Answer, Endpoint, Failure
from pipeline.engine.server import serving
from pipeline.engine.settings import ServeSettings
from pipeline.engine.special import FILES, special_beside_tags
from pipeline.errors import Trouble, UserError
from pipeline.scoring.template import TEMPLATE_FILES
from pipeline.store.commit import Counts, dumped
from pipeline.store.named import named_model, run_output
from pipeline.store.promotions import newest_promotion, proof_key
from pipeline.store.stage import Stage
from pipeline.store.standing import is_done
from pipeline.text.thinking import split_thinking

SERVED_NAME = "promoted"
KEY_VARIABLE = "VLLM_API_KEY"  # of the deployed server, as vLLM itself calls it


@dataclass(frozen=True)
class Deployed:
    """A Deployment that follows promotions: where it answers and as what, and `roll(n, stop_requested)`, which returns
    when it serves promotion n."""

    url: str
    model: str
    roll: Callable[[int, Callable[[], bool]], None]


def preflight(stage: Stage, deployed: Deployed | None = None) -> None:
    """UserError when nothing is promoted, or vLLM here cannot load what is."""
    promoted = named_model(stage.store, f"promoted@{stage.recipe_name}")
    if deployed is None:
        check_loadable(promoted.path(), stage.settings.engine)


def run(stage: Stage, deployed: Deployed | None = None) -> None:
    """Prove that the highest promotion answers, by a vLLM of our own or where it is `deployed`; a promotion that
    overtakes us meanwhile is proved next."""
    while not is_done(stage.store, stage.lock, stage.name):
        stage.stop.raise_if_requested()
        promotion = newest_promotion(stage.store, stage.recipe_name)
        proof = _proved(stage, promotion, deployed)
        stage.store.create(proof_key(stage.directory, int(promotion["n"])), dumped(proof))
        _commit(stage, int(promotion["n"]))


@contextmanager
def _answering(
    stage: Stage, promotion: dict[str, Any], deployed: Deployed | None
) -> Iterator[tuple[Endpoint, Callable[[], None], bool]]:
    """Where the promotion answers, a check that its process lives, and whether its thinking begins without a tag."""
    label = f"promotion {promotion['n']}"  # by its own run and stage: the highest may be another one by now
    named = run_output(stage.store, f"{promotion['run']}:{promotion['stage']}", label)
    if deployed is not None:
        deployed.roll(int(promotion["n"]), lambda: stage.stop.requested)
        files = named.path((*FILES, *TEMPLATE_FILES))  # no weights are fetched to ask
        key = KEY_VARIABLE if KEY_VARIABLE in os.environ else None
        endpoint = Endpoint(deployed.url, deployed.model, key, special_beside_tags(files))
        yield endpoint, lambda: None, begins_inside(files, stage.settings.engine)
        return
    model = named.path()
    engine = fitted(stage.settings.engine, model)
    log = stage.scratch() / "vllm.log"
    with serving(
        model, engine, served_name=SERVED_NAME, log=log, stop_requested=lambda: stage.stop.requested
    ) as server:
        yield server.endpoint(model), server.check, begins_inside(model, engine)


def _proved(stage: Stage, promotion: dict[str, Any], deployed: Deployed | None) -> dict[str, Any]:
    settings: ServeSettings = stage.settings
    began = time.monotonic()
    with _answering(stage, promotion, deployed) as (endpoint, check, inside):
        ready = time.monotonic()
        answer = asyncio.run(_ask(endpoint, settings, check))
    text = answer.content
    if settings.enable_thinking and inside and "<think>" not in text:
        text = f"<think>{text}"
    parts = split_thinking(text)
    if not parts.answer:
        raise UserError(
            f"promotion {promotion['n']} answered {settings.question!r} with nothing ({answer.finish_reason})",
            "Raise max_tokens, or look at the model: hanforge chat promoted",
        )
    stage.log.info("promotion %s answers: %s", promotion["n"], parts.answer[:200])
    return {
        "promotion": promotion,
        "question": settings.question,
        "answer": parts.answer,
        "reasoning": answer.reasoning or parts.reasoning,
        "start_seconds": round(ready - began, 1),
        "answer_seconds": round(time.monotonic() - ready, 1),
    }


async def _ask(endpoint: Endpoint, settings: ServeSettings, check: Any) -> Answer:
    system = [{"role": "system", "content": settings.system_prompt}] if settings.system_prompt else []
    body = {
        "messages": [*system, {"role": "user", "content": settings.question}],
        "max_tokens": settings.max_tokens,
        "temperature": 0.0,
        "chat_template_kwargs": {"enable_thinking": settings.enable_thinking},
    }
    async with Client(endpoint, settings.client, check) as client:
        outcome = await client.chat(body)
    if isinstance(outcome, Failure):
        raise Trouble(f"the served model does not answer: {outcome.reason}: {outcome.detail}", "Look at its log")
    return outcome


def _commit(stage: Stage, number: int) -> None:
    """The first proof is also the stage's output; later ones lie beside it."""
    if stage.directory.manifest() is not None:
        return
    unit = f"proof-{number}"
    local = stage.scratch() / "proof.json"
    local.write_bytes(stage.store.read(proof_key(stage.directory, number)))
    stage.directory.plan(lambda: {"units": [unit]})
    part = stage.directory.write_file(unit, local, "proof.json")
    stage.directory.commit_unit(unit, {"proof": [part]}, Counts())
    proof = orjson.loads(local.read_bytes())
    stage.directory.commit_manifest(
        [unit], {"promotion": number, **{name: proof[name] for name in ("question", "reasoning", "answer")}}
    )
