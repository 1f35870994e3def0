"""The assistant's tokens are found in the chat formats of model families."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hft_core.errors import DataError
from hft_core.testing.toy_tokenizers import byte_pairs
from hft_plugins.backbones import decoder
from hft_plugins.backbones.options import DecoderOptions
from hft_plugins.heads.instruction import Options, build

FAMILIES = yaml.safe_load(Path(__file__).with_name("chat_families.yaml").read_text(encoding="utf-8"))
SYSTEM = {"role": "system", "content": "be short"}
TURNS = [
    {"role": "user", "content": " the cat\n"},
    {"role": "assistant", "content": "the dog"},
    {"role": "user", "content": "the whale"},
    {"role": "assistant", "content": "the bank \n"},
]
CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"word": "whale"}}}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
CALLING = [
    {"role": "user", "content": "the whale"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "look_up", "content": "an animal"},
    {"role": "assistant", "content": "the bank"},
]
THINKING = [
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nthe dog"},
    {"role": "user", "content": "the whale"},
    {"role": "assistant", "content": "<think>\nso\n</think>\n\nthe bank"},
]
TALKS = {"turns": TURNS, "system": [SYSTEM, *TURNS], "tools": CALLING, "thinking": THINKING}
CASES = [(name, talk) for name, family in FAMILIES.items() for talk in family["expected"]]


@pytest.fixture(scope="module")
def backbone(models: Any) -> Any:
    return decoder.build(DecoderOptions(model=str(models["llama"])))


def speak(backbone: Any, family: dict[str, Any]) -> None:
    """Give the backbone the family's template and special tokens."""
    words = [f"Ġ{word}" for word in ("cat", "dog", "whale", "bank", "short")]
    tokenizer = byte_pairs(family["special"], words, add_prefix_space=False)
    end = family["special"][0]
    names = {"eos_token": family.get("eos", end), **({"bos_token": family["bos"]} if "bos" in family else {})}
    tokenizer.add_special_tokens({**names, "extra_special_tokens": family["special"]})
    tokenizer.chat_template = family["template"]
    backbone.tokenizer = tokenizer
    settings = backbone.language_model.whole.generation_config
    settings.eos_token_id = tokenizer.convert_tokens_to_ids(end)


def head_on(backbone: Any, **options: Any) -> Any:
    head = build(Options(messages="talk", **options), task="t")
    head.attach(backbone)
    return head


def encoded(backbone: Any, talk: str, **options: Any) -> Any:
    rows: dict[str, list[Any]] = {"talk": [TALKS[talk]]}
    if talk == "tools":
        options, rows = {"tools": "tools", **options}, {**rows, "tools": [TOOLS]}
    return head_on(backbone, **options).encode(rows, backbone.tokenizer, 4096)


def read(expected: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens of a text, and the places of those inside `«…»`."""
    ids: list[int] = []
    learned: list[int] = []
    for part in re.split("([«»])", expected):
        if part == "«":
            begun = len(ids)
        elif part == "»":
            learned += range(begun, len(ids))
        else:
            ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids, learned


@pytest.mark.parametrize(("name", "talk"), CASES, ids=[f"{name}-{talk}" for name, talk in CASES])
def test_what_is_learned_is_the_assistants_part_of_the_format(name: str, talk: str, backbone: Any) -> None:
    family = FAMILIES[name]
    speak(backbone, family)
    wanted = family["expected"][talk]
    if wanted[0].startswith("!"):
        with pytest.raises(DataError, match=wanted[0][1:]) as caught:
            encoded(backbone, talk)
        assert "\n" not in str(caught.value)
        return
    examples = encoded(backbone, talk)
    decoded = [backbone.tokenizer.decode(sequence) for sequence in examples.sequences]
    assert decoded == [re.sub("[«»]", "", text) for text in wanted]
    for sequence, labels, text in zip(examples.sequences, examples.targets["labels"], wanted, strict=True):
        ids, learned = read(text, backbone.tokenizer)
        assert sequence == ids
        assert labels == [ids[i + 1] if i + 1 in learned else -100 for i in range(len(ids))]
    assert examples.notes == {}
    assert examples.rows == [0] * len(wanted)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "deepseek-r1"])
def test_a_turn_is_learned_after_the_tokens_that_a_prediction_reads(name: str, backbone: Any) -> None:
    speak(backbone, FAMILIES[name])
    examples = encoded(backbone, "turns")
    asked = head_on(backbone).encode({"talk": [TURNS[:1], TURNS[:3]]}, backbone.tokenizer, 4096)
    begun = [ids[:prompt] for ids, prompt in zip(examples.sequences, examples.targets["prompt"], strict=True)]
    assert begun == asked.sequences[-len(begun) :]
    assert examples.targets["reference"][-1] == TURNS[-1]["content"]
    assert head_on(backbone).answer(["one", "two"][-len(begun) :], {})["text"] == "two"


def test_on_inputs_what_stands_before_the_responses_is_learned(backbone: Any) -> None:
    for name in ("qwen2.5", "qwen3"):
        speak(backbone, FAMILIES[name])
        plain, whole = encoded(backbone, "turns"), encoded(backbone, "turns", train_on_inputs=True)
        assert whole.sequences == plain.sequences
        assert whole.targets["labels"][:-1] == plain.targets["labels"][:-1]  # what they begin with is in the last one
        assert whole.targets["labels"][-1] == [*whole.sequences[-1][1:], -100]
    talk = [dict(message) for message in TURNS]
    talk[1]["weight"] = 0
    speak(backbone, FAMILIES["qwen2.5"])
    weighted = head_on(backbone, train_on_inputs=True).encode({"talk": [talk]}, backbone.tokenizer, 4096)
    places = [i + 1 for i, label in enumerate(weighted.targets["labels"][0][:-1]) if label == -100]
    assert backbone.tokenizer.decode([weighted.sequences[0][i] for i in places]) == "the dog<|im_end|>"
    pair = build(Options(train_on_inputs=True), task="t")
    pair.attach(backbone)
    one = pair.encode({"prompt": ["the cat"], "response": ["the dog"]}, backbone.tokenizer, 64)
    assert one.targets["labels"][0][:-1] == one.sequences[0][1:]


def test_arguments_of_tool_calls_may_be_text(backbone: Any) -> None:
    """OpenAI's format has them so; templates expect an object."""
    speak(backbone, FAMILIES["qwen2.5"])
    call = {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "whale"}'}}
    talk = [TALKS["tools"][0], {"role": "assistant", "content": "", "tool_calls": [call]}, *TALKS["tools"][2:]]
    rows = {"talk": [talk, TALKS["tools"]], "tools": [TOOLS, TOOLS]}
    examples = head_on(backbone, tools="tools").encode(rows, backbone.tokenizer, 4096)
    assert examples.sequences[0] == examples.sequences[1]


@pytest.mark.parametrize(
    ("template", "talk", "says"),
    [
        ("{% for m in messages %}{% if m.role != 'system' %}[{{ m.content }}]{% endif %}{% endfor %}", "system",
         "the chat template leaves out message 1, of the system"),
        ("{% for m in messages %}[{{ m.content }}{{ m.tool_calls }}]{% endfor %}", "tools",
         "the chat template writes no tools, expected no column of them"),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out_is_refused(template: str, talk: str, says: str, backbone: Any) -> None:
    speak(backbone, {"template": template, "special": ["</s>"]})
    with pytest.raises(DataError, match=says):
        encoded(backbone, talk)


def test_thinking_that_a_template_never_writes_is_reported(backbone: Any) -> None:
    said = "{{ m.content.split('</think>')[-1].strip() }}"
    begun = "{% if add_generation_prompt %}a: {% endif %}"
    template = "{% for m in messages %}{{ m.role[0] }}: " + said + "</s>{% endfor %}" + begun
    speak(backbone, {"template": template, "special": ["</s>"]})
    assert "leaves out a part of what the assistant says" in encoded(backbone, "thinking").notes[0]


def test_train_on_inputs_needs_a_decoder(models: Any) -> None:
    from hft_plugins.backbones import seq2seq
    from hft_plugins.backbones.options import Seq2SeqOptions

    head = build(Options(train_on_inputs=True), task="t")
    with pytest.raises(ValueError, match="train_on_inputs is for decoders"):
        head.attach(seq2seq.build(Seq2SeqOptions(model=str(models["t5"]))))
