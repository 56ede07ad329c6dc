"""The masking rule, token by token, for each template: which characters of a conversation carry loss."""

import pytest

from pipeline.errors import UserError
from pipeline.training.masks import IGNORED, NOTHING_TO_TRAIN, ChatEncoder, Encoded, end_of_turn_token
from pipeline.training.templates import thinking_template
from tests.training.checkpoints import TEMPLATES, tokenizer

SYSTEM = {"role": "system", "content": "당신은 로봇입니다."}
ASK = {"role": "user", "content": "3x + 5 = 14?"}
PLAIN = {"role": "assistant", "content": "답은 3입니다."}
REASONED = {"role": "assistant", "content": "<think>\n1단계: 옮긴다\n2단계: 나눈다\n</think>\n\n답은 3입니다."}
MORE = {"role": "user", "content": "고마워요"}
BYE = {"role": "assistant", "content": "천만에요."}

REASONING = "1단계: 옮긴다\n2단계: 나눈다\n</think>\n\n답은 3입니다."
EOT = "<|im_end|>"

# template, conversation, the texts that carry loss in order
CASES = [
    # Qwen3: thinking on opens nothing, so the model writes the tag itself; off gives the empty block in the prompt.
    ("qwen3", [SYSTEM, ASK, PLAIN], [f"답은 3입니다.{EOT}"]),
    ("qwen3", [ASK, REASONED], [f"<think>\n{REASONING}{EOT}"]),
    # Earlier answers stand there without the empty block that inference would have put before them.
    ("qwen3", [ASK, PLAIN, MORE, BYE], [f"천만에요.{EOT}"]),
    # The earlier reasoning is dropped: what is left is not what the model would say with thinking on.
    ("qwen3", [ASK, REASONED, MORE, BYE], [f"천만에요.{EOT}"]),
    ("qwen3", [ASK, PLAIN, MORE, REASONED], [f"<think>\n{REASONING}{EOT}"]),
    # Without the switch every answer's prompt is what inference sends, reasoning is ordinary text.
    ("qwen25", [SYSTEM, ASK, PLAIN], [f"답은 3입니다.{EOT}"]),
    ("qwen25", [ASK, PLAIN, MORE, BYE], [f"답은 3입니다.{EOT}", f"천만에요.{EOT}"]),
    ("qwen25", [ASK, REASONED, MORE, BYE], [f"<think>\n{REASONING}{EOT}", f"천만에요.{EOT}"]),
    ("qwen3vl", [SYSTEM, ASK, PLAIN, MORE, BYE], [f"답은 3입니다.{EOT}", f"천만에요.{EOT}"]),
    ("smollm2", [ASK, PLAIN, MORE, BYE], [f"답은 3입니다.{EOT}", f"천만에요.{EOT}"]),
    ("llama3", [SYSTEM, ASK, PLAIN, MORE, BYE], ["답은 3입니다.<|eot_id|>", "천만에요.<|eot_id|>"]),
    # EXAONE 4 opens the tag in the prompt and keeps empty blocks before earlier answers.
    ("exaone4", [SYSTEM, ASK, PLAIN], ["답은 3입니다.[|endofturn|]"]),
    ("exaone4", [ASK, REASONED], [f"{REASONING}[|endofturn|]"]),
    ("exaone4", [ASK, PLAIN, MORE, BYE], ["답은 3입니다.[|endofturn|]", "천만에요.[|endofturn|]"]),
    ("exaone4", [ASK, REASONED, MORE, BYE], ["천만에요.[|endofturn|]"]),
    # Ours: on opens the tag in the prompt, off gives the empty block, earlier answers stand bare.
    ("thinking", [SYSTEM, ASK, PLAIN], [f"답은 3입니다.{EOT}"]),
    ("thinking", [ASK, REASONED], [f"{REASONING}{EOT}"]),
    ("thinking", [ASK, PLAIN, MORE, BYE], [f"천만에요.{EOT}"]),
    ("thinking", [ASK, REASONED, MORE, BYE], [f"천만에요.{EOT}"]),
    ("thinking", [ASK, PLAIN, MORE, REASONED], [f"{REASONING}{EOT}"]),
]


def encoder_of(template: str) -> ChatEncoder:
    if template != "thinking":
        return ChatEncoder(tokenizer(template))
    made = tokenizer("qwen3vl")
    made.chat_template = thinking_template((TEMPLATES / "qwen3vl.jinja").read_text(encoding="utf-8"))
    return ChatEncoder(made)


def trained_texts(encoder: ChatEncoder, encoded: Encoded) -> list[str]:
    """The decoded runs of tokens that carry loss."""
    runs: list[list[int]] = []
    previous = IGNORED
    for label in encoded.labels:
        if label != IGNORED:
            if previous == IGNORED:
                runs.append([])
            runs[-1].append(label)
        previous = label
    return [encoder.backend.decode(run, skip_special_tokens=False) for run in runs]


@pytest.mark.parametrize(("template", "messages", "expected"), CASES)
def test_loss_falls_on_exactly_these_tokens(template: str, messages: list[dict[str, str]], expected: list[str]) -> None:
    encoder = encoder_of(template)
    (encoded,) = encoder.encode([messages])
    assert isinstance(encoded, Encoded)
    assert trained_texts(encoder, encoded) == expected
    assert len(encoded.labels) == len(encoded.input_ids)
    assert all(label in (IGNORED, token) for token, label in zip(encoded.input_ids, encoded.labels, strict=True))
    said = encoder.backend.decode(encoded.input_ids, skip_special_tokens=False)
    assert said == encoder.render(messages, False, False)


@pytest.mark.parametrize("template", ["qwen3", "qwen25", "qwen3vl", "smollm2", "llama3", "exaone4", "thinking"])
@pytest.mark.parametrize("answer", [PLAIN, REASONED])
def test_tokens_before_the_answer_are_the_prompt_of_inference(template: str, answer: dict[str, str]) -> None:
    encoder = encoder_of(template)
    (encoded,) = encoder.encode([[SYSTEM, ASK, answer]])
    assert isinstance(encoded, Encoded)
    prompt = encoder.render([SYSTEM, ASK], True, answer is REASONED)
    ids = encoder.backend.encode(prompt, add_special_tokens=False).ids
    assert encoded.input_ids[: len(ids)] == ids
    assert encoded.labels[: len(ids)] == [IGNORED] * len(ids)
    assert encoded.labels[len(ids)] == encoded.input_ids[len(ids)]


@pytest.mark.parametrize(
    ("template", "token"), [("qwen3", EOT), ("llama3", "<|eot_id|>"), ("exaone4", "[|endofturn|]"), ("smollm2", EOT)]
)
def test_the_end_of_turn_token_comes_from_the_template(template: str, token: str) -> None:
    assert end_of_turn_token(tokenizer(template)) == token


def test_a_template_without_an_end_of_turn_token_is_refused() -> None:
    made = tokenizer("qwen3")
    made.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(UserError, match="end-of-turn"):
        ChatEncoder(made)


def test_a_row_without_an_answer_trains_nothing() -> None:
    assert encoder_of("qwen3").encode([[SYSTEM, ASK]]) == [NOTHING_TO_TRAIN]


def test_reasoning_that_never_closes_trains_nothing() -> None:
    open_ended = {"role": "assistant", "content": "<think>\n1단계: 옮긴다"}
    assert encoder_of("qwen3").encode([[ASK, open_ended]]) == [NOTHING_TO_TRAIN]


def test_a_token_over_the_boundary_is_cut_there() -> None:
    """ "\\n\\n" is one token of this tokenizer, and "assistant\\n" + "\\n답" would put half of it into the prompt."""
    encoder = encoder_of("qwen25")
    joined = encoder.backend.encode("\n\n", add_special_tokens=False).ids
    assert len(joined) == 1
    (encoded,) = encoder.encode([[ASK, {"role": "assistant", "content": "\n답"}]])
    assert isinstance(encoded, Encoded)
    assert trained_texts(encoder, encoded) == [f"\n답{EOT}"]
    prompt = encoder.backend.encode(encoder.render([ASK], True, False), add_special_tokens=False).ids
    assert encoded.input_ids[: len(prompt)] == prompt


def test_decomposed_hangul_keeps_its_boundaries() -> None:
    """The tokenizer composes NFD text (macOS); character offsets still refer to the row's own text."""
    import unicodedata

    answer = unicodedata.normalize("NFD", "멈추고 돌아갑니다.")
    encoder = encoder_of("qwen25")
    (encoded,) = encoder.encode([[ASK, {"role": "assistant", "content": answer}]])
    assert isinstance(encoded, Encoded)
    assert trained_texts(encoder, encoded) == [f"멈추고 돌아갑니다.{EOT}"]


@pytest.mark.parametrize("cores", ["true", "false"])
def test_a_batch_gives_the_tokens_of_each_row_alone(cores: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of("thinking")
    conversations = [
        [SYSTEM, {"role": "user", "content": f"{number} 더하기 {number % 7}?"}, *turns]
        for number in range(60)
        for turns in ([PLAIN], [REASONED], [PLAIN, MORE, BYE], [PLAIN, MORE, REASONED], [])
    ]
    alone = [encoder.encode([messages])[0] for messages in conversations]
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", cores)
    assert encoder.encode(conversations) == alone
    for messages, encoded in zip(conversations, alone, strict=True):
        if isinstance(encoded, Encoded):
            trained = [label for label in encoded.labels if label != IGNORED]
            assert encoded.trained == len(trained)
            said = encoder.backend.decode(trained, skip_special_tokens=False)
            assert said == "".join(trained_texts(encoder, encoded)) and said.endswith(EOT)
        else:
            assert encoded == NOTHING_TO_TRAIN and messages[-1]["role"] == "user"
