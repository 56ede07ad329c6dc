"""Profiles: the user's own are laid over the shipped ones key by key; an override is for all or some stages."""

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.recipe.profiles import profile_names, profiles

OWN = {"phase1": "h100", "merge1": "cpu"}


def test_own_profiles_are_laid_over_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("h100: {gpu: {count: 8}}\nbig: {precision: bf16, node_labels: {pool: big}}\n")
    shipped, own = profiles(), profiles(str(path))
    assert own["h100"].gpu is not None and shipped["h100"].gpu is not None
    assert own["h100"].gpu == shipped["h100"].gpu.model_copy(update={"count": 8})
    assert own["big"].node_labels == {"pool": "big"} and own["t4-pair"] == shipped["t4-pair"]


def test_an_override_is_for_all_stages_or_for_single_ones() -> None:
    assert profile_names(OWN, None) == OWN
    assert profile_names(OWN, "a100") == {"phase1": "a100", "merge1": "a100"}
    assert profile_names(OWN, "phase1=t4-pair") == {"phase1": "t4-pair", "merge1": "cpu"}


@pytest.mark.parametrize("override", ["phase3=h100", "phase1=h100,a100", "phase1=", "phase1=h100,"])
def test_an_override_that_fits_no_stage_is_refused(override: str) -> None:
    with pytest.raises(UserError, match="stages: phase1, merge1"):
        profile_names(OWN, override)
