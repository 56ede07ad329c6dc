"""`estimate`: its samples are part of the result, its figures follow from them, and it says what it rests on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.errors import UserError
from pipeline.recipe.models import rendered
from pipeline.recipe.profiles import profiles
from pipeline.store.objects import Store
from pipeline.store.stage import Stage
from pipeline.teacher.estimate import Estimate, estimate
from tests.servers.openai_endpoint import OpenAIServer
from tests.servers.process import ROOT
from tests.teacher.runs import asked, augment_settings, output, prepared_rows, run, with_prepared

ROWS = prepared_rows(300, marks=dict.fromkeys(range(0, 300, 4), "[silent]"))
VALIDATE = {"kind": "validate", "source": {"stage": "augment"}, "checks": {"max_answer_characters": 6}}


def stage_of(store: Store, rows: list[bytes] = ROWS, **changes: Any) -> Stage:
    stages = {"augment": augment_settings(**changes), "validate": VALIDATE}
    return Stage(store, with_prepared(store, rows, stages), "augment")


def estimated(stage: Stage, samples: int = 64, profile: str = "h100") -> Estimate:
    return estimate(stage, samples, profiles()[profile], lambda answered, of: None)


def test_its_samples_are_part_of_the_result(store: Store, server: OpenAIServer) -> None:
    server.control(latency_seconds=0.05)
    before = asked(server)
    found = estimated(stage_of(store))
    assert (found.planned, found.answered_before, found.asked, found.left) == (300, 0, 64, 236)
    assert asked(server) - before == 64
    stage = stage_of(store)
    run(stage)
    assert asked(server) - before == 300
    assert len(output(stage)) + len(output(stage, "rejects")) == 300
    last = estimated(stage_of(store))
    assert (last.planned, last.answered_before, last.asked, last.left) == (300, 300, 0, 0)
    assert asked(server) - before == 300


def test_another_estimate_asks_others_and_ratios_share_them(store: Store, server: OpenAIServer) -> None:
    before = asked(server)
    trial = estimated(stage_of(store, sample_ratio=0.5), 20)
    again = estimated(stage_of(store, sample_ratio=0.5), 20)
    assert (trial.answered_before, again.answered_before, again.left) == (0, 20, 110)
    assert estimated(stage_of(store), 20).answered_before == 40
    run(stage_of(store))
    assert asked(server) - before == 300


def test_the_choice_follows_the_seed_and_is_spread_over_the_rows(
    tmp_path: Path, store: Store, server: OpenAIServer
) -> None:
    def chosen(store: Store) -> set[str]:
        estimated(stage_of(store), 48)
        return {body["messages"][-1]["content"] for body in server.stats()["bodies"][-48:]}

    first = chosen(store)
    assert first == chosen(Store(f"file://{tmp_path / 'other'}"))
    numbers = sorted(int(question.split()[0]) for question in first)
    assert len(numbers) == 48 and numbers[0] < 30 and numbers[-1] > 270 and 110 < sum(numbers) / 48 < 190


def test_figures_follow_from_the_samples(store: Store, server: OpenAIServer) -> None:
    server.control(latency_seconds=0.2)
    found = estimated(stage_of(store))
    assert found.completion_tokens is not None and found.speed is not None and found.seconds is not None
    assert 20 < found.completion_tokens.low < found.completion_tokens.value < found.completion_tokens.high < 80
    assert found.speed.in_flight <= 32.5  # times are in milliseconds
    expected = found.left * found.completion_tokens.value / found.speed.tokens_per_second
    assert expected <= found.seconds.value  # the last requests end one by one
    assert found.seconds.low < found.seconds.value < found.seconds.high
    assert found.cost_usd is not None and found.price_usd == profiles()["h100"].price_per_gpu_hour_usd
    assert found.cost_usd.value == pytest.approx(found.seconds.value / 3600 * profiles()["h100"].price_per_gpu_hour_usd)
    assert found.rejected is not None and next(iter(found.rejected)) == "all"
    assert {"augment: no_reasoning", "validate: answer_long"} <= found.rejected.keys()
    shares = [share.value for reason, share in found.rejected.items() if reason != "all"]
    assert sum(shares) == pytest.approx(found.rejected["all"].value) and found.rejected["all"].low > 0.3
    assert found.quality.startswith("tags ")
    json.dumps(found.plain())


def test_without_a_price_there_is_no_cost(store: Store, server: OpenAIServer) -> None:
    found = estimated(stage_of(store), profile="cpu")
    assert found.cost_usd is None and found.seconds is not None


def test_nothing_answered_is_said(store: Store, server: OpenAIServer) -> None:
    rows = prepared_rows(20, marks=dict.fromkeys(range(20), "[refused]"))
    with pytest.raises(UserError, match="none of 20 samples was answered: refused_400 20"):
        estimated(stage_of(store, rows))


def test_the_command_prints_what_json_says(tmp_path: Path, store: Store, server: OpenAIServer) -> None:
    lock = stage_of(store).lock
    recipe = tmp_path / "recipe.yaml"
    with recipe.open("w") as target:
        YAML().dump(rendered(lock.recipe), target)
    prices = tmp_path / "profiles.yaml"
    prices.write_text("t4-pair: {price_per_gpu_hour_usd: 0.1}\n")

    def command(*words: str) -> str:
        line = [sys.executable, "-m", "jobs", "estimate", str(recipe), *words, "--store", store.url]
        line += ["--profile", "t4-pair", "--profiles", str(prices), "--samples", "40"]
        result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    document = json.loads(command("--json"))
    assert (document["stage"], document["profile"], document["asked"]) == ("augment", "t4-pair", 40)
    assert (document["price_usd"], document["gpus"]) == (0.1, 2)
    assert document["cost_usd"]["value"] == pytest.approx(document["seconds"]["value"] / 3600 * 0.2)
    text = command("augment")
    assert "300 planned, 40 answered before, 40 asked now" in text and "at 0.1 USD an hour for each of 2 GPU" in text
    assert "augment: no_reasoning" in text and "bootstrap over the samples" in text
