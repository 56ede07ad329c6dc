"""How many tokens a student's tokenizer makes of texts, from the files of its base model; no torch, no transformers."""

from collections.abc import Callable
from typing import Any

import orjson

from pipeline.reporting.base_model import root_file, root_of
from pipeline.store.objects import Store
from pipeline.store.runs import RunLock

BATCH = 64

TokenCounter = Callable[[list[str]], list[int]]


def token_counter(store: Store, lock: RunLock, base: Any) -> TokenCounter | None:
    """A function from texts to their numbers of tokens by the tokenizer of a training's base; None without its
    tokenizer.json.

    Counts the texts alone, without the marks that the chat template adds (a few for each turn).
    """
    from tokenizers import Tokenizer

    content = root_file(store, lock, root_of(lock, base), "tokenizer.json")
    if content is None:
        return None
    whole = {**orjson.loads(content), "truncation": None, "padding": None}
    tokenizer = Tokenizer.from_str(orjson.dumps(whole).decode())

    def count(texts: list[str]) -> list[int]:
        batches = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
        return [
            len(found) for batch in batches for found in tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        ]

    return count
