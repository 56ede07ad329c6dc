"""One teacher's answer as the whole recipe would judge it: augment's own rules, then the checks that read its rows."""

from dataclasses import dataclass

from pipeline.engine.protocol import Answer, Failure
from pipeline.recipe.references import StageReference
from pipeline.store.runs import RunLock
from pipeline.teacher.checks import check_row
from pipeline.teacher.compose import Verdict, judge, turn
from pipeline.teacher.reading import Row
from pipeline.teacher.settings import AugmentSettings, CheckSettings, ValidateSettings
from pipeline.text.chatml import Turn


@dataclass(frozen=True)
class Judgement:
    """The assistant's turn, and why the row would end: `by` names the stage that rejects it, "" when it goes on."""

    content: str
    by: str = ""
    reason: str = ""
    detail: str = ""


class Judges:
    """An augment stage and every validate stage of the run that reads its rows."""

    def __init__(self, lock: RunLock, stage: str) -> None:
        self.stage = stage
        self._settings: AugmentSettings = lock.settings(stage)  # type: ignore[assignment]
        self._checks: dict[str, CheckSettings] = {
            name: settings.checks
            for name, settings in lock.recipe.stages.items()
            if isinstance(settings, ValidateSettings)
            and isinstance(settings.source, StageReference)
            and settings.source.stage == stage
        }

    def judge(self, row: Row, outcome: Answer | Failure) -> Judgement:
        """What becomes of a row with this outcome."""
        verdict = judge(row, outcome, self._settings)
        if isinstance(outcome, Failure) or verdict.reason:
            said = "" if isinstance(outcome, Failure) else _as_said(outcome, verdict)
            return Judgement(said, self.stage, verdict.reason, verdict.detail)
        content = turn(verdict)
        answered = Row(row.line, row.id, row.source, row.origin, {}, [*row.turns[:-1], Turn("assistant", content)])
        for name, checks in self._checks.items():
            finding = check_row(answered, checks)
            if finding.reason:
                return Judgement(content, name, finding.reason, finding.detail)
        return Judgement(content)


def _as_said(answer: Answer, verdict: Verdict) -> str:
    """The teacher's words as they came; reasoning that its server set apart stands ahead of them."""
    return f"<think>\n{verdict.reasoning}\n</think>\n\n{answer.content}" if answer.reasoning else answer.content
