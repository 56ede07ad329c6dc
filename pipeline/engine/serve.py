"""serve, on one machine: start vLLM on the highest promotion, ask it, and commit the proof that names the promotion.

A later promotion needs a proof of its own, so proofs lie beside the manifest, one per n: `proofs/<n>.json`.
"""

import asyncio
import time
from typing import Any

import orjson

from pipeline.engine.client import Client
from pipeline.engine.loadable import check_loadable
from pipeline.engine.local import begins_inside, fitted
from pipeline.engine.protocol import Answer, Endpoint, Failure
from pipeline.engine.server import serving
from pipeline.engine.settings import ServeSettings
from pipeline.errors import Trouble, UserError
from pipeline.store.commit import Counts, dumped
from pipeline.store.named import named_model, run_output
from pipeline.store.promotions import newest_promotion, proof_key
from pipeline.store.stage import Stage
from pipeline.store.standing import is_done
from pipeline.text.thinking import split_thinking

SERVED_NAME = "promoted"


def preflight(stage: Stage) -> None:
    """UserError when nothing is promoted or vLLM cannot load what is."""
    promoted = named_model(stage.store, f"promoted@{stage.recipe_name}")
    check_loadable(promoted.path(), stage.settings.engine)


def run(stage: Stage) -> None:
    """Prove that the highest promotion answers; a promotion that overtakes us meanwhile is proved next."""
    while not is_done(stage.store, stage.lock, stage.name):
        stage.stop.raise_if_requested()
        promotion = newest_promotion(stage.store, stage.recipe_name)
        proof = _proved(stage, promotion)
        stage.store.create(proof_key(stage.directory, int(promotion["n"])), dumped(proof))
        _commit(stage, int(promotion["n"]))


def _proved(stage: Stage, promotion: dict[str, Any]) -> dict[str, Any]:
    settings: ServeSettings = stage.settings
    label = f"promotion {promotion['n']}"  # by its own run and stage: the highest may be another one by now
    model = run_output(stage.store, f"{promotion['run']}:{promotion['stage']}", label).path()
    engine = fitted(settings.engine, model)
    began = time.monotonic()
    log = stage.scratch() / "vllm.log"
    with serving(
        model, engine, served_name=SERVED_NAME, log=log, stop_requested=lambda: stage.stop.requested
    ) as server:
        ready = time.monotonic()
        answer = asyncio.run(_ask(server.endpoint(model), settings, server.check))
    text = answer.content
    if settings.enable_thinking and begins_inside(model, engine) and "<think>" not in text:
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
