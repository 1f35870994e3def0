"""Prompt and continuation of a conversation agree, token by token, between training and prediction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from hft_core.backbone import Features
from hft_core.head import Draw
from hft_plugins.backbones import decoder
from hft_plugins.backbones.options import DecoderOptions
from hft_plugins.heads.instruction import Options, build
from hft_plugins.heads.parts.loose_ends import loose_end

TALK = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": "the dog"},
    {"role": "user", "content": "the whale"},
    {"role": "assistant", "content": "bank"},
]


def template(before: str, *, prompt: str, after: str = "</s>", marked: str = "") -> str:
    """Of turns `ROLE:CONTENT`, with `before` and `after` round what the assistant says; `prompt`: in place of
    `before` where it is still to speak; `marked`: what is in the mark, `content` or `turn` (none without it)."""
    begin, end = "{% generation %}", "{% endgeneration %}"
    inner = {"": f"{{{{ m.content }}}}{after}", "content": f"{begin}{{{{ m.content }}}}{end}{after}"}
    inner["turn"] = f"{begin}{{{{ m.content }}}}{after}{end}"
    return (
        f"{{% for m in messages %}}{{% if m.role == 'assistant' %}}assistant:{before}{inner[marked]}\n"
        "{% else %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}"
        f"{{% if add_generation_prompt %}}assistant:{prompt}{{% endif %}}"
    )


def opened(models: Any, chat_template: str, name: str = "llama") -> Any:
    backbone = decoder.build(DecoderOptions(model=str(models[name])))
    backbone.trunk.eval()
    backbone.tokenizer.chat_template = chat_template
    return backbone


def head_on(backbone: Any, **options: Any) -> Any:
    head = build(Options(messages="talk", **options), task="t")
    head.attach(backbone)
    return head.eval()


def encoded(backbone: Any, *talks: list[dict[str, Any]]) -> Any:
    return head_on(backbone).encode({"talk": list(talks)}, backbone.tokenizer, 256)


def learned(examples: Any, backbone: Any, i: int = 0) -> list[str]:
    """The learned tokens of an example."""
    tokens = [token for token in examples.targets["labels"][i] if token != -100]
    return [str(backbone.tokenizer.decode([token])) for token in tokens]


PROMPT = "is not what stands before it"


@pytest.mark.parametrize("talk", [TALK[1:3], TALK], ids=["one turn", "two turns"])
@pytest.mark.parametrize("marked", ["", "turn"])
def test_a_prompt_that_ends_in_a_blank_teaches_and_predicts_as_one_that_does_not(
    marked: str, talk: list[dict[str, Any]], models: Any
) -> None:
    blank, none = (opened(models, template(" ", prompt=prompt, marked=marked)) for prompt in (" ", ""))
    one, other = encoded(blank, talk), encoded(none, talk)
    assert (one.sequences, one.targets) == (other.sequences, other.targets)
    assert "".join(learned(one, blank)).split("</s>")[0] == " the dog"
    asked = [encoded(backbone, talk[:-1]) for backbone in (blank, none)]
    assert asked[0] == asked[1]
    assert one.sequences[0][: one.targets["prompt"][0]] == asked[0].sequences[0]
    assert "ends in ' ', which the tokenizer merges" in one.notes[0]
    assert other.notes == {}


def test_a_blank_that_does_not_merge_with_a_digit_is_learned_with_it(models: Any) -> None:
    backbone = opened(models, template(" ", prompt=" "))
    talk = [TALK[1], {"role": "assistant", "content": "7"}]
    examples = encoded(backbone, talk)
    assert "".join(learned(examples, backbone)) == " 7</s>"
    assert examples.sequences[0][: examples.targets["prompt"][0]] == encoded(backbone, talk[:1]).sequences[0]


@pytest.mark.parametrize("end", ["\n", ":\n", "", "</s>", "</s>\n"])
def test_a_prompt_that_nothing_merges_with_is_left_as_it_is(end: str, models: Any) -> None:
    backbone = opened(models, template(end, prompt=end))
    assert loose_end(f"assistant:{end}", backbone.tokenizer) == 0
    examples = encoded(backbone, TALK)
    assert examples.notes == {}
    whole = backbone.tokenizer.apply_chat_template(TALK[:-1], add_generation_prompt=True)["input_ids"]
    assert encoded(backbone, TALK[:-1]).sequences == [whole]
    assert examples.sequences[0][: examples.targets["prompt"][0]] == whole
    assert "".join(learned(examples, backbone)) == "the dog</s>bank</s>"


@pytest.mark.parametrize("blanks", [" ", "  ", "\n\n", "\n ", " \n", "\t"])
def test_whatever_blanks_a_prompt_ends_in_training_goes_on_from_the_prompt_of_prediction(
    blanks: str, models: Any
) -> None:
    backbone = opened(models, template(blanks, prompt=blanks))
    for content in ("bank", "7", "(a)", "\N{GRINNING FACE}", "\u05e9\u05dc\u05d5\u05dd", "cafe\u0301"):
        talk = [*TALK[:-1], {"role": "assistant", "content": content}]
        examples, asked = encoded(backbone, talk), encoded(backbone, talk[:-1])
        assert examples.sequences[0][: examples.targets["prompt"][0]] == asked.sequences[0]
        assert "".join(learned(examples, backbone)).endswith("</s>")
        assert PROMPT not in examples.notes.get(0, "")


def test_a_prompt_that_is_not_what_stands_before_the_response_is_reported(models: Any) -> None:
    backbone = opened(models, template(" (a)", prompt=" (b)", marked="turn"))
    assert PROMPT in encoded(backbone, TALK[1:3]).notes[0]
    merging = opened(models, template("\n", prompt="\n", after="</s>"))
    talk = [TALK[1], {"role": "assistant", "content": "\nbank"}]
    examples, asked = encoded(merging, talk), encoded(merging, talk[:1])
    agrees = examples.sequences[0][: examples.targets["prompt"][0]] == asked.sequences[0]
    assert agrees != (PROMPT in examples.notes.get(0, ""))


@pytest.mark.parametrize(
    ("chat_template", "noted"),
    [
        (template("", prompt=""), False),
        (template("", prompt="", marked="turn"), False),
        (template("", prompt="", marked="content"), True),
        (template("", prompt="", after=""), True),
        (template("", prompt="", after=" ###"), True),
    ],
)
def test_responses_without_an_end_are_reported(chat_template: str, noted: bool, models: Any) -> None:
    notes = encoded(opened(models, chat_template), TALK, TALK[:3]).notes
    assert notes.keys() == ({0, 1} if noted else set())
    assert all("does not learn to stop" in note for note in notes.values())


def test_an_end_at_which_generation_does_not_stop_is_reported(models: Any) -> None:
    backbone = opened(models, template("", prompt="", after="<s>"))
    assert (
        "responses end in '<s>', at which generation does not stop: it stops at '</s>'"
        in (encoded(backbone, TALK).notes[0])
    )


def test_a_pair_ends_once_whatever_the_tokenizer_adds(models: Any) -> None:
    backbone = decoder.build(DecoderOptions(model=str(models["llama"])))
    tokenizer = backbone.tokenizer
    head = build(Options(), task="t")
    head.attach(backbone)
    rows = {"prompt": ["the cat", "the cat"], "response": ["the dog", "the dog</s>"]}
    plain = head.encode(rows, tokenizer, 64)
    ids = (("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=list(ids)
    )
    added = head.encode(rows, tokenizer, 64)
    assert plain.sequences[0] == plain.sequences[1]
    assert added.sequences == [[tokenizer.bos_token_id, *sequence] for sequence in plain.sequences]
    assert plain.sequences[0].count(tokenizer.eos_token_id) == 1
    assert (plain.notes, added.notes) == ({}, {})
    tokenizer.eos_token = None
    assert "does not learn to stop" in head.encode({"prompt": ["a"], "response": ["b"]}, tokenizer, 64).notes[0]


# --- which messages are learned


@pytest.mark.parametrize("key", ["mask", "ignore"])
def test_a_key_that_may_mean_either_is_refused(key: str, models: Any) -> None:
    talk = [*TALK[1:2], {**TALK[2], key: 1}]
    said = head_on(opened(models, template(" ", prompt=""))).check({"talk": talk})
    assert f"message 2: found the key '{key}', which does not say whether the message is learned" in said


@pytest.mark.parametrize("key", ["reasoning_content", "thinking"])
def test_thinking_that_the_template_does_not_write_is_told_of(key: str, models: Any) -> None:
    talk = [*TALK[1:2], {**TALK[2], key: "a pet again"}]
    written = template(" ", prompt="").replace("{{ m.content }}</s>", f"{{{{ m.{key} }}}} {{{{ m.content }}}}</s>")
    assert "leaves out a part of what" in encoded(opened(models, template(" ", prompt="")), talk).notes[0]
    assert encoded(opened(models, written), talk).notes == {}


@pytest.mark.parametrize("key", ["weight", "loss", "train", "trainable"])
@pytest.mark.parametrize("zero", [0, 0.0, False, "0", "false"])
def test_a_message_of_weight_zero_is_context_alone(key: str, zero: Any, models: Any) -> None:
    backbone = opened(models, template("\n", prompt="\n"))
    weighted = [dict(message) for message in TALK]
    weighted[2][key] = zero
    head = head_on(backbone)
    assert head.check({"talk": weighted}) == ""
    with_weights, without = encoded(backbone, weighted), encoded(backbone, TALK)
    assert with_weights.sequences == without.sequences
    assert "".join(learned(with_weights, backbone)) == "bank</s>"
    weighted[2][key], weighted[4][key] = 1, zero
    examples = encoded(backbone, weighted)
    assert "".join(learned(examples, backbone)) == "the dog</s>"
    assert examples.targets["reference"] == ["the dog"]


@pytest.mark.parametrize(
    ("place", "key", "value", "message"),
    [
        (2, "weight", 0.5, "message 3: found the weight 0.5, expected 0 or 1"),
        (2, "train_detail", [{"begin_offset": 0}], "message 3: found the train_detail [{'begin_offset': 0}], expected"),
        (1, "train", True, "message 2: found the train True of a message of the user"),
    ],
)
def test_weights_that_cannot_be_honoured_are_refused(
    place: int, key: str, value: Any, message: str, models: Any
) -> None:
    head = head_on(opened(models, template("\n", prompt="\n")))
    talk = [dict(message) for message in TALK]
    talk[place][key] = value
    assert head.check({"talk": talk}).startswith(f"column 'talk': {message}")
    nothing = [{**message, "weight": 0} for message in TALK]
    assert "no message of the assistant is learned" in head.check({"talk": nothing})
    assert head.check({"talk": [{**message, "weight": None} for message in TALK]}) == ""


def test_a_tokenizer_without_offsets_of_blanks_learns_the_turn_without_them(models: Any) -> None:
    """RoBERTa's offsets leave the blank before a word out, BERT's tokenizer drops blanks."""
    backbone = opened(models, template(" ", prompt=" ", marked="turn"))
    tokenizer = backbone.tokenizer
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    for content in ("the dog", "7", "(a)"):
        talk = [TALK[1], {"role": "assistant", "content": content}]
        examples, asked = encoded(backbone, talk), encoded(backbone, talk[:1])
        assert "".join(learned(examples, backbone)) == f" {content}</s>"
        assert examples.sequences[0][: examples.targets["prompt"][0]] == asked.sequences[0]


@pytest.mark.parametrize("prepend", ["always", "first", "never"])
def test_a_blank_merges_with_the_words_of_a_sentencepiece_vocabulary(prepend: str) -> None:
    pieces = [("<unk>", 0.0), ("\u2581", -3.0), ("\u2581bank", -2.0), *((letter, -8.0) for letter in "abknt:")]
    whole = Tokenizer(tokenizer_models.Unigram(pieces, unk_id=0, byte_fallback=False))
    whole.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole, unk_token="<unk>")
    assert loose_end("bank: ", tokenizer) == 1
    assert loose_end("bank:", tokenizer) == loose_end("", tokenizer) == 0


def test_a_prediction_reads_the_tokens_before_the_response(models: Any) -> None:
    backbone = opened(models, template(" ", prompt=" "))
    head = head_on(backbone, max_new_tokens=4)
    said = []
    for talk in (TALK, TALK[:-1]):
        examples = head.encode({"talk": [talk]}, backbone.tokenizer, 64)
        sequences, targets = head.collate(examples.sequences, examples.targets, [0], Draw(0, 0))
        ids = torch.tensor(sequences)
        said.append(head.predict(Features(torch.zeros(1), ids, torch.ones_like(ids)), targets))
    assert said[0] == said[1]
