"""What a recipe says about evaluating a model and about promoting it. Torch-free."""

import os
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from pipeline.engine.settings import ClientSettings, EngineSettings
from pipeline.recipe.fields import Closed, OutputType, StageSettings, operational
from pipeline.recipe.references import ModelReference, RowsReference, ScoresReference
from pipeline.scoring.verdict import Bound, limit_refusals, regression_refusals
from pipeline.text.chinese import ChineseRule

ROBOT_PROMPT = "당신은 AGV와 AMR 로봇을 돕는 한국어 도우미입니다. 질문에 한국어로 정확하게 답하세요."
JUDGE_PROMPT = """\
다음 답변의 한국어를 평가하세요. 내용이 맞는지가 아니라 글만 봅니다.
- grammar: 문법과 맞춤법 (1은 틀림, 5는 완벽함)
- naturalness: 한국 사람이 쓴 듯 자연스러운가 (1은 어색함, 5는 자연스러움)
JSON 한 줄로만 답하세요. 예: {{"grammar": 4, "naturalness": 5}}

질문: {question}

답변: {answer}"""


def checked_url(value: str | None) -> str | None:
    """An http(s) URL without a trailing slash; ValueError for anything else."""
    if value is not None and not re.match(r"^https?://[^/]+", value):
        raise ValueError(f"endpoint {value!r} is not an http(s) URL, e.g. http://127.0.0.1:8000/v1")
    return value.rstrip("/") if value else None


Endpoint = Annotated[str | None, AfterValidator(checked_url), operational]


class JudgeSettings(Closed):
    """A model behind an OpenAI-compatible endpoint that marks grammar and naturalness from 1 to 5."""

    served_model_name: str = Field(description="The name under which the endpoint serves the judge.")
    prompt: str = Field(
        default=JUDGE_PROMPT, description="What the judge is asked; {question} and {answer} are filled in."
    )
    max_tokens: int = Field(default=256, ge=1, description="Longest verdict, in tokens.")
    temperature: float = Field(default=0.0, ge=0, le=2)
    limit: int = Field(default=200, ge=1, description="Answers that are judged, of each set and mode.")
    endpoint: Endpoint = Field(
        default=None, description="Its URL, ending in /v1; null: the variable HANFORGE_JUDGE_ENDPOINT."
    )
    api_key_env: Annotated[str | None, operational] = Field(
        default=None, description="The environment variable that holds the endpoint's API key."
    )

    @field_validator("prompt")
    @classmethod
    def _asks_about_the_answer(cls, value: str) -> str:
        try:
            value.format(question="", answer="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"the judge's prompt cannot be filled in ({error}): write {{question}} and {{answer}}, "
                "and double all other braces"
            ) from error
        if "{answer}" not in value:
            raise ValueError("the judge's prompt has no {answer}: the judge would not see what it marks")
        return value

    def url(self) -> str | None:
        """The endpoint's URL: the setting, else HANFORGE_JUDGE_ENDPOINT."""
        return self.endpoint or os.environ.get("HANFORGE_JUDGE_ENDPOINT")


class EvaluateSettings(StageSettings):
    """Ask a model held-out questions and a shipped set of robot questions, and measure its answers."""

    CONTRACT: ClassVar[int] = 1
    OUTPUTS: ClassVar[dict[str, OutputType]] = {"scores": "scores", "predictions": "predictions"}
    COMPUTES: ClassVar[bool] = True

    kind: Literal["evaluate"] = "evaluate"
    model: ModelReference = Field(description="The checkpoint that answers.")
    data: RowsReference | None = Field(default=None, description="Held-out rows; the last turn is the expected answer.")
    questions: Literal["agv"] | None = Field(default=None, description="A shipped set of questions with rules.")
    training_data: Annotated[list[RowsReference], Field(min_length=1)] | None = Field(
        default=None, description="What the model was trained on: any row of `data` in it is exit 2."
    )
    baseline: ScoresReference | None = Field(default=None, description="Scores to stand beside: before and after.")
    backend: Literal["vllm", "transformers"] = Field(default="vllm", description="What generates the answers.")
    thinking: Literal["on", "off", "both"] = Field(default="both", description="Ask with thinking, without, or both.")
    max_new_tokens: int = Field(default=1024, ge=1, description="Longest answer with its reasoning, in tokens.")
    temperature: float = Field(default=0.0, ge=0, le=2, description="0 is greedy, the same answers every time.")
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=42, ge=0)
    batch_size: int = Field(default=16, ge=1, description="Rows that transformers generates together.")
    limit: int | None = Field(default=None, ge=1, description="At most so many rows of `data`, chosen by content.")
    unit_rows: int = Field(default=512, ge=1, description="Answers that are committed together.")
    system_prompt: str = Field(default=ROBOT_PROMPT, description="The system turn of the shipped questions.")
    chinese: ChineseRule = Field(default=ChineseRule(), description="When an answer counts as Chinese.")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = "auto"
    judge: JudgeSettings | None = Field(
        default=None, description="A second model that marks grammar and naturalness of the answers; null: nobody does."
    )
    engine: EngineSettings = Field(default=EngineSettings(), description="The vLLM that the stage starts itself.")
    served_model_name: str = Field(default="model", description="The name under which vLLM serves the model.")
    endpoint: Endpoint = Field(
        default=None,
        description="A vLLM that serves the model already, such as a sidecar; null: HANFORGE_EVALUATE_ENDPOINT, else "
        "one of the stage's own.",
    )
    client: Annotated[ClientSettings, operational] = ClientSettings()

    @model_validator(mode="after")
    def _something_to_ask(self) -> Self:
        if self.data is None and self.questions is None:
            raise ValueError("nothing to ask: give `data` (held-out rows), `questions: agv`, or both")
        if self.data is None and (self.limit is not None or self.training_data is not None):
            raise ValueError("limit and training_data have no effect without `data`")
        return self

    @property
    def modes(self) -> tuple[bool, ...]:
        """Whether thinking is on, for each pass over the questions."""
        return {"on": (True,), "off": (False,), "both": (False, True)}[self.thinking]

    def url(self) -> str | None:
        """The endpoint's URL: the setting, else HANFORGE_EVALUATE_ENDPOINT; None: start a vLLM."""
        return self.endpoint or os.environ.get("HANFORGE_EVALUATE_ENDPOINT")


class PromoteSettings(StageSettings):
    """Judge a model by its scores and, when they suffice, make it the one that serving follows."""

    CONTRACT: ClassVar[int] = 1
    OUTPUTS: ClassVar[dict[str, OutputType]] = {"promotion": "promotion"}

    kind: Literal["promote"] = "promote"
    model: ModelReference = Field(description="The model to promote: a stage's output.")
    scores: ScoresReference = Field(description="Its scores: an evaluate stage.")
    limits: Annotated[dict[str, Bound], operational] = Field(
        default={}, description="Metric to {min: x} or {max: x}, such as data.off.exact: {min: 0.9}."
    )
    max_drop: Annotated[dict[str, float], operational] = Field(
        default={},
        description="Metric to how much worse than the promoted model it may be, such as data.off.exact: 0.02.",
    )

    def refusals(self, measurements: dict[str, Any]) -> list[str]:
        """Which limits the scores miss, and where they fall behind the model that was promoted then."""
        scores, before = measurements.get("scores", {}), measurements.get("promoted_before") or {}
        return [*limit_refusals(self.limits, scores), *regression_refusals(self.max_drop, scores, before)]
