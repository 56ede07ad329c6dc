"""Proof 1: the demo's data and training stages end to end, by Jobs and by Argo, from one committed teacher's output."""

from typing import Any

import pytest

from pipeline.store.events import events
from tests.acceptance.chain import STAGES, Leg, contents

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]


def test_the_chain_ends_on_jobs(first: Leg, reference: dict[str, Any]) -> None:
    assert first.jobs("demo", first.ended[0].run_id) == sorted(STAGES)
    assert reference["augment"]["counts"]["ok"] > 100 and reference["validate"]["counts"]["ok"] > 50, reference


def test_the_chain_on_argo_gives_the_same_bytes(leg: Leg, reference: dict[str, Any]) -> None:
    leg.deploy("argo", engine="argo")
    lock = leg.finish("argo", engine="argo")
    assert contents(leg.store, lock) == reference
    assert {stage for stage in STAGES if not leg.pods("argo", stage)} == {"augment"}, "what is done costs no pod"
    ended = [event for event in events(leg.store, lock.run_id) if (event.what, event.exit_code) == ("observed", 0)]
    assert sorted(event.stage for event in ended) == sorted(set(STAGES) - {"augment"})
