"""The small files of a merged model: the base's, save where the adapter brings its own."""

import json
from pathlib import Path

from transformers import AutoTokenizer

from pipeline.merging.merge import merge_checkpoint
from tests.engine.tiny import tiny_qwen3
from tests.merging.checkpoints import adapt


def test_the_bases_files_come_along(tmp_path: Path) -> None:
    base = tiny_qwen3(tmp_path / "base")
    for name in ("preprocessor_config.json", "modeling_own.py", "README.md", "LICENSE", "training_args.bin"):
        (base / name).write_text("{}")
    adapter = adapt(base, tmp_path / "adapter", target_modules=["q_proj"])
    (adapter / "README.md").write_text("an adapter's card")
    merge_checkpoint(base, adapter, tmp_path / "merged")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"} <= names
    assert {"preprocessor_config.json", "modeling_own.py", "LICENSE", "config.json", "model.safetensors"} <= names
    assert not names & {"README.md", "training_args.bin", "adapter_config.json", "adapter_model.safetensors"}


def test_the_adapters_tokenizer_and_template_win(tmp_path: Path) -> None:
    base = tiny_qwen3(tmp_path / "base")
    (base / "vocab.json").write_text("{}")
    adapter = adapt(base, tmp_path / "adapter", target_modules=["q_proj"])
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<robot>"])
    tokenizer.chat_template = "{{ messages[0].content }}<think>"
    tokenizer.save_pretrained(adapter)
    merge_checkpoint(base, adapter, tmp_path / "merged")
    merged = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert merged.chat_template == tokenizer.chat_template
    assert len(merged.encode("<robot>")) == 1
    assert not (tmp_path / "merged" / "vocab.json").exists()


def test_a_template_inside_the_adapters_tokenizer_config_wins_over_the_bases_file(tmp_path: Path) -> None:
    base = tiny_qwen3(tmp_path / "base")
    adapter = adapt(base, tmp_path / "adapter", target_modules=["q_proj"])
    config = json.loads((base / "tokenizer_config.json").read_text())
    (adapter / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "own"}))
    (adapter / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    merge_checkpoint(base, adapter, tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == "own"


def test_a_template_file_of_the_adapter_alone_replaces_an_inline_one_of_the_base(tmp_path: Path) -> None:
    base = tiny_qwen3(tmp_path / "base")
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "chat_template.jinja").unlink()
    (base / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "old"}))
    adapter = adapt(base, tmp_path / "adapter", target_modules=["q_proj"])
    (adapter / "chat_template.jinja").write_text("new")
    merge_checkpoint(base, adapter, tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == "new"
    assert "chat_template" not in json.loads((tmp_path / "merged" / "tokenizer_config.json").read_text())
