"""What a recipe says about a `prepare` stage."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.recipe.fields import Closed, OutputType, StageSettings, operational
from pipeline.recipe.references import RowsReference, is_hub_id
from pipeline.text.chinese import ChineseRule


class Sources(Closed):
    """Which sources take part. A row's source is its `source` field, else its file's name without endings.

    Example: {exclude: [orca_math_ko_data], cap: {won_instruct_data: 50000}}
    """

    include: list[str] | None = Field(default=None, min_length=1, description="Only these sources; null for all.")
    exclude: list[str] = Field(default=[], description="Sources whose rows are rejected as source_excluded.")
    cap: dict[str, Annotated[int, Field(ge=1)]] = Field(default={}, description="Most rows that a source offers.")

    @model_validator(mode="after")
    def _no_contradiction(self) -> "Sources":
        both = sorted(set(self.include or []) & set(self.exclude))
        if both:
            raise ValueError(f"sources both included and excluded: {', '.join(both)}; name each once")
        return self


class SystemPrompt(Closed):
    """keep: rows stay as they are; add: rows without a system turn get `text`; replace: every row gets `text`."""

    mode: Literal["keep", "add", "replace"] = "add"
    text: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _text_fits_mode(self) -> "SystemPrompt":
        if self.mode == "keep" and self.text is not None:
            raise ValueError("system_prompt.text has no effect with mode keep; leave it out, or use add or replace")
        if self.mode != "keep" and (self.text is None or not self.text.strip()):
            raise ValueError(f"system_prompt.mode {self.mode!r} needs system_prompt.text")
        return self


class Heldout(Closed):
    """A split that training never sees, chosen by a hash of the prompt: give `rows` or `fraction`."""

    rows: int | None = Field(default=None, ge=1, description="Exactly so many rows.")
    fraction: float | None = Field(default=None, gt=0, lt=1, description="About this share of all prompts.")

    @model_validator(mode="after")
    def _one_of_both(self) -> "Heldout":
        if (self.rows is None) == (self.fraction is None):
            raise ValueError("heldout takes either rows or fraction")
        return self


class Columns(Closed):
    """Where a row keeps what: `messages` in ChatML, or question and answer columns named by `user` and `assistant`.

    Example: {user: question, assistant: answer, source: dataset}
    """

    messages: str = "messages"
    source: str = "source"
    user: str | None = None
    assistant: str | None = None
    system: str | None = None

    @model_validator(mode="after")
    def _question_and_answer(self) -> "Columns":
        if (self.user is None) != (self.assistant is None):
            raise ValueError("columns.user and columns.assistant go together")
        if self.user is None and self.system is not None:
            raise ValueError("columns.system has no effect without columns.user and columns.assistant")
        if self.user is not None and self.messages != "messages":
            raise ValueError("columns.messages has no effect beside columns.user and columns.assistant")
        return self


class OverlapNgrams(Closed):
    """Which n-grams shared with a prompt of exclude_overlap_with are too many: give `share` or `count`.

    An n-gram is `n` Hangul syllables, or words of other scripts. `share: 0.5` is Tulu 3's measure, `count: 1` GPT-3's.
    """

    n: int = Field(default=13, ge=2, le=100, description="Units of an n-gram; a shorter turn is compared whole.")
    share: float | None = Field(default=None, gt=0, le=1, description="This part of the prompt's distinct n-grams.")
    count: int | None = Field(default=None, ge=1, description="So many of them, or all that a shorter prompt has.")

    @model_validator(mode="after")
    def _one_of_both(self) -> "OverlapNgrams":
        if (self.share is None) == (self.count is None):
            raise ValueError("overlap_ngrams takes either share or count")
        return self


class NearDuplicates(Closed):
    """Of rows whose sets of n-grams are alike the first is kept: likeness is Jaccard's, estimated by MinHash."""

    threshold: float = Field(default=0.8, ge=0.5, le=1, description="Rows at least so alike are near-duplicates.")
    n: int = Field(default=5, ge=1, le=100, description="Units of an n-gram: Hangul syllables, or words of others.")


class PrepareSettings(StageSettings):
    """Raw rows checked, filtered, deduplicated, split and sampled. Output rows are ordered by file name and line."""

    CONTRACT: ClassVar[int] = 1
    OUTPUTS: ClassVar[dict[str, OutputType]] = {"rows": "rows", "rejects": "rejects", "heldout": "heldout"}

    kind: Literal["prepare"] = "prepare"
    source: RowsReference | list[RowsReference] = Field(
        description="Files (.jsonl, .jsonl.gz, .jsonl.zst, .parquet), an input, or another stage's rows; or several."
    )
    columns: Columns = Columns()
    sources: Sources = Sources()
    target_samples: int | None = Field(default=None, ge=1, description="Exactly so many rows; null for all that pass.")
    seed: int = 42
    system_prompt: SystemPrompt = SystemPrompt(mode="keep")
    chinese: ChineseRule | None = Field(default=ChineseRule(), description="null keeps Chinese rows.")
    duplicates: Literal["exact", "none"] = Field(
        default="exact", description="exact: of rows with the same turns (system turn aside) the first is kept."
    )
    heldout: Heldout | None = None
    exclude_overlap_with: list[RowsReference] = Field(
        default=[], description="Rows that hold a prompt of these sets (NFKC, one spacing) are rejected."
    )
    overlap_ngrams: OverlapNgrams | None = Field(
        default=None, description="Rows that share n-grams with prompts of exclude_overlap_with are rejected too."
    )
    near_duplicates: NearDuplicates | None = Field(
        default=None, description="Rows that are nearly the same text as an earlier one are rejected; null keeps them."
    )
    max_row_bytes: int = Field(default=4_194_304, ge=64, le=1 << 30, description="A longer line is rejected unread.")
    max_chars: int | None = Field(default=None, ge=1, description="Longest row, in characters of all its turns.")
    shard_rows: int = Field(default=10_000, ge=1, description="Rows in one output file.")
    compression: Literal["zstd", "gzip", "none"] = "zstd"
    workers: Annotated[int | None, operational] = Field(
        default=None, ge=1, description="Local processes; null for one per core. Changes no result."
    )

    @model_validator(mode="after")
    def _paths_are_no_hub_ids(self) -> "PrepareSettings":
        for reference in [*self.references(), *self.exclude_overlap_with]:
            if is_hub_id(reference):
                raise ValueError(
                    f"{reference!r} reads like a Hub id. Mirror a data set with `hanforge fetch --dataset`, then give "
                    f"its URL under inputs; a local folder is written ./{reference}"
                )
        return self

    @model_validator(mode="after")
    def _some_source(self) -> "PrepareSettings":
        if isinstance(self.source, list) and not self.source:
            raise ValueError("source is empty; name at least one input or stage")
        return self

    @model_validator(mode="after")
    def _some_set_to_compare_with(self) -> "PrepareSettings":
        if self.overlap_ngrams is not None and not self.exclude_overlap_with:
            raise ValueError("overlap_ngrams has no effect without exclude_overlap_with")
        return self

    def references(self) -> list[RowsReference]:
        """What is read, in the order of the recipe."""
        return list(self.source) if isinstance(self.source, list) else [self.source]
