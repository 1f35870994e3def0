from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModelForMultipleChoice

import hft_core
from hft_core import Catalogue
from hft_core.backbone import Features
from hft_core.data import loading
from hft_core.errors import DataError
from hft_core.head import Draw
from hft_core.predict import prediction, saved_run
from hft_plugins.backbones import encoder
from hft_plugins.backbones.options import EncoderOptions
from hft_plugins.heads.multiple_choice import TWICE, MultipleChoice, Options, build
from hft_plugins.heads.parts.example_rows import multiple_choice as example_rows

ROWS = [
    {
        "text": "the cat saw the dog",
        "choices": ["a whale", "the bank called the trader again", "on friday"],
        "label": 1,
    },
    {"text": "the broker", "choices": ["again", "near the old river"], "label": 0},
    {"text": "the runner saw", "choices": ["the referee", "friday", "the market", "a horse"], "label": 3},
]


def head_of(rows: list[dict[str, Any]], **options: Any) -> MultipleChoice:
    head = build(Options(**options), task="t")
    head.learn({name: [row[name] for row in rows] for name in rows[0]})
    return head


def batch_of(head: MultipleChoice, backbone: Any, rows: list[dict[str, Any]]) -> tuple[Features, Any]:
    """What the trunk makes of the rows, and their targets."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    encoded = head.encode(columns, backbone.tokenizer, 64)
    sequences, targets = head.collate(encoded.sequences, encoded.targets, range(len(encoded.sequences)), Draw(0, 0))
    inputs = backbone.tokenizer.pad({"input_ids": sequences, **encoded.extra}, return_tensors="pt")
    backbone.trunk.eval()
    return Features(backbone.forward(dict(inputs)), inputs["input_ids"], inputs["attention_mask"]), targets


def run(rows: list[dict[str, Any]], model: Any, task: dict[str, Any], strategy: str = "full", **more: Any) -> Any:
    recipe = {
        "backbone": {"model": str(model), "dropout": 0.0},
        "tasks": {"quiz": {"head": "multiple-choice", **task}},
        "stages": [
            {
                "strategy": strategy,
                "learning_rate": 5e-3,
                "max_steps": 40,
                "eval_strategy": "no",
                "head_warmup_steps": 0,
            }
            | {"per_device_train_batch_size": 8}
        ],
        "precision": "fp32",
    }
    return hft_core.run(recipe, data={"quiz": {"train": rows, "test": example_rows(20, seed=1)}}, **more)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert"])
def test_equals_automodel_for_multiple_choice(name: str, models: Any) -> None:
    # RoBERTa's class for this has a fresh pooler, which `auto` does not take.
    head, path = head_of(ROWS, text="text", pooling="pooler" if name == "roberta" else "auto"), str(models[name])
    backbone = encoder.build(EncoderOptions(model=path))
    head.attach(backbone)
    head.eval()
    plain = AutoModelForMultipleChoice.from_pretrained(path).eval()
    assert head.family is not None
    assert not plain.load_state_dict(head.family.plain_state(), strict=False).unexpected_keys
    features, targets = batch_of(head, backbone, ROWS)
    scores, total = head.scores(features).split([3, 2, 4]), 0.0
    for row, found in zip(ROWS, scores, strict=True):
        pairs = backbone.tokenizer([row["text"]] * len(found), row["choices"], padding=True, return_tensors="pt")
        told = plain(**{n: t.unsqueeze(0) for n, t in pairs.items()}, labels=torch.tensor([row["label"]]))
        torch.testing.assert_close(found, told.logits[0], atol=1e-5, rtol=0)
        total += told.loss
    torch.testing.assert_close(head.loss(features, targets), total, atol=1e-5, rtol=0)
    assert targets.count == 3


@pytest.mark.parametrize("model", ["bert", "splinter"])
def test_the_loss_is_the_cross_entropy_of_each_row_by_itself(model: str, models: Any) -> None:
    head = head_of(ROWS)
    backbone = encoder.build(EncoderOptions(model=str(models[model])))
    head.attach(backbone)
    head.eval()
    features, targets = batch_of(head, backbone, ROWS)
    loss = head.loss(features, targets)
    loss.backward()
    by_hand = sum(
        functional.cross_entropy(scores[None], torch.tensor([row["label"]]))
        for scores, row in zip(head.scores(features).split([3, 2, 4]), ROWS, strict=True)
    )
    torch.testing.assert_close(loss, by_hand)
    gradients = [p.grad for p in head.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_a_row_is_a_unit_of_its_choices_after_the_question(models: Any) -> None:
    head = head_of(ROWS, text="text")
    tokenizer = encoder.build(EncoderOptions(model=str(models["bert"]))).tokenizer
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    encoded = head.encode(columns, tokenizer, 64)
    assert encoded.rows == encoded.units == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert encoded.targets == {"position": [0, 1, 2, 0, 1, 0, 1, 2, 3], "right": [1, 1, 1, 0, 0, 3, 3, 3, 3]}
    assert encoded.sequences[4] == tokenizer("the broker", "near the old river")["input_ids"]
    assert max(map(len, head.encode(columns, tokenizer, 9).sequences)) == 9
    del columns["label"]
    assert "right" not in head.encode(columns, tokenizer, 64).targets


def test_choices_may_be_columns_of_their_own_or_one_text(models: Any) -> None:
    tokenizer = encoder.build(EncoderOptions(model=str(models["bert"]))).tokenizer
    apart = head_of([{"a": "a cat", "b": "a dog", "label": "1"}], choices=("a", "b"))
    together = head_of([{"choices": "a cat; a dog", "label": "1"}], separator=";")
    first = apart.encode({"a": ["a cat"], "b": ["a dog"], "label": ["1"]}, tokenizer, 64)
    assert first == together.encode({"choices": ["a cat; a dog"], "label": ["1"]}, tokenizer, 64)


def test_a_label_is_a_place_or_the_text_of_a_choice() -> None:
    by_place, by_text = head_of(ROWS), head_of([{"choices": ["3", "7"], "label": "7"}], label_is="text")
    assert by_place.right_of(["2", "1", "0"], "1") == 1
    assert by_text.right_of(["3", "7"], " 7") == 1
    assert head_of([{"choices": ["a", "b"], "label": "b"}]).facts == {"label_is": "text"}


@pytest.mark.parametrize(
    ("label", "choices", "problem"),
    [
        (3, ["a", "b", "c"], "column 'label': found '3', expected the place of a choice, 0 to 2"),
        (-1, ["a", "b"], "column 'label': found '-1', expected the place of a choice, 0 to 1"),
        ("sprot", ["sport", "money"], "found 'sprot', which is none of the row's 2 choices. Did you mean 'sport'?"),
        ("a", ["a", "b", "a"], "found 'a', which is the text of 2 choices, expected that of one"),
        (0, ["only"], "column 'choices': found one choice ('only'), expected two or more"),
        (0, [], "column 'choices': found an empty list of choices, expected two or more"),
    ],
)
def test_a_row_whose_label_is_no_choice_is_named(label: Any, choices: list[str], problem: str) -> None:
    head = head_of([{"choices": ["a", "b"], "label": label}], label_is="index" if isinstance(label, int) else "text")
    assert head.check({"choices": choices, "label": label}).endswith(problem)
    assert head.check({"choices": ["sprot", "b"], "label": 0 if isinstance(label, int) else "b"}) == ""


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"choices": [], "label": 0}, "row 4 of task 'quiz': column 'choices': found an empty list"),
        ({"choices": ["a", "b"], "label": 2}, "row 4 of task 'quiz': column 'label': found '2', expected the place of"),
    ],
)
def test_a_bad_row_ends_the_run_before_training(bad: dict[str, Any], problem: str, models: Any) -> None:
    rows = [{"choices": ["a", "b"], "label": 1}] * 3
    with pytest.raises(DataError, match=problem):
        run([*rows, bad], models["bert"], {})


@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_it_learns_and_plain_libraries_give_the_same_answers(strategy: str, models: Any, tmp_path: Path) -> None:
    rows = example_rows(60, seed=0)
    made = run(rows, models["bert"], {}, strategy, output=tmp_path / "run")
    assert made.final["test"]["quiz"]["accuracy"] >= 0.9
    opened = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    answers = prediction.predict(opened, "quiz", loading.from_python(rows[:8], task="quiz"))
    folder = tmp_path / "run/model/quiz"
    plain = AutoModelForMultipleChoice.from_pretrained(models["bert"] if strategy == "lora" else folder).eval()
    if strategy == "lora":
        plain = PeftModel.from_pretrained(plain, folder).eval()
    for row, answer in zip(rows, answers, strict=False):
        texts = opened.model.backbone.tokenizer(row["choices"], padding=True, return_tensors="pt")
        with torch.no_grad():
            told = plain(**{n: t.unsqueeze(0) for n, t in texts.items()}).logits[0].softmax(dim=0)
        assert list(answer["probabilities"].values()) == pytest.approx(told.tolist(), abs=1e-5)
        assert answer["label"] == str(int(told.argmax()))
        assert answer["text"] == row["choices"][int(told.argmax())]


def test_accuracy_is_that_of_rows_not_of_choices() -> None:
    head = head_of(ROWS)
    references = head.references({"position": [0, 1, 2, 0, 1], "right": [2, 2, 2, 0, 0]})
    assert head.metrics([0.1, 0.2, 0.3, -1.0, 1.0], references, 0.4) == {"loss": 0.4, "accuracy": 0.5}


def test_labels_are_places_from_zero_or_one_or_letters() -> None:
    choices = ["a cat", "a dog", "a whale"]
    for label_is, names in (("index", "012"), ("number", "123"), ("letter", "ABC")):
        head = head_of([{"choices": choices, "label": names[0]}], label_is=label_is)
        assert [head.right_of(choices, name) for name in names] == [0, 1, 2]
        assert all(head.check({"choices": choices, "label": name}) == "" for name in names)
        assert head.check({"choices": choices, "label": "9"}).endswith(f"a choice, {names[0]} to {names[-1]}")
        answer = head.answer([0.0, 3.0, 1.0], {"choices": choices})
        assert (answer["label"], answer["text"], list(answer["probabilities"])) == (names[1], "a dog", list(names))
    assert head.right_of(choices, "b") == 1
    assert head_of([{"choices": choices, "label": "1"}]).right_of(choices, "01") == 1


def test_labels_that_are_numbers_and_texts_of_choices_have_to_be_said_to_be_one_of_them() -> None:
    rows = [{"choices": ["1", "2", "3", "4"], "label": label} for label in ("2", "4", 1)]
    with pytest.raises(
        ValueError, match=r"^column 'label': each label is a number and also the text of .* 'label_is: text'"
    ):
        head_of(rows)
    for label_is, right in (("text", 1), ("index", 2), ("number", 1)):
        assert head_of(rows, label_is=label_is).right_of(["1", "2", "3", "4"], "2") == right
    mixed = head_of([*rows, {"choices": ["a", "b"], "label": "0"}])
    assert (mixed.facts, mixed.warnings) == ({"label_is": "index"}, [])


def test_places_that_are_never_zero_are_reported() -> None:
    rows = [{"choices": ["a", "b", "c"], "label": label} for label in (1, 2)]
    (warning,) = head_of(rows).warnings
    assert "no label of column 'label' is 0" in warning
    assert "'label_is: number' counts from 1" in warning
    assert head_of(rows, label_is="number").warnings == head_of(ROWS).warnings == []


def test_letters_are_pointed_to_their_option() -> None:
    head = head_of([{"choices": ["a cat", "a dog"], "label": "B"}])
    assert head.check({"choices": ["a cat", "a dog"], "label": "B"}).endswith(
        "('label_is: letter' reads A, B, … as places)"
    )


def test_a_place_may_be_written_as_pandas_does_and_one_that_is_none_is_named() -> None:
    rows = [{"choices": ["a", "b", "c"], "label": label} for label in ("0.0", "1.0", "2.0")]
    head = head_of(rows)
    assert head.facts == {"label_is": "index"}
    assert [head.right_of(row["choices"], row["label"]) for row in rows] == [0, 1, 2]
    head = head_of([*rows, {"choices": ["a", "b"], "label": "-1"}])
    assert head.check({"choices": ["a", "b"], "label": "-1"}).endswith("expected the place of a choice, 0 to 1")


def test_a_right_choice_that_is_there_twice_is_noted(models: Any) -> None:
    rows = [{"choices": ["a", "b", "a"], "label": label} for label in (0, 1, 2)]
    tokenizer = encoder.build(EncoderOptions(model=str(models["bert"]))).tokenizer
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert head_of(rows).encode(columns, tokenizer, 64).notes == {0: TWICE, 2: TWICE}
    columns = {"choices": [["the cat saw the dog", "the cat saw the bank"]], "label": [1]}
    assert [bool(head_of(rows).encode(columns, tokenizer, length).notes) for length in (7, 6)] == [False, True]
