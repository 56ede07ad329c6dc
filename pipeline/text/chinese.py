"""Korean text with Hanja told from Chinese: the one rule that prepare, validate and scoring share.

Han characters in a gloss, 한자(漢字) or 漢字(한자), belong to Korean writing and are set aside. What is left is
Chinese when it runs on like a sentence, outweighs the Hangul around it, or uses characters that Korea's own
character standard (KS X 1001) does not have although everyday Chinese (GB 2312) does: 们, 这, 你, 说.
The rule looks at the script alone: kanji in Japanese text count as Han.
"""

import re
from dataclasses import dataclass
from functools import cache

from pydantic import Field

from pipeline.recipe.fields import Closed

# Extension A, unified and compatibility ideographs, planes 2 and 3; `rowreader` looks for the same.
HAN_RANGES = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
HAN = "".join(f"{chr(first)}-{chr(last)}" for first, last in HAN_RANGES)
_HANGUL = "\uac00-\ud7a3"
_ANY_HAN = re.compile(f"[{HAN}]")
_HAN_RUN = re.compile(f"[{HAN}]+")
_HANGUL_SYLLABLE = re.compile(f"[{_HANGUL}]")
_NO_HANGUL = bytes(byte for byte in range(256) if not 0xAC <= byte <= 0xD6)
_LAST_HANGUL = re.compile("[\ud700-\ud7a3]")
# Full-width marks carry a Chinese sentence on; the Korean list marks "," and "·" end a run.
_SENTENCE = re.compile(f"[{HAN}](?:[，。！？；：“”]*[{HAN}])*")
_LOOK_BACK = 64
_OPEN, _CLOSE = "(（[［〔【", ")）]］〕】"
_BRACKETS = re.compile(f"[{re.escape(_OPEN)}]([^{re.escape(_OPEN + _CLOSE)}\n]{{1,400}})[{re.escape(_CLOSE)}]")
_SENTENCE_MARK = re.compile("[，。！？；]")
_BEFORE_GLOSS = re.compile(f"[{_HANGUL}A-Za-z0-9]['\"’”」』》〉>*`_]*[ ]?$")
_HAN_BEFORE_GLOSS = re.compile(f"([{HAN}]+)['\"’”」』》〉>*`_]*[ ]?$")


class ChineseRule(Closed):
    """When text with Han characters counts as Chinese; counts are of characters outside glosses.

    Example: {max_run: 0, max_share: 0, min_han: 1} refuses every Han character outside a gloss.
    """

    max_run: int = Field(
        default=4, ge=0, description="Longest run of Han characters that Korean text may hold: 4 keeps 四字成語."
    )
    max_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Largest share of Han among Han and Hangul, applied from min_han characters up.",
    )
    min_han: int = Field(default=6, ge=1, description="Fewest Han characters for which max_share is asked.")
    max_foreign: int = Field(
        default=0,
        ge=0,
        description="Most characters of everyday Chinese that Korea's standard KS X 1001 lacks (们, 这, 说).",
    )
    glosses: bool = Field(default=True, description="Whether Han in brackets after Korean, 한자(漢字), is set aside.")
    max_gloss: int = Field(default=12, ge=1, description="Longest run of Han characters that a gloss may hold.")


@dataclass(frozen=True)
class Verdict:
    """Whether a text is Chinese, why, and the numbers behind it (counts of characters)."""

    chinese: bool
    why: str = ""
    han: int = 0
    gloss_han: int = 0
    hangul: int = 0
    longest_run: int = 0
    foreign: int = 0

    @property
    def share(self) -> float:
        """Han outside glosses among Han and Hangul, 0 to 1."""
        return self.han / (self.han + self.hangul) if self.han else 0.0


CLEAN = Verdict(chinese=False)
DEFAULT_RULE = ChineseRule()


def has_han(text: str) -> bool:
    """Whether the text holds any Han character at all, glossed or not."""
    return _ANY_HAN.search(text) is not None


def judge_chinese(text: str, rule: ChineseRule = DEFAULT_RULE) -> Verdict:
    """The verdict over one text (one message); text without Han is `CLEAN`, whose `hangul` is not counted.

    Example: "한자(漢字)는 글자다" -> not Chinese, gloss_han 2; "今天天气很好。" -> Chinese, longest_run 6
    """
    first = _ANY_HAN.search(text)
    if first is None:
        return CLEAN
    start = first.start()  # glosses are Han, too: what stands before is the same without them
    bare, gloss_han = _without_glosses(text, rule) if rule.glosses else (text, 0)
    found = "".join(_HAN_RUN.findall(bare, start))
    han = len(found)
    foreign = sum(map(found.count, foreign_characters().intersection(found)))
    longest = max((_han_in(run) for run in _SENTENCE.findall(bare, start)), default=0)
    hangul = _hangul_in(text)
    share = han / (han + hangul) if han else 0.0
    why = ""
    if foreign > rule.max_foreign:
        why = f"{foreign} characters that only Chinese writes, max_foreign is {rule.max_foreign}"
    elif longest > rule.max_run:
        why = f"a run of {longest} Han characters, max_run is {rule.max_run}"
    elif han >= rule.min_han and share > rule.max_share:
        why = f"{han} Han beside {hangul} Hangul, a share of {share:.2f}, max_share is {rule.max_share}"
    return Verdict(bool(why), why, han, gloss_han, hangul, longest, foreign)


@cache
def foreign_characters() -> frozenset[str]:
    """Han characters of everyday Chinese (GB 2312) that Korean text does not use (not in KS X 1001): 4,079 of 6,763."""
    ideographs = map(chr, range(0x4E00, 0xA000))
    return frozenset(c for c in ideographs if _in_charset(c, "gb2312") and not _in_charset(c, "euc_kr"))


def _in_charset(character: str, charset: str) -> bool:
    try:
        character.encode(charset)
    except UnicodeEncodeError:
        return False
    return True


def _hangul_in(text: str) -> int:
    """How many Hangul syllables: U+AC00 to U+D7A3, told by the first byte in UTF-16 unless that is D7."""
    first = text.encode("utf-16-be", "surrogatepass")[::2]
    last = len(_LAST_HANGUL.findall(text)) if 0xD7 in first else 0
    return len(first.translate(None, _NO_HANGUL)) + last


def _han_in(text: str) -> int:
    return sum(len(run) for run in _HAN_RUN.findall(text))


def _without_glosses(text: str, rule: ChineseRule) -> tuple[str, int]:
    """The text with glossed Han taken out, and how many characters that took. Linear in the text's length.

    Example: "한자(漢字)와 漢字(한자)" -> ("한자와 (한자)", 4)
    """
    kept: list[str] = []
    position = gloss_han = 0
    for brackets in _BRACKETS.finditer(text):
        inside, start = brackets[1], brackets.start()
        before = text[max(position, start - _LOOK_BACK) : start]
        if has_han(inside):
            if _is_gloss(inside, before or text[max(0, start - 1) : start], rule):
                gloss_han += _han_in(inside)
                kept.append(text[position:start])
                position = brackets.end()
        elif glossed := _glossed_word(before, inside, rule):
            gloss_han += glossed[1] - glossed[0]
            kept.append(text[position : start - len(before) + glossed[0]])
            position = start - len(before) + glossed[1]
    kept.append(text[position:])
    return "".join(kept), gloss_han


def _glossed_word(before: str, inside: str, rule: ChineseRule) -> tuple[int, int] | None:
    """Where in `before` the Han word stands that the Hangul in brackets reads: ("그 漢字", "한자") -> (2, 4)."""
    word = _HAN_BEFORE_GLOSS.search(before) if _HANGUL_SYLLABLE.match(inside) else None
    if word is None or len(word[1]) > min(rule.max_gloss, len(_HANGUL_SYLLABLE.findall(inside))):
        return None
    return word.span(1)


def _is_gloss(inside: str, before: str, rule: ChineseRule) -> bool:
    if _SENTENCE_MARK.search(inside) or not _BEFORE_GLOSS.search(before):
        return False
    return max(map(len, _HAN_RUN.findall(inside))) <= rule.max_gloss
