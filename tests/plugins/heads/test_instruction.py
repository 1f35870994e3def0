from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from hft_core.backbone import Features
from hft_core.data import loading
from hft_core.data.examples import encode
from hft_core.errors import DataError, PluginError
from hft_core.head import Draw
from hft_core.runs import assembly
from hft_plugins.backbones import decoder, seq2seq
from hft_plugins.backbones.options import DecoderOptions, Seq2SeqOptions
from hft_plugins.heads import seq2seq as seq2seq_head
from hft_plugins.heads.instruction import Instruction, Options, build
from hft_plugins.heads.parts.end_tokens import CUT

TEMPLATE = (
    "{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)
MARKED = (
    "{% for m in messages %}[{{ m.role[0] }}]"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\n{% endgeneration %}"
    "{% else %}{{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}[{{ m.role[0] }}]{% if loop.last %}(new){% endif %}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}"
)
TALK = [
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": "the dog"},
    {"role": "user", "content": "the whale"},
    {"role": "assistant", "content": "the sparrow"},
]
PAIRS = {
    "prompt": ["the cat saw the dog", "the whale again", "the horse"],
    "response": ["the bank", "the market described the trader on friday", "the referee"],
}


def opened(models: Any, name: str = "llama", template: str | None = None) -> Any:
    if name in ("t5", "bart"):
        backbone: Any = seq2seq.build(Seq2SeqOptions(model=str(models[name])))
    else:
        backbone = decoder.build(DecoderOptions(model=str(models[name])))
    backbone.trunk.eval()
    backbone.tokenizer.chat_template = template
    return backbone


def head_on(backbone: Any, **options: Any) -> Instruction:
    head = build(Options(**options), task="t")
    head.attach(backbone)
    return head.eval()


def learned(encoded: Any, backbone: Any, i: int = 0) -> str:
    """The text of the tokens that example `i` learns."""
    labels = encoded.targets["labels"][i]
    assert labels == [
        -100 if label == -100 else token for label, token in zip(labels, [*encoded.sequences[i][1:], None], strict=True)
    ]
    return str(backbone.tokenizer.decode([label for label in labels if label != -100]))


def loss_of(head: Instruction, backbone: Any, rows: dict[str, list[Any]]) -> tuple[Any, torch.Tensor]:
    """Inputs with transformers' labels, and the mean loss."""
    encoded = head.encode(rows, backbone.tokenizer, 64)
    sequences, targets = head.collate(encoded.sequences, encoded.targets, range(len(encoded.sequences)), Draw(0, 0))
    inputs = backbone.tokenizer.pad({"input_ids": sequences}, return_tensors="pt", padding_side="right")
    labels = torch.full_like(inputs["input_ids"], -100)
    for i, found in enumerate(encoded.targets["labels"]):
        for p, label in enumerate(found[:-1]):
            labels[i, p + 1] = label
    with torch.no_grad():
        features = Features(backbone.forward(dict(inputs)), inputs["input_ids"], inputs["attention_mask"])
        loss = head.loss(features, targets) / targets.count
    assert targets.count == int((labels != -100).sum())
    return {**inputs, "labels": labels}, loss


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_equals_the_causal_lm_with_labels_on_the_response_alone(name: str, models: Any) -> None:
    backbone = opened(models, name)
    inputs, loss = loss_of(head_on(backbone), backbone, PAIRS)
    plain = AutoModelForCausalLM.from_pretrained(models[name], dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(loss, plain(**inputs).loss, atol=1e-5, rtol=0)


@pytest.mark.parametrize("template", [TEMPLATE, MARKED], ids=["plain", "marked"])
def test_equals_the_causal_lm_with_labels_on_the_assistants_turns(template: str, models: Any) -> None:
    backbone = opened(models, "gpt2", template)
    inputs, loss = loss_of(head_on(backbone, messages="talk"), backbone, {"talk": [TALK, TALK[:2]]})
    whole = backbone.tokenizer.apply_chat_template(TALK, return_dict=True)["input_ids"]
    assert inputs["input_ids"][0].tolist() == whole
    plain = AutoModelForCausalLM.from_pretrained(models["gpt2"], dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(loss, plain(**inputs).loss, atol=1e-5, rtol=0)


def test_equals_the_seq2seq_head_on_an_encoder_decoder(models: Any) -> None:
    backbone = opened(models, "t5")
    plain = seq2seq_head.build(seq2seq_head.Options(), task="t")
    plain.attach(backbone)
    rows = {"source": PAIRS["prompt"], "target": PAIRS["response"]}
    ours, theirs = head_on(backbone).encode(PAIRS, backbone.tokenizer, 64), plain.encode(rows, backbone.tokenizer, 64)
    assert ours == theirs


def test_a_response_is_learned_with_its_end_and_the_prompt_is_not(models: Any) -> None:
    backbone = opened(models)
    encoded = head_on(backbone).encode(PAIRS, backbone.tokenizer, 64)
    assert [learned(encoded, backbone, i) for i in range(3)] == [f"{text}</s>" for text in PAIRS["response"]]
    for i, prompt in enumerate(PAIRS["prompt"]):
        assert backbone.tokenizer.decode(encoded.sequences[i][: encoded.targets["prompt"][i]]) == f"{prompt}\n"
    assert encoded.targets["reference"] == PAIRS["response"]


@pytest.mark.parametrize("template", [TEMPLATE, MARKED], ids=["plain", "marked"])
def test_of_a_conversation_every_turn_of_the_assistant_is_learned(template: str, models: Any) -> None:
    backbone = opened(models, "llama", template)
    encoded = head_on(backbone, messages="talk").encode({"talk": [TALK]}, backbone.tokenizer, 64)
    assert learned(encoded, backbone) == "the dog\nthe sparrow\n"
    prompt = backbone.tokenizer.decode(encoded.sequences[0][: encoded.targets["prompt"][0]])
    assert prompt == backbone.tokenizer.apply_chat_template(TALK[:3], tokenize=False, add_generation_prompt=True)
    assert encoded.targets["reference"] == ["the sparrow"]


def test_prompt_and_response_can_go_through_the_chat_template(models: Any) -> None:
    backbone = opened(models, "llama", TEMPLATE)
    ours = head_on(backbone, chat=True).encode({"prompt": ["the cat"], "response": ["the dog"]}, backbone.tokenizer, 64)
    theirs = head_on(backbone, messages="talk").encode({"talk": [TALK[:2]]}, backbone.tokenizer, 64)
    assert ours == theirs


def test_an_encoder_decoder_reads_a_conversation_up_to_its_last_turn(models: Any) -> None:
    backbone = opened(models, "t5", TEMPLATE)
    encoded = head_on(backbone, messages="talk").encode({"talk": [TALK]}, backbone.tokenizer, 64)
    decoded = backbone.tokenizer.decode(encoded.sequences[0])
    assert decoded == "[u]the cat\n[a]the dog\n[u]the whale\n[a]</s>"
    assert backbone.tokenizer.decode(encoded.targets["labels"][0]) == "the sparrow</s>"


def test_a_text_that_is_too_long_loses_the_end_of_its_response(models: Any) -> None:
    backbone = opened(models)
    head = head_on(backbone)
    whole, cut = (head.encode(PAIRS, backbone.tokenizer, length) for length in (64, 8))
    assert len(whole.sequences[1]) > 8
    assert cut.sequences[1] == whole.sequences[1][:8]
    assert whole.targets["prompt"] == cut.targets["prompt"]
    assert cut.targets["labels"][1] == [*whole.targets["labels"][1][:7], -100]
    assert whole.notes == {}
    assert cut.notes[1] == CUT


def test_a_conversation_that_is_too_long_ends_with_the_last_turn_that_begins_in_time(models: Any) -> None:
    backbone = opened(models, "llama", TEMPLATE)
    head = head_on(backbone, messages="talk")
    whole = head.encode({"talk": [TALK]}, backbone.tokenizer, 64)
    cut = head.encode({"talk": [TALK]}, backbone.tokenizer, whole.targets["prompt"][0])
    first = head.encode({"talk": [TALK[:2]]}, backbone.tokenizer, 64)
    assert cut == first
    longer = head.encode({"talk": [TALK]}, backbone.tokenizer, whole.targets["prompt"][0] + 1)
    assert learned(longer, backbone) == "the dog\nthe"


def test_rows_to_predict_on_end_where_the_answer_begins(models: Any) -> None:
    backbone = opened(models, "llama", TEMPLATE)
    for options, rows in (
        ({"messages": "talk"}, {"talk": [TALK[:3]]}),
        ({"chat": True}, {"prompt": ["the whale"]}),
        ({"chat": True}, {"prompt": ["the whale"], "response": [None]}),
        ({}, {"prompt": ["the whale"]}),
    ):
        head = head_on(backbone, max_new_tokens=4, **options)
        encoded = head.encode(rows, backbone.tokenizer, 64)
        _, targets = head.collate(encoded.sequences, encoded.targets, [0], Draw(0, 0))
        assert targets.count == 0
        assert encoded.targets["prompt"] == [len(encoded.sequences[0])]
        ids = torch.tensor(encoded.sequences)
        said = head.predict(Features(torch.zeros(1, 1, 1), ids, torch.ones_like(ids)), targets)
        written = backbone.generate({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, max_new_tokens=4)
        assert said == [backbone.tokenizer.decode(written[0], skip_special_tokens=True).strip()]


def test_predictions_do_not_see_the_response(models: Any) -> None:
    backbone = opened(models)
    head = head_on(backbone, max_new_tokens=6, no_repeat_ngram_size=1)
    said = []
    for rows in (PAIRS, {"prompt": PAIRS["prompt"]}):
        encoded = head.encode(rows, backbone.tokenizer, 64)
        sequences, targets = head.collate(encoded.sequences, encoded.targets, range(3), Draw(0, 0))
        inputs = backbone.tokenizer.pad({"input_ids": sequences}, return_tensors="pt", padding_side="right")
        said.append(head.predict(Features(torch.zeros(1), inputs["input_ids"], inputs["attention_mask"]), targets))
    assert said[0] == said[1]
    assert len(said[0]) == 3


# --- what is wrong is said in one line


def refused(head: Instruction, backbone: Any, rows: list[dict[str, Any]], max_length: int = 64) -> str:
    """The message of the `DataError` that stops a run before it trains."""

    def prepare() -> None:
        table = loading.from_python(rows, task="t")
        assembly.check_rows("t", head, table, "train", need_targets=True)
        encode(table, head, backbone.tokenizer, max_length)

    with pytest.raises(DataError) as caught:
        prepare()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("task 't'")
    return message


def test_messages_without_a_chat_template_are_refused(models: Any) -> None:
    for options in ({"messages": "talk"}, {"chat": True}):
        head = build(Options(**options), task="t")
        with pytest.raises(PluginError, match=r"^task 't': the backbone's tokenizer has no chat template[^\n]*$"):
            assembly.attach(opened(models), {"t": head})


def test_an_empty_response_is_refused(models: Any) -> None:
    backbone = opened(models, "llama", TEMPLATE)
    rows = [{"prompt": "the cat", "response": "the dog"}, {"prompt": "the cat", "response": " "}]
    assert "row 2" in refused(head_on(backbone), backbone, rows)
    talk = [TALK[0], {"role": "assistant", "content": ""}]
    assert "message 2" in refused(head_on(backbone, messages="talk"), backbone, [{"talk": talk}])


def test_a_prompt_that_leaves_no_room_for_its_response_is_refused(models: Any) -> None:
    backbone = opened(models, "llama", TEMPLATE)
    pair = {"prompt": "the cat saw the dog", "response": "the bank"}
    message = refused(head_on(backbone), backbone, [pair], max_length=6)
    assert "the cat saw the dog" in message
    assert "6 tokens, expected fewer than max_length (6)" in message
    assert "max_length (5)" in refused(head_on(backbone, messages="talk"), backbone, [{"talk": TALK}], max_length=5)


@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        (TALK[:3], "the last message is of the user, expected the assistant's"),
        (TALK[1:2], "the assistant speaks first"),
        ([{"role": "robot", "content": "hm"}], "role"),
    ],
)
def test_a_conversation_that_teaches_nothing_is_refused(talk: list[dict[str, str]], reason: str, models: Any) -> None:
    backbone = opened(models, "llama", TEMPLATE)
    assert reason in refused(head_on(backbone, messages="talk"), backbone, [{"talk": TALK}, {"talk": talk}])


def test_turns_that_a_template_writes_otherwise_once_others_follow_are_learned_as_they_are_asked_for(
    models: Any,
) -> None:
    backbone = opened(models, "llama", FORGETFUL)
    encoded = head_on(backbone, messages="talk").encode({"talk": [TALK]}, backbone.tokenizer, 64)
    decoded = [backbone.tokenizer.decode(sequence) for sequence in encoded.sequences]
    last = "[u]the cat\n[a]the dog\n[u](new)the whale\n[a](new)the sparrow\n"
    assert decoded == ["[u](new)the cat\n[a](new)the dog\n", last]
    assert [learned(encoded, backbone, i) for i in range(2)] == ["(new)the dog\n", "(new)the sparrow\n"]
    assert encoded.rows == [0, 0]


def test_a_template_that_hides_where_a_turn_begins_is_refused(models: Any) -> None:
    backbone = opened(models, "llama", TEMPLATE.replace("[a]{% endif %}", "[b]{% endif %}"))
    message = refused(head_on(backbone, messages="talk"), backbone, [{"talk": TALK}])
    assert "the chat template does not write message 2 as a continuation of the prompt for it" in message


def test_a_template_that_fails_is_refused_with_its_reason(models: Any) -> None:
    backbone = opened(models, "llama", "{{ raise_exception('only one question') }}")
    assert "only one question" in refused(head_on(backbone, messages="talk"), backbone, [{"talk": TALK}])


@pytest.mark.parametrize("name", ["bart"])
def test_equals_automodel_for_seq2seq_lm(name: str, models: Any) -> None:
    backbone = opened(models, name)
    head = head_on(backbone)
    one = {column: texts[:1] for column, texts in PAIRS.items()}
    encoded = head.encode(one, backbone.tokenizer, 64)
    sequences, targets = head.collate(encoded.sequences, encoded.targets, [0], Draw(0, 0))
    ids = torch.tensor(sequences)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain = AutoModelForSeq2SeqLM.from_pretrained(models[name], dtype=torch.float32).eval()
    with torch.no_grad():
        hidden = backbone.forward({**inputs, "decoder_input_ids": torch.tensor(encoded.extra["decoder_input_ids"])})
        loss = head.loss(Features(hidden, ids, torch.ones_like(ids)), targets) / targets.count
        wanted = plain(**inputs, labels=torch.tensor(encoded.targets["labels"])).loss
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=0)


def test_special_tokens_written_out_in_a_text_are_refused_if_asked_for(models: Any) -> None:
    backbone = opened(models)
    row = {"prompt": ["what is it </s> now"], "response": ["the dog"]}
    assert head_on(backbone).encode(row, backbone.tokenizer, 64).sequences
    with pytest.raises(DataError, match="holds the special token '</s>', expected none"):
        head_on(backbone, special_tokens="refuse").encode(row, backbone.tokenizer, 64)
