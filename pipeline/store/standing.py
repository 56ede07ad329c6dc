"""Whether a stage of a run is done: the one answer that status, plan, why, the drivers and the stage's process share.

Most kinds are done by their manifest. A manifest is shared by every run that means the same stage, so promote also asks
for this run's own promotion, and serve for a proof of the highest one. What is done is judged again when it is a gate.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.errors import GateRefused
from pipeline.store.commit import Manifest
from pipeline.store.objects import Store
from pipeline.store.promotions import highest_promotion, own_promotion, proof_key
from pipeline.store.runs import RunLock


@dataclass(frozen=True)
class Standing:
    """A stage's manifest as its run reads it, what is open although one stands ("": nothing), and limits it misses."""

    manifest: Manifest | None
    open: str = ""
    refusals: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether no work is left and no gate refuses."""
        return self.manifest is not None and not self.open and not self.refusals


def standing(store: Store, lock: RunLock, name: str) -> Standing:
    """How the stage stands in this run, from the store alone."""
    manifest = lock.directory(store, name).manifest()
    if manifest is None:
        return Standing(None)
    ask = ASKED.get(lock.stages[name].kind)
    found = ask(store, lock, name, manifest) if ask is not None else Standing(manifest)
    if found.manifest is None or found.open:
        return found
    return replace(found, refusals=tuple(lock.settings(name).refusals(found.manifest.measurements)))


def is_done(store: Store, lock: RunLock, name: str) -> bool:
    """Whether the stage needs no process; GateRefused when it is a gate that is done and refuses."""
    found = standing(store, lock, name)
    if found.manifest is not None and found.refusals:
        check_gate(lock, name, found.manifest)
    return found.done


def check_gate(lock: RunLock, stage: str, manifest: Manifest) -> None:
    """Raise GateRefused when `stage` is a gate whose limits, as this run has them, its measurements do not meet."""
    refusals = lock.settings(stage).refusals(manifest.measurements)
    if refusals:
        raise GateRefused(
            f"gate {stage!r} refuses: {'; '.join(refusals)}",
            f"See what was rejected (hanforge show-sample {lock.run_id}:{stage}), mend its cause, or change the limits",
        )


def _promoted(store: Store, lock: RunLock, name: str, manifest: Manifest) -> Standing:
    """The manifest tells of the first run that promoted; this run is judged by what its own promotion measured."""
    own = own_promotion(store, lock.recipe.name, lock.run_id, name)
    if own is None:
        return Standing(manifest, "this run has promoted nothing yet")
    return Standing(replace(manifest, measurements={**manifest.measurements, **own}))


def _proved(store: Store, lock: RunLock, name: str, manifest: Manifest) -> Standing:
    highest = highest_promotion(store, lock.recipe.name)
    if highest is None:
        return Standing(manifest, "nothing is promoted")
    if not store.exists(proof_key(lock.directory(store, name), int(highest["n"]))):
        return Standing(manifest, f"promotion {highest['n']} has not answered yet")
    return Standing(manifest)


ASKED: dict[str, Callable[[Store, RunLock, str, Manifest], Standing]] = {"promote": _promoted, "serve": _proved}
