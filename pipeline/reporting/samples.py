"""Rows drawn on a terminal: turns by role, reasoning set apart from the answer, Korean in its real width."""

import re
import unicodedata
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Column, Table
from rich.text import Text

from pipeline.reporting.rows import Row, rejected_line
from pipeline.text.thinking import split_thinking

SHORT_CHARACTERS = 400
ROLES = {"system": "dim", "user": "bold cyan", "assistant": "bold green"}
_UNUSUAL = re.compile(r"[^\n\t -~가-힣]")  # may be harmful; all others are not
SHOWN = {
    "text", "messages", "source", "origin", "id", "reason", "detail", "line", "encoding", "expected", "answer",
    "reasoning",
}  # fmt: skip


def sample_panel(row: Row, number: int, of: int, full: bool = False) -> Panel:
    """One row as a panel; texts longer than 400 characters are cut unless `full`."""
    title = f"{number} of {of}"
    place = "  ".join(str(row[key]) for key in ("source", "origin") if row.get(key))
    parts: list[RenderableType] = []
    if "reason" in row:
        why = "  ".join(one_line(str(row[key])) for key in ("reason", "detail") if row.get(key))
        parts.append(Text(why, style="bold red"))
    messages = row.get("messages")
    if isinstance(messages, list):
        parts.extend(_turn(message, full) for message in messages)
    elif "line" in row:
        parts.append(_text(rejected_line(row), full))
    parts.extend(_predicted(row, full))
    facts = {key: value for key, value in row.items() if key not in SHOWN and value not in (None, "", {}, [])}
    if facts:
        parts.append(_facts(facts))
    return Panel(
        Group(*parts),
        title=escape(title),
        title_align="left",
        subtitle=escape(one_line(place)),
        subtitle_align="right",
        border_style="red" if "reason" in row else "blue",
    )


def printable(text: str) -> str:
    """The text with control characters escaped, which a hostile row could use to rewrite the terminal.

    Direction marks are escaped as well; new lines, tabs and the joiner that emoji need stay.
    Example: "a\\x1b[2Jb" -> "a\\\\x1b[2Jb"
    """
    return _UNUSUAL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    harmless = character == "\u200d" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
    return character if harmless else character.encode("unicode_escape").decode()


def _turn(message: Any, full: bool) -> RenderableType:
    role = str(message.get("role")) if isinstance(message, dict) else "?"
    content = str(message.get("content") or "") if isinstance(message, dict) else str(message)
    parts: list[RenderableType] = [Rule(Text(one_line(role), style=ROLES.get(role, "bold")), align="left", style="dim")]
    thinking = split_thinking(content)
    if thinking.reasoning is None:
        parts.append(_text(content, full))
    else:
        if thinking.before:
            parts.append(_text(thinking.before, full))
        parts.append(_reasoning(thinking.reasoning, thinking.closed, full))
        parts.append(_text(thinking.answer, full))
    return Group(*parts)


def _reasoning(text: str, closed: bool, full: bool) -> RenderableType:
    shown = _text(text, full)
    shown.stylize("italic magenta")
    if not closed:
        shown.append(" (not closed)", style="red")
    return Padding(shown, (0, 0, 0, 3))


def _predicted(row: Row, full: bool) -> list[RenderableType]:
    """What a row of predictions has beside its prompt: the expected answer, the reasoning, and the answer given."""
    parts: list[RenderableType] = []
    for key, style in (("expected", "bold yellow"), ("reasoning", "magenta"), ("answer", "bold green")):
        if row.get(key) is not None:
            parts.append(Rule(Text(key, style=style), align="left", style="dim"))
            text = row[key] if isinstance(row[key], str) else str(row[key])
            parts.append(_reasoning(text, True, full) if key == "reasoning" else _text(text, full))
    return parts


def _facts(facts: dict[str, Any]) -> Table:
    table = Table.grid(Column(style="dim"), Column(style="dim", overflow="fold"), padding=(0, 2))
    for key, value in facts.items():
        inner = {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value}
        for name, item in inner.items():
            table.add_row(Text(one_line(name)), Text(one_line(str(item))[:SHORT_CHARACTERS]))
    return table


def _text(text: str, full: bool) -> Text:
    clean = printable(text)
    if full or len(clean) <= SHORT_CHARACTERS:
        return Text(clean)
    shown = Text(clean[:SHORT_CHARACTERS])
    shown.append(f" ... {len(clean) - SHORT_CHARACTERS:,} more characters (--show-full)", style="dim")
    return shown


def one_line(text: str) -> str:
    """A text for one line of a terminal."""
    return " ".join(printable(text).split())
