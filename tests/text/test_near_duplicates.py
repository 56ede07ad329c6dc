"""Near-duplicates: signatures, the rule of which row stays, and what is found."""

import random
from pathlib import Path

import numpy as np
import pytest

from pipeline.text.near_duplicates import SLOTS, SignatureFile, band_slots, near_duplicates, signatures

SYLLABLES = [chr(0xAC00 + 41 * number) for number in range(250)]


def essay(seed: int, length: int = 300) -> list[str]:
    rng = random.Random(seed)
    return rng.choices(SYLLABLES, k=length)


def edited(text: list[str], edits: int, seed: int) -> list[str]:
    """The text with so many syllables replaced, each of which changes five n-grams of five."""
    rng = random.Random(seed)
    out = list(text)
    for place in rng.sample(range(len(text)), edits):
        out[place] = "하"
    return out


def written(path: Path, texts: list[str], chunk: int = 7, n: int = 5) -> SignatureFile:
    matrix = signatures(texts, n)
    return SignatureFile.written(
        path / "signatures", len(texts), (matrix[at : at + chunk] for at in range(0, len(texts), chunk))
    )


def found(path: Path, texts: list[str], threshold: float = 0.8, taking_part: list[bool] | None = None) -> list[int]:
    taking = np.array(taking_part if taking_part is not None else [True] * len(texts), bool)
    return near_duplicates(written(path, texts), taking, threshold).tolist()


def test_the_first_of_alike_rows_stays(tmp_path: Path) -> None:
    base, other = essay(1), essay(2)
    texts = [
        "".join(edited(base, 2, 5)),
        "".join(other),
        "".join(base),
        " ".join(base) + "!",
        "".join(edited(other, 3, 6)),
    ]
    assert found(tmp_path, texts) == [-1, -1, 0, 0, 1]
    assert found(tmp_path, texts, taking_part=[False, True, True, True, False]) == [-1, -1, -1, 2, -1]


def test_a_row_that_resembles_only_a_removed_row_stays(tmp_path: Path) -> None:
    steps = [essay(3)]
    for number in range(
        1, 4
    ):  # each is alike to its neighbours alone: Jaccard about 0.87 to the next, 0.76 to the one after
        steps.append(edited(steps[-1], 5, number))
    file = written(tmp_path, ["".join(step) for step in steps])
    first, second = np.array([0, 1, 2, 0, 1]), np.array([1, 2, 3, 2, 3])
    assert (file.likeness(first, second) >= 0.8).tolist() == [True, True, True, False, False]
    assert near_duplicates(file, np.ones(4, bool), 0.8).tolist() == [-1, 0, -1, 2]


def test_what_goes_is_alike_to_what_stays_and_what_stays_is_not(tmp_path: Path) -> None:
    rng = random.Random(4)
    bases = [essay(seed, 200) for seed in range(12)]
    texts = ["".join(edited(rng.choice(bases), rng.randrange(8), seed)) for seed in range(200)]
    file = written(tmp_path, texts)
    first = near_duplicates(file, np.ones(200, bool), 0.8)
    gone, stay = np.flatnonzero(first >= 0), np.flatnonzero(first < 0)
    assert len(gone) > 60 and (first[gone] < gone).all() and (first[first[gone]] < 0).all()
    pairs = np.array([(left, right) for left in stay for right in stay if left < right])
    assert (file.likeness(pairs[:, 0], pairs[:, 1]) >= 0.8).mean() < 0.002  # the few pairs that share no band


def test_estimates_are_jaccards_similarity(tmp_path: Path) -> None:
    base = essay(5, 600)
    texts = ["".join(base), *("".join(edited(base, edits, edits)) for edits in (4, 12, 40))]
    sets = [{text[at : at + 5] for at in range(len(text) - 4)} for text in texts]
    exact = [len(sets[0] & other) / len(sets[0] | other) for other in sets[1:]]
    estimates = written(tmp_path, texts).likeness(np.array([0, 0, 0]), np.array([1, 2, 3]))
    assert estimates == pytest.approx(exact, abs=0.09)


def test_short_and_bare_texts_are_alike_only_when_they_are_the_same(tmp_path: Path) -> None:
    texts = ["네", "네!", "아니요", "...", "...", "!!", "", "안녕하세요", "안녕 하세요."]
    assert found(tmp_path, texts) == [-1, 0, -1, -1, 3, -1, -1, -1, 7]
    assert signatures([], 5).shape == (0, SLOTS)
    assert found(tmp_path, []) == []


def test_parts_of_another_size_give_the_same_file(tmp_path: Path) -> None:
    texts = ["".join(essay(seed, 30)) for seed in range(20)]
    sizes = [(tmp_path / str(size), size) for size in (1, 6, 20)]
    for folder, _ in sizes:
        folder.mkdir()
    files = [written(folder, texts, size) for folder, size in sizes]
    assert len({tuple(file.slot(5).tolist()) for file in files}) == 1
    with pytest.raises(ValueError, match="19 signatures for 20 rows"):
        SignatureFile.written(tmp_path / "short", 20, [signatures(texts[:19], 5)])


@pytest.mark.parametrize(("threshold", "expected"), [(0.5, 3), (0.7, 5), (0.8, 7), (0.9, 11), (1.0, 128)])
def test_bands_find_the_pairs_at_the_threshold(threshold: float, expected: int) -> None:
    assert band_slots(threshold) == expected


def test_signatures_do_not_change_from_release_to_release() -> None:
    """The journal holds them: another version of rensa that gives others must raise prepare's contract."""
    assert signatures(["로봇이 창고에서 길을 찾는다"], 5)[0, :4].tolist() == [25206, 16877, 46453, 64156]
