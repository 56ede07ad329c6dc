"""Reasoning in `<think>` tags, its `N단계:` steps, and the final answer of a text: parsed here and nowhere else.

The opening tag may sit in the prompt (EXAONE, Qwen3 with thinking on), so a closing tag alone also closes reasoning.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

OPEN_TAG, CLOSE_TAG = "<think>", "</think>"
_STEP = re.compile(r"^[\s>#*\-_]*(\d{1,3})\s?단계[*_]*\s?[:：.)]", re.MULTILINE)
_MARK = re.compile(
    r"(?:최종\s*답변|최종\s*답안|최종\s*답|최종\s*정답|정답|답안|(?<![가-힣])답|final answer|the answer|answer)"
    r"[*_`\"'\s]*(?:은|는|:|：|=|is\b)(?:\s*다음과 같(?:습니|)다)?[*_`\"'\s:：]*([^\n]+)|^\s*####\s*([^\n]+)",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER = r"[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s?/\s?\d+)?"
_LAST_NUMBER = re.compile(rf"(?<![\w.])(?:{_NUMBER})|(?<=[^\W\d])\d+(?:\.\d+)?")
_NUMBER_WITH_UNIT = re.compile(rf"^[$₩€]?\s?({_NUMBER})\s?(?:%|°|[A-Za-z가-힣]{{1,6}}[²³]?)?$")
_OPTION = re.compile(r"^(?:[(\[{]\s?([a-z]|\d{1,2})\s?[)\]}]|([a-z])\s?[).](?=\s)|(\d{1,2})번)(?:[\s,.:)]|$)")
_FRACTION = re.compile(r"\\d?frac\{(-?\d+)\}\{(\d+)\}")
_ENDING = re.compile(r"(?:이었습니다|였습니다|입니다|이에요|예요|이다|이고|임)$")
_SENTENCE_END = re.compile(r"[.!?。](?:\s|$)")


@dataclass(frozen=True)
class Thinking:
    """A turn taken apart. `reasoning` is None without tags; `closed` is True only when a closing tag was found.

    `opened`: the opening tag is in the text; `nested`: more than one tag of a kind; `before`: text ahead of the tag.
    """

    reasoning: str | None
    answer: str
    closed: bool
    opened: bool = False
    nested: bool = False
    before: str = ""

    @property
    def well_formed(self) -> bool:
        """One opening tag at the start, one closing tag after it."""
        return self.opened and self.closed and not self.nested and not self.before


def split_thinking(content: str) -> Thinking:
    """Reasoning and answer of one assistant turn, both stripped.

    Example: "<think>\\n1단계: 3+4\\n</think>\\n\\n7" -> Thinking("1단계: 3+4", "7", closed=True, opened=True)
    Example: "<think>1단계:" -> Thinking("1단계:", "", closed=False, opened=True)
    Example: "7" -> Thinking(None, "7", closed=False)
    """
    opens, closes = content.count(OPEN_TAG), content.count(CLOSE_TAG)
    if not opens and not closes:
        return Thinking(None, content.strip(), closed=False)
    start, end = content.find(OPEN_TAG), content.rfind(CLOSE_TAG)
    nested = opens > 1 or closes > 1
    if start < 0:
        return Thinking(content[:end].strip(), content[end + len(CLOSE_TAG) :].strip(), True, False, nested)
    before, inside = content[:start].strip(), start + len(OPEN_TAG)
    if end < inside:  # cut off inside the reasoning, or a stray closing tag ahead of the opening one
        return Thinking(content[inside:].strip(), "", False, True, nested or end >= 0, before)
    return Thinking(content[inside:end].strip(), content[end + len(CLOSE_TAG) :].strip(), True, True, nested, before)


def join_thinking(reasoning: str, answer: str) -> str:
    """The one way that this project writes reasoning into a turn; `split_thinking` undoes it.

    Example: ("1단계: 3+4", "7") -> "<think>\\n1단계: 3+4\\n</think>\\n\\n7"
    """
    return f"{OPEN_TAG}\n{reasoning.strip()}\n{CLOSE_TAG}\n\n{answer.strip()}"


def step_numbers(reasoning: str) -> list[int]:
    """The numbers of the `N단계:` marks at line starts, in order, Markdown emphasis allowed.

    Example: "1단계: 가\\n**2단계:** 나" -> [1, 2]
    """
    return [int(number) for number in _STEP.findall(reasoning)]


def steps(reasoning: str) -> int:
    """How many `N단계:` marks the reasoning has."""
    return len(step_numbers(reasoning))


def final_answer(text: str) -> str | None:
    """The final answer of a turn, normalised; None when there is none (no text after the tags).

    Looked for in this order, the last one of a kind winning: \\boxed{...}; what follows 정답, 답, answer or ####;
    a text that is itself a number or an option; the last number; the whole text.
    Example: "3x + 5 = 14 이므로 x = 3. 정답: x = 3입니다." -> "3"; "답은 ③번" -> "3"; "정답: (B)" -> "b"
    """
    answer = unicodedata.normalize("NFKC", split_thinking(text).answer).strip()
    if not answer:
        return None
    boxed = _last_boxed(answer)
    if boxed is not None:
        return normalise_answer(boxed)
    marks = [first or second for first, second in _MARK.findall(answer)]
    if marks:
        return normalise_answer(_first_sentence(marks[-1]))
    numbers = _LAST_NUMBER.findall(answer)
    whole = normalise_answer(answer)
    if not numbers or _NUMBER_WITH_UNIT.match(whole) or re.fullmatch(r"[a-z]", whole):
        return whole
    return normalise_answer(numbers[-1])


def normalise_answer(text: str) -> str:
    """The form in which two answers are compared: NFKC, case folded, without emphasis and endings, numbers canonical.

    Example: "**1,200원**입니다." -> "1200"; "x = 3.0" -> "3"; "(B) 사과" -> "b"; "４번 '제주'" -> "4"; "３/４" -> "3/4"
    """
    text = _FRACTION.sub(r"\1/\2", unicodedata.normalize("NFKC", text).casefold().replace("−", "-"))
    text = re.sub(r"\\text|[*_`$\\\"'“”‘’]", "", text)
    text = " ".join(text.split()).strip(" .,!?。:;")
    text = _ENDING.sub("", text).strip(" .,!?。:;")
    option = _OPTION.match(text) or re.fullmatch(r"()([a-z]|\d{1,2})()\s?[)\]}]", text)
    if option:
        text = next(filter(None, option.groups()))
    right = text.rpartition("=")[2].strip()
    number = _NUMBER_WITH_UNIT.match(text) or _NUMBER_WITH_UNIT.match(right)
    return _canonical_number(number[1]) if number else text


def same_answer(one: str, other: str) -> bool:
    """Whether two turns (or bare answers) have the same final answer.

    Example: ("<think>...</think>정답: 1,200원", "1200") -> True
    """
    answer = final_answer(one)
    return answer is not None and answer == final_answer(other)


def _canonical_number(text: str) -> str:
    """Example: "1,200.50" -> "1200.5"; "6/8" -> "3/4"; "-0" -> "0"; "0.50" -> "0.5"."""
    plain = text.replace(",", "").replace(" ", "").replace("−", "-")
    numerator, slash, denominator = plain.partition("/")
    if slash:
        if len(plain) > 1000 or not int(denominator):  # Python refuses to convert numbers of thousands of digits
            return plain
        return str(Fraction(numerator) / int(denominator))
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    sign, digits = ("-", plain[1:]) if plain.startswith("-") else ("", plain)
    whole, point, decimals = digits.partition(".")
    value = (whole.lstrip("0") or "0") + point + decimals
    return value if value == "0" else sign + value


def _last_boxed(text: str) -> str | None:
    """The content of the last \\boxed{...}, braces balanced; None without one."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for position in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : position]
    return None


def _first_sentence(text: str) -> str:
    """Example: "65입니다. 확인해 보세요" -> "65입니다"; "3.5" -> "3.5"."""
    return _SENTENCE_END.split(text, maxsplit=1)[0]
