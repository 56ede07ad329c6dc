"""Which special tokens must be shown, read from the three files of a tokenizer."""

import json
from pathlib import Path

import pytest

from pipeline.engine.protocol import Answer, Endpoint
from pipeline.engine.special import special_beside_tags


def tokenizer(folder: Path, file: str, document: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps(document), "utf-8")
    return folder


def added(special: bool) -> list[dict[str, object]]:
    tokens = [{"id": n, "content": tag, "special": special} for n, tag in enumerate(("<think>", "</think>"))]
    return [*tokens, {"id": 7, "content": "<|im_end|>", "special": True}]


def test_a_tokenizer_whose_tags_are_ordinary_asks_for_nothing(tmp_path: Path) -> None:
    assert special_beside_tags(tokenizer(tmp_path / "t", "tokenizer.json", {"added_tokens": added(False)})) == ()
    assert special_beside_tags(tmp_path / "nothing there") == ()
    assert Endpoint("http://a/v1", "m").options == {}


@pytest.mark.parametrize(
    ("file", "document"),
    [
        ("tokenizer.json", {"added_tokens": added(True)}),
        ("tokenizer_config.json", {"added_tokens_decoder": {str(one["id"]): one for one in added(True)}}),
        (
            "special_tokens_map.json",
            {"eos_token": {"content": "<|im_end|>"}, "additional_special_tokens": ["<think>", {"content": "</think>"}]},
        ),
    ],
)
def test_special_tags_are_found_in_any_file(tmp_path: Path, file: str, document: object) -> None:
    assert special_beside_tags(tokenizer(tmp_path / "t", file, document)) == ("<|im_end|>",)


def test_all_special_tokens_but_the_tags_leave_the_text() -> None:
    endpoint = Endpoint("http://a/v1", "m", special_tokens=("<|im_start|>", "<|im_end|>"))
    assert endpoint.options == {"skip_special_tokens": False}
    shown = endpoint.shown(Answer("<think>\n1단계: 7\n</think>\n\n7<|im_end|>", None, "stop", 3, 4))
    assert shown == Answer("<think>\n1단계: 7\n</think>\n\n7", None, "stop", 3, 4)
