"""Proof 4: an upgrade computes again what changed and what follows; two releases in one store do no harm."""

from typing import Any

import pytest

from k8s.client import JOBS
from k8s.observer import STAGE
from pipeline.store.events import events
from pipeline.store.progress import read_metrics
from tests.acceptance.chain import STAGES, Leg, contents, copy

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]
KEPT = ("prepare", "phase1", "merge1")
RACED = ("validate", "phase2", "merge2")


def test_an_upgrade_computes_again_what_changed_and_what_follows(first: Leg, reference: dict[str, Any]) -> None:
    before = first.ended[0]
    first.deploy("demo", "phase2.learning_rate=4e-3")
    after = first.finish("demo")
    found = contents(first.store, after)
    assert {stage for stage in STAGES if found[stage] != reference[stage]} == {"phase2", "merge2"}
    assert contents(first.store, before) == reference, "what was there stays"
    assert first.jobs("demo", after.run_id) == ["merge2", "phase2"]
    began = {event.stage for event in events(first.store, after.run_id) if event.what == "started"}
    assert began == {"phase2", "merge2"}


def test_two_releases_of_one_recipe_in_one_store_do_no_harm(first: Leg, leg: Leg, reference: dict[str, Any]) -> None:
    copy(first.store, leg.store, *(first.ended[0].directory(first.store, stage).prefix for stage in KEPT))
    leg.only = (*KEPT, *RACED)
    for release in ("one", "two"):
        leg.deploy(release)
    lock, same = (leg.finish(release) for release in ("one", "two"))
    assert lock.run_id == same.run_id
    assert contents(leg.store, lock, leg.only) == {stage: reference[stage] for stage in leg.only}
    for job in leg.here.list(JOBS, STAGE)["items"]:
        ended = {each["type"] for each in job["status"].get("conditions") or () if each["status"] == "True"}
        assert "Complete" in ended and "Failed" not in ended, job["metadata"]["name"]
    assert {*leg.jobs("one", lock.run_id), *leg.jobs("two", lock.run_id)} <= set(RACED), "what is done costs no pod"
    happened = events(leg.store, lock.run_id)
    assert {event.exit_code for event in happened if event.what in ("ended", "observed")} == {0}
    assert all(sum((event.stage, event.what) == (stage, "started") for event in happened) <= 2 for stage in RACED)
    steps = [record["step"] for record in read_metrics(lock.directory(leg.store, "phase2")) if "loss" in record]
    assert steps and len(steps) == len(set(steps)), "phase2 was trained once"
