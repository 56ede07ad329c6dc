"""The answer cache: immutable segments, the lowest wins, nothing lost between writers."""

from pathlib import Path

import pytest

from pipeline.engine.protocol import Answer, Failure
from pipeline.store.objects import Store
from pipeline.teacher.answers import AnswerCache, Asked, teacher_folder


def answer(text: str) -> Answer:
    return Answer(text, None, "stop", 1, 2)


def test_the_lowest_segment_that_holds_a_request_wins(store_url: str) -> None:
    first, second = (AnswerCache(Store(store_url), "answers/t") for _ in range(2))
    first.add("k", Asked("s", "row"), answer("먼저"))
    second.add("k", Asked("s", "row"), answer("나중"))
    second.add("only", Asked("s", "row"), Failure("over_length", "400"))
    first.flush()
    second.flush()
    for cache in (first, second, AnswerCache(Store(store_url), "answers/t")):
        cache.refresh()
        assert cache.fetch(["k", "only", "none"]) == {"k": answer("먼저"), "only": Failure("over_length", "400")}
    names = [entry.key for entry in Store(store_url).list("answers/t")]
    assert names == ["answers/t/00000001.jsonl.zst", "answers/t/00000002.jsonl.zst"]


def test_an_answer_is_known_before_and_after_its_flush(tmp_path: Path) -> None:
    cache = AnswerCache(Store(f"file://{tmp_path}"), "answers/t")
    cache.add("k", Asked("s", "row"), answer("하나"))
    cache.add("k", Asked("s", "row"), answer("둘"))
    assert "k" in cache and cache.pending == 1
    cache.flush()
    cache.flush()
    assert "k" in cache and cache.fetch(["k"]) == {"k": answer("하나")}
    assert len(Store(f"file://{tmp_path}").list("answers/t")) == 1


def test_writers_without_create_only_writes_take_names_of_their_own(tmp_path: Path) -> None:
    stores = [Store(f"file://{tmp_path}") for _ in range(2)]
    for number, store in enumerate(stores):
        store.exclusive = False
        cache = AnswerCache(store, "answers/t")
        cache.add(f"k{number}", Asked("s", "row"), answer(str(number)))
        cache.flush()
    reader = AnswerCache(stores[0], "answers/t")
    reader.refresh()
    assert reader.fetch(["k0", "k1"]) == {"k0": answer("0"), "k1": answer("1")}


@pytest.mark.parametrize(("name", "start"), [("LGAI-EXAONE/EXAONE-4.0-1.2B", "answers/LGAI-EXAONE--EXAONE-4.0-1.2B-")])
def test_a_teachers_folder_names_it_and_its_revision(name: str, start: str) -> None:
    one, other = teacher_folder(name, f"hub:{name}@a"), teacher_folder(name, f"hub:{name}@b")
    assert one.startswith(start) and one != other and one.count("/") == 1
