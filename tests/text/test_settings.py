from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.recipe.fields import resolved
from pipeline.recipe.references import InputReference, references_in
from pipeline.text.settings import PrepareSettings


def settings(**values: Any) -> PrepareSettings:
    return PrepareSettings.model_validate({"source": {"input": "raw"}, **values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target_sample": 5}, "target_sample"),
        ({"source": []}, "source is empty"),
        ({"source": "org/name"}, "reads like a Hub id"),
        ({"target_samples": 0}, "greater than or equal to 1"),
        ({"sources": {"include": ["a"], "exclude": ["a"]}}, "both included and excluded: a"),
        ({"system_prompt": {"mode": "keep", "text": "가"}}, "no effect with mode keep"),
        ({"system_prompt": {"mode": "add"}}, "needs system_prompt.text"),
        ({"system_prompt": {"mode": "replace", "text": " "}}, "needs system_prompt.text"),
        ({"heldout": {}}, "either rows or fraction"),
        ({"heldout": {"rows": 5, "fraction": 0.1}}, "either rows or fraction"),
        ({"overlap_ngrams": {}, "exclude_overlap_with": ["a.jsonl"]}, "either share or count"),
        ({"overlap_ngrams": {"share": 0.5, "count": 1}, "exclude_overlap_with": ["a.jsonl"]}, "either share or count"),
        ({"overlap_ngrams": {"share": 0.5}}, "no effect without exclude_overlap_with"),
        ({"near_duplicates": {"threshold": 0.2}}, "greater than or equal to 0.5"),
        ({"columns": {"user": "q"}}, "go together"),
        ({"columns": {"system": "s"}}, "no effect without"),
        ({"columns": {"user": "q", "assistant": "a", "messages": "m"}}, "no effect beside"),
    ],
)
def test_settings_that_contradict_themselves_or_have_no_effect_are_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**values)


def test_workers_change_no_fingerprint_and_every_reference_is_found() -> None:
    assert "workers" not in resolved(settings(workers=3), with_operational=False)
    both = settings(source=[{"input": "raw"}, {"stage": "other"}], exclude_overlap_with=[{"stage": "first"}])
    assert [path for path, _, _ in references_in(both)] == [
        ("source", "0"),
        ("source", "1"),
        ("exclude_overlap_with", "0"),
    ]
    assert settings().references() == [InputReference(input="raw")]
