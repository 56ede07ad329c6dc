"""Answers by transformers: greedy or seeded, left-padded batches of like lengths, each ended at the end of turn.

On a CPU with a fixed number of threads the same settings give the same answers. Memory is bounded by one batch.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.recipe.profiles import Execution
from pipeline.scoring.asked import Asked
from pipeline.scoring.metrics import Reply, tagged
from pipeline.scoring.settings import EvaluateSettings
from pipeline.text.thinking import CLOSE_TAG, OPEN_TAG
from pipeline.training.architecture import read_architecture
from pipeline.training.hardware import DTYPES, choose_attention
from pipeline.training.masks import end_of_turn_token

LOG = logging.getLogger(__name__)


class Generator:
    """A checkpoint in memory that answers; one per process."""

    def __init__(self, folder: Path, settings: EvaluateSettings, execution: Execution) -> None:
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

        self._settings = settings
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left", local_files_only=True)
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        loader = AutoModelForImageTextToText if read_architecture(folder).vision else AutoModelForCausalLM
        self._device = "cuda" if execution.device == "cuda" else "cpu"
        if self._device == "cpu":
            torch.set_num_threads(execution.threads)
        self._model: Any = loader.from_pretrained(
            folder,
            dtype=DTYPES[execution.precision],
            attn_implementation=choose_attention(execution.attention, execution.precision, training=False),
            device_map={"": self._device},
            local_files_only=True,
        ).eval()
        self._ends = self._end_tokens()

    def answers(
        self, asked: Sequence[Asked], thinking: bool, seed: int, check: Callable[[], None] = lambda: None
    ) -> list[Reply]:
        """One reply for each item, in order. `check` runs before each batch and may raise to stop."""
        prompts = [self._rendered(item, thinking) for item in asked]
        encoded = [self._tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        by_length = sorted(range(len(asked)), key=lambda position: (-len(encoded[position]), position))
        replies: dict[int, Reply] = {}
        size = self._settings.batch_size
        for start in range(0, len(by_length), size):
            check()
            batch = by_length[start : start + size]
            torch.manual_seed(seed + start)
            for position, (text, count, ended) in zip(batch, self._batch([encoded[p] for p in batch]), strict=True):
                opened = prompts[position].rstrip().endswith(OPEN_TAG)
                text = tagged(text, None, thinking, opened)
                replies[position] = Reply(text, "stop" if ended else "length", count)
        return [replies[position] for position in range(len(asked))]

    def _rendered(self, asked: Asked, thinking: bool) -> str:
        text = self._tokenizer.apply_chat_template(
            asked.messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
        return str(text)

    def _batch(self, encoded: list[list[int]]) -> list[tuple[str, int, bool]]:
        """Text, generated tokens and whether it ended by itself, for each prompt of one batch."""
        width = max(map(len, encoded))
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(one)) + one for one in encoded], device=self._device)
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in encoded], device=self._device)
        with torch.inference_mode():
            out = self._model.generate(input_ids=ids, attention_mask=mask, **self._sampling())
        found = []
        for row in out[:, width:].tolist():
            end = next((place for place, token in enumerate(row) if token in self._ends), None)
            kept = row if end is None else row[:end]
            found.append((self._text(kept), len(kept), end is not None))
        return found

    def _text(self, tokens: list[int]) -> str:
        """The text without special tokens, as vLLM gives it; think tags stay where a tokenizer calls them special."""
        text = str(self._tokenizer.decode(tokens, skip_special_tokens=False))
        for token in self._tokenizer.all_special_tokens:
            if token not in (OPEN_TAG, CLOSE_TAG):
                text = text.replace(token, "")
        return text

    def _sampling(self) -> dict[str, Any]:
        settings = self._settings
        values: dict[str, Any] = {
            "max_new_tokens": settings.max_new_tokens,
            "do_sample": settings.temperature > 0,
            "pad_token_id": self._tokenizer.pad_token_id,
            "eos_token_id": sorted(self._ends),
        }
        if settings.temperature > 0:
            return {**values, "temperature": settings.temperature, "top_p": settings.top_p}
        return {**values, "temperature": None, "top_p": None, "top_k": None}

    def _end_tokens(self) -> set[int]:
        """Every token that ends an answer: the generation config's, the tokenizer's, the template's end of turn."""
        configured = self._model.generation_config.eos_token_id
        ends = set(configured if isinstance(configured, list) else [configured])
        ends |= {
            self._tokenizer.eos_token_id,
            self._tokenizer.convert_tokens_to_ids(end_of_turn_token(self._tokenizer)),
        }
        return {int(token) for token in ends if token is not None}
