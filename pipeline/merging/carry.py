"""What a merged model needs beside its weights: config, tokenizer, processor, chat template, remote code.

Rule: all from the base, and where the adapter's folder has its own tokenizer or chat template, all of that from the
adapter, so that no half of one is mixed with a half of the other.
"""

import shutil
from pathlib import Path

from pipeline.merging.checkpoint import INDEX_NAME, read_json, write_json
from pipeline.merging.plan import MergePlan

TOKENIZER_FILES = (
    "added_tokens.json", "merges.txt", "sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
OTHER_FILES = (
    "generation_config.json", "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "LICENSE", "LICENSE.txt", "NOTICE",
)  # fmt: skip


def carry_along(base: Path, adapter: Path, plan: MergePlan, out: Path) -> None:
    """Write every file but the weights into `out`: what comes along, config.json, and the index of several files."""
    chosen = {
        name: base / name for name in (*OTHER_FILES, *TOKENIZER_FILES, *TEMPLATE_FILES) if (base / name).is_file()
    }
    chosen |= {file.name: file for file in base.glob("*.py")}
    own_tokenizer = [name for name in TOKENIZER_FILES if (adapter / name).is_file()]
    own_template = [name for name in TEMPLATE_FILES if (adapter / name).is_file()]
    inline = "tokenizer_config.json" in own_tokenizer and "chat_template" in read_json(
        adapter / "tokenizer_config.json", "a tokenizer has one"
    )
    if "tokenizer_config.json" in own_tokenizer:
        chosen = {name: path for name, path in chosen.items() if name not in TOKENIZER_FILES}
    if own_template or inline:
        chosen = {name: path for name, path in chosen.items() if name not in TEMPLATE_FILES}
    own_others = [name for name in OTHER_FILES[:4] if (adapter / name).is_file()]
    chosen |= {name: adapter / name for name in (*own_tokenizer, *own_template, *own_others)}
    for name, source in chosen.items():
        shutil.copyfile(source, out / name)
    if own_template and "tokenizer_config.json" in chosen:
        drop_inline_template(out / "tokenizer_config.json")
    write_json(out / "config.json", plan.config)
    if len(plan.files) > 1:
        total = sum(file.bytes for file in plan.files)
        weight_map = {tensor.name: file.name for file in plan.files for tensor in file.tensors}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(out / INDEX_NAME, index)


def drop_inline_template(path: Path) -> None:
    """The template file decides: an older one inside tokenizer_config.json would confuse readers that prefer it."""
    content = read_json(path, "a tokenizer has one")
    if content.pop("chat_template", None) is not None:
        write_json(path, content)
