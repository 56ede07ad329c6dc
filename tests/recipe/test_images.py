"""Which image a stage runs in when it is alone."""

import pytest

from pipeline.recipe.images import image_of
from pipeline.recipe.load import load_recipe


def test_the_demo_runs_in_all_three_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HANFORGE_TEACHER_ENDPOINT", raising=False)
    stages = load_recipe("demo", [], []).stages
    assert {
        name: image_of(stages[name]) for name in ("prepare", "augment", "phase1", "merge1", "promote", "serve")
    } == {
        "prepare": "data",
        "augment": "serve",
        "phase1": "train",
        "merge1": "train",
        "promote": "data",
        "serve": "serve",
    }
    assert image_of(stages["evaluate_phase2"]) == "train"  # by transformers


def test_a_teacher_that_somebody_runs_needs_no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANFORGE_TEACHER_ENDPOINT", "http://127.0.0.1:8000/v1")
    assert image_of(load_recipe("demo", [], []).stages["augment"]) == "data"
