"""Settings of augment and validate. What a row's bytes depend on is fingerprinted; pace and limits are not."""

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.engine.settings import ClientSettings, EngineSettings
from pipeline.recipe.fields import Closed, OutputType, StageSettings, operational
from pipeline.recipe.references import ModelReference, RowsReference
from pipeline.teacher.stopping import StopRule
from pipeline.teacher.verdict import Limits, refusals
from pipeline.text.chinese import ChineseRule

PLACEHOLDERS = ("question", "answer")

DEFAULT_PROMPT = """\
다음 질문에 대한 참고 답변을 바탕으로, 답에 이르는 생각을 단계별로 쓰고 최종 답변을 다시 쓰세요.
- 생각은 줄마다 '1단계:', '2단계:', '3단계:'로 시작해서 차례대로 씁니다.
- 단계가 끝나면 빈 줄을 두고 '최종 답변:' 뒤에 답을 씁니다.
- 한국어로만 쓰고 중국어는 쓰지 않습니다.

질문: {question}

참고 답변: {answer}"""


class SamplingSettings(Closed):
    """How the teacher samples; the names are those of the OpenAI and vLLM protocols. null leaves one to the server."""

    temperature: float = Field(default=0.7, ge=0, le=2, description="0.5 when the quality is low.")
    top_p: float | None = Field(default=0.95, gt=0, le=1, description="Share of probability that is sampled from.")
    top_k: int | None = Field(default=None, description="Number of tokens that are sampled from (vLLM).")
    max_tokens: int = Field(default=4096, ge=1, description="Longest answer with its reasoning, in tokens.")
    repetition_penalty: float | None = Field(default=None, gt=0, description="Over 1 discourages repetition (vLLM).")
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, description="Over 0 discourages repetition.")
    seed: int | None = Field(default=42, description="Seed of the sampling.")
    enable_thinking: bool | None = Field(
        default=True, description="The chat template's switch; EXAONE 4.0 reasons only when it is on. null: not sent."
    )
    stop: list[str] = Field(default=[], description="Texts at which the answer ends.")

    def body(self) -> dict[str, Any]:
        """The request's fields beside its messages."""
        values: dict[str, Any] = {
            name: value
            for name in (
                "temperature",
                "top_p",
                "top_k",
                "max_tokens",
                "repetition_penalty",
                "presence_penalty",
                "seed",
            )
            if (value := getattr(self, name)) is not None
        }
        if self.stop:
            values["stop"] = self.stop
        if self.enable_thinking is not None:
            values["chat_template_kwargs"] = {"enable_thinking": self.enable_thinking}
        return values


class TeacherSettings(Closed):
    """Which model answers (fingerprinted) and where it runs (operational)."""

    model: ModelReference | None = Field(
        default=None, description="The teacher's checkpoint; needed when the stage starts vLLM itself."
    )
    served_model_name: str | None = Field(
        default=None, description="The name under which an endpoint serves it; null: the Hub id, else `teacher`."
    )
    engine: EngineSettings = Field(default=EngineSettings(), description="The vLLM that the stage starts itself.")
    endpoint: Annotated[str | list[str] | None, operational] = Field(
        default=None,
        description="An OpenAI-compatible endpoint, ending in /v1, or several that serve the same model; null: the "
        "variable HANFORGE_TEACHER_ENDPOINT (URLs with commas between), else a vLLM of the stage's own.",
    )
    api_key_env: Annotated[str | None, operational] = Field(
        default=None, description="The environment variable that holds the endpoint's API key."
    )

    @model_validator(mode="after")
    def _somebody_answers(self) -> Self:
        if self.model is None and self.served_model_name is None:
            raise ValueError("a teacher needs `model` (a checkpoint) or `served_model_name` (what an endpoint serves)")
        return self

    @field_validator("endpoint")
    @classmethod
    def _are_urls(cls, value: str | list[str] | None) -> str | list[str] | None:
        for url in [value] if isinstance(value, str) else value or []:
            if not re.match(r"^https?://[^/]+", url):
                raise ValueError(f"endpoint {url!r} is not an http(s) URL, e.g. http://127.0.0.1:8000/v1")
        return value or None

    @property
    def endpoints(self) -> list[str]:
        """The URLs of `endpoint`, without trailing slashes, each once."""
        urls = [self.endpoint] if isinstance(self.endpoint, str) else self.endpoint or []
        return list(dict.fromkeys(url.rstrip("/") for url in urls))

    def name(self) -> str:
        """The name that requests carry: the one set, the Hub id, or `teacher`."""
        if self.served_model_name is not None:
            return self.served_model_name
        return self.model.split("@")[0] if isinstance(self.model, str) and "://" not in self.model else "teacher"


class AugmentSettings(StageSettings):
    """A teacher rewrites the last answer of a sample of rows with its reasoning: one request a row."""

    CONTRACT: ClassVar[int] = 1
    OUTPUTS: ClassVar[dict[str, OutputType]] = {"rows": "rows", "rejects": "rejects"}

    kind: Literal["augment"] = "augment"
    source: RowsReference = Field(description="The prepared rows.")
    teacher: TeacherSettings
    sample_ratio: float = Field(
        default=0.05, gt=0, le=1, description="Share of the rows that is sent; 0.05 for a trial."
    )
    singleturn_ratio: float | None = Field(
        default=0.7, ge=0, le=1, description="Share of single-turn rows in the whole sample; null: as they come."
    )
    seed: int = Field(default=42, description="Seed of the sample. A larger ratio contains a smaller one's rows.")
    prompt: str = Field(
        default=DEFAULT_PROMPT, description="What the teacher is asked; {question} and {answer} are the row's."
    )
    system_prompt: str | None = Field(default=None, description="Replaces the row's own system turn for the teacher.")
    sampling: SamplingSettings = SamplingSettings()
    keep_only_matching_answers: bool = Field(
        default=False, description="Keep a row only when the teacher's final answer equals the known one."
    )
    unnumbered: Literal["number", "reject"] = Field(
        default="number",
        description="Reasoning without steps: its paragraphs become `1단계:`, `2단계:`, or it is rejected.",
    )
    unit_rows: int = Field(default=1024, ge=1, description="Rows that are committed together.")
    compression: Literal["zstd", "gzip", "none"] = "zstd"
    stop_if: Annotated[StopRule | None, operational] = Field(
        default=None, description="When the stage ends at once because of what the teacher says; null: never."
    )
    client: Annotated[ClientSettings, operational] = Field(
        default=ClientSettings(), description="Concurrency, retries, waits."
    )
    flush_rows: Annotated[int, operational] = Field(
        default=64, ge=1, description="Answers that are stored together at most."
    )
    flush_seconds: Annotated[float, operational] = Field(
        default=10, gt=0, description="Longest wait before answers are stored."
    )
    takeover_seconds: Annotated[float, operational] = Field(
        default=120,
        gt=0,
        description="How long another worker's progress stands still before its units are taken over.",
    )

    @model_validator(mode="after")
    def _room_for_a_prompt(self) -> Self:
        length = self.teacher.engine.max_model_len
        if length is not None and self.sampling.max_tokens >= length:
            raise ValueError(
                f"sampling.max_tokens {self.sampling.max_tokens} leaves no room for a prompt in "
                f"teacher.engine.max_model_len {length}; lower the first or raise the second"
            )
        return self

    @field_validator("prompt")
    @classmethod
    def _known_placeholders(cls, value: str) -> str:
        found = set(re.findall(r"\{([A-Za-z_]+)\}", value))
        if "question" not in found:
            raise ValueError("the prompt has no {question}: the teacher would not see what it answers")
        unknown = sorted(found - set(PLACEHOLDERS))
        if unknown:
            raise ValueError(f"the prompt has an unknown field {{{unknown[0]}}}; valid: {{question}}, {{answer}}")
        return value


class CheckSettings(Closed):
    """What one row must meet; a row that does not goes to rejects with the first reason. null switches a check off."""

    thinking: bool = Field(default=True, description="`<think>` opens the answer once and is closed once.")
    chinese: ChineseRule | None = Field(default=ChineseRule(), description="When a text counts as Chinese.")
    min_steps: int = Field(
        default=1, ge=0, description="Fewest `1단계:`, `2단계:` marks, numbered from 1 without a gap."
    )
    min_answer_characters: int = Field(default=1, ge=0, description="Shortest answer after the tags.")
    max_answer_characters: int | None = Field(default=8000, ge=1, description="Longest answer after the tags.")
    min_reasoning_characters: int = Field(default=10, ge=0, description="Shortest reasoning.")
    max_reasoning_characters: int | None = Field(default=24000, ge=1, description="Longest reasoning.")
    final_answer: bool = Field(default=True, description="A final answer can be read after the tags.")
    max_repeats: int | None = Field(
        default=8, ge=2, description="Times that one passage may stand in a row before it is a loop."
    )
    truncation: bool = Field(default=True, description="Refuse reasoning or answers that break off in mid-sentence.")
    min_hangul_share: float | None = Field(
        default=0.3, ge=0, le=1, description="Least share of Hangul among the letters of the answer and its reasoning."
    )


class ValidateSettings(StageSettings):
    """Checks of reasoning rows. The output is the validated set; the limits are a gate over the measurements."""

    CONTRACT: ClassVar[int] = 1
    OUTPUTS: ClassVar[dict[str, OutputType]] = {"rows": "rows", "rejects": "rejects"}

    kind: Literal["validate"] = "validate"
    source: RowsReference = Field(description="Augmented rows: a stage, an input, a file or a folder.")
    checks: CheckSettings = CheckSettings()
    compression: Literal["zstd", "gzip", "none"] = "zstd"
    limits: Annotated[Limits, operational] = Field(
        default=Limits(), description="What the whole set must meet, else exit 3."
    )
    num_samples: Annotated[int, operational] = Field(default=20, ge=0, description="Rows that are shown.")
    show_full: Annotated[bool, operational] = Field(default=False, description="Show rows whole, not their beginnings.")

    def refusals(self, measurements: dict[str, Any]) -> list[str]:
        """Which limits the measurements miss, a sentence each with the numbers."""
        return refusals(self.limits, measurements)
