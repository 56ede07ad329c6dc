"""Where augment asks: several endpoints, and one whose checkpoint's tokenizer hides the think tags."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.store.objects import Store
from pipeline.store.stage import Stage
from pipeline.teacher.settings import TeacherSettings
from tests.engine.tiny import bare_checkpoint
from tests.servers.openai_endpoint import openai_server
from tests.teacher.runs import augment_settings, output, prepared_rows, run, with_prepared


def test_two_endpoints_share_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HANFORGE_TEACHER_ENDPOINT", raising=False)
    store = Store(f"file://{tmp_path / 'store'}")
    with openai_server() as one, openai_server() as other:
        for server in (one, other):
            server.control(latency_seconds=0.05)
        teacher = {"served_model_name": "teacher", "endpoint": [one.url, f"{other.url}/"]}
        lock = with_prepared(store, prepared_rows(120), {"augment": augment_settings(teacher=teacher)})
        stage = Stage(store, lock, "augment")
        run(stage)
        shares = [server.stats()["received"] for server in (one, other)]
    assert len(output(stage)) == 120
    assert sum(shares) == 120 and min(shares) > 30


def test_the_variable_may_name_several(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.teacher.endpoint import given_endpoints

    monkeypatch.setenv("HANFORGE_TEACHER_ENDPOINT", "http://a:1/v1, http://b:2/v1/,http://a:1/v1")
    teacher = TeacherSettings(served_model_name="t", endpoint="http://elsewhere/v1")
    assert [endpoint.url for endpoint in given_endpoints(teacher)] == ["http://a:1/v1", "http://b:2/v1"]
    with pytest.raises(ValidationError, match="'b:2' is not an http"):
        TeacherSettings(served_model_name="t", endpoint=["http://a:1/v1", "b:2"])


@pytest.mark.parametrize("special", [True, False])
def test_tags_that_a_tokenizer_calls_special_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, special: bool
) -> None:
    monkeypatch.setenv("HANFORGE_CACHE", str(tmp_path / "cache"))
    model = bare_checkpoint(tmp_path / "teacher")
    tokens = [{"content": tag, "special": special} for tag in ("<think>", "</think>")]
    tokens.append({"content": "<|im_end|>", "special": True})
    (model / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}), "utf-8")
    store = Store(f"file://{tmp_path / 'store'}")
    with openai_server() as server:
        server.control(special_tags=special)
        monkeypatch.setenv("HANFORGE_TEACHER_ENDPOINT", server.url)
        settings = augment_settings(teacher={"model": str(model), "served_model_name": "teacher"})
        stage = Stage(store, with_prepared(store, prepared_rows(5), {"augment": settings}), "augment")
        run(stage)
        sent = server.stats()["bodies"][-1]
    assert len(output(stage)) == 5
    assert all(row["messages"][-1]["content"].startswith("<think>\n1단계: ") for row in output(stage))
    assert all(row["messages"][-1]["content"].endswith(row["teacher"]["replaced"]) for row in output(stage))
    assert sent.get("skip_special_tokens") == (False if special else None)
