"""n-grams: the fast hashes against the plain units, and what counts as one unit."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.text import ngrams
from pipeline.text.ngrams import ngram_hashes, normalized, pieces, units

HOSTILE = st.text(
    st.one_of(
        st.characters(exclude_characters="\0"),
        st.sampled_from(
            "가나다 할수있다漢字かなカナﾊﾝｶｸabcXYZ019 .,!?\n\t\u1100\u1161\u11a8\u0301\u3000①㎏ſßİ\ud800😀𠀀"
        ),
    ),
    max_size=60,
)


def spoken(text: str) -> list[str]:
    return [text[start:end] for start, end in units(text)]


def lowered(character: str) -> str:
    low = character.lower()
    return low if len(low) == 1 else character


def plain(text: str, n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text by the rule: units in lower case, all of them when there are fewer than n."""
    found = []
    for piece in pieces(text):
        spelled = ["".join(map(lowered, unit)) for unit in spoken(piece)]
        if spelled:
            found += [tuple(spelled[start : start + n]) for start in range(max(1, len(spelled) - n + 1))]
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("할 수 있다.", ["할", "수", "있", "다"]),
        ("GPT-4와 2024년", ["GPT", "4", "와", "2024", "년"]),
        ("漢字かな ㅋㅋ", ["漢", "字", "か", "な", "\u110f", "\u110f"]),
        ("a_b naïve e\u0301te हिन्दी", ["a", "b", "naïve", "éte", "हिन्दी"]),
        ("... 😀 !", []),
    ],
)
def test_a_unit_is_a_syllable_or_a_run_of_other_letters(text: str, expected: list[str]) -> None:
    assert spoken(normalized(text)) == expected


@settings(max_examples=300, deadline=None)
@given(st.lists(HOSTILE, max_size=6), st.integers(1, 6))
@example(["할 수 있다", "할수있다!", "ab c", "a bc", "", "..."], 2)
def test_hashes_are_equal_exactly_where_plain_ngrams_are(texts: list[str], n: int) -> None:
    grams = ngram_hashes(texts, n)
    expected = [plain(text, n) for text in texts]
    assert grams.starts.tolist() == [sum(map(len, expected[:place])) for place in range(len(texts) + 1)]
    meaning: dict[int, tuple[str, ...]] = {}
    flat = [gram for found in expected for gram in found]
    for value, gram in zip(grams.values.tolist(), flat, strict=True):
        assert meaning.setdefault(value, gram) == gram
    assert len(meaning) == len(set(flat))


@settings(max_examples=50, deadline=None)
@given(st.lists(HOSTILE, min_size=1, max_size=8), st.integers(1, 4))
def test_a_texts_hashes_depend_on_no_neighbour_and_no_batch(texts: list[str], n: int) -> None:
    before = ngrams.PIECE_CHARS
    together = ngram_hashes(texts, n)
    try:
        for place, text in enumerate(texts):
            ngrams.PIECE_CHARS = len(normalized(text)) or 1  # one text a batch
            alone = ngram_hashes([text], n)
            assert alone.values.tolist() == together.values[slice(*together.starts[place : place + 2])].tolist()
    finally:
        ngrams.PIECE_CHARS = before


def test_long_texts_are_cut_into_pieces_that_memory_bounds() -> None:
    long = "가나다라" * 20_000
    grams = ngram_hashes([long, "끝"], 13)
    assert grams.starts.tolist() == [0, 65_536 - 12 + 14_464 - 12, 80_000 - 24 + 1]
    assert len(set(grams.values[:-1].tolist())) == 4


def test_spelling_spacing_and_width_do_not_matter() -> None:
    texts = ["ＡＩ 로봇이 갈 수 있다.", "ai로봇이 갈수있다", unicodedata.normalize("NFD", "AI 로봇이 갈수 있다!!")]
    first, second, third = (ngram_hashes([text], 3).values.tolist() for text in texts)
    assert first == second == third and len(first) == 6


def test_hashes_do_not_change_from_release_to_release() -> None:
    """The journal holds what is made of them: a change must raise prepare's contract."""
    assert ngram_hashes(["할 수 있다 GPT-4"], 3).values.tolist() == [
        11060912321864477323,
        11729684985630343647,
        10479705829023903646,
        12642480432571643861,
    ]
