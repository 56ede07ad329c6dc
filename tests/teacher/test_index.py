"""The index of answers: as a dictionary, and the lowest segment wins whatever comes first."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.teacher.index import SegmentIndex

NOTES = st.lists(st.tuples(st.integers(0, 9), st.lists(st.integers(0, 99).map(str), max_size=8)), max_size=20)


@given(notes=NOTES)
def test_it_holds_what_a_dictionary_would(notes: list[tuple[int, list[str]]]) -> None:
    index, plain = SegmentIndex(), dict[str, str]()
    for number, keys in notes:
        name = f"{number:08d}.jsonl.zst"
        new = index.note(name, keys)
        for key, is_new in zip(keys, new, strict=True):
            assert is_new == (key not in plain)
            plain[key] = min(plain.get(key, name), name)
    assert {str(key): index.get(str(key)) for key in range(120)} == {
        str(key): plain.get(str(key)) for key in range(120)
    }
