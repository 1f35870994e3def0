from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from transformers import AutoModelForSequenceClassification

import hft_core
from hft_core.backbone import Features
from hft_core.data import loading
from hft_core.errors import DataError
from hft_core.head import Draw, RowError, Targets
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions
from hft_plugins.heads.multilabel import Multilabel, Options, build


def head_of(cells: list[Any], **options: Any) -> Multilabel:
    head = build(Options(**options), task="t")
    head.learn({"label": loading.from_python([{"label": cell} for cell in cells], task="t")["label"]})
    return head


def test_labels_come_from_lists_and_from_divided_texts() -> None:
    assert head_of([["b", "a"], [], ["c"]]).labels == ["a", "b", "c"]
    assert head_of(["b, a", "", "c,b"]).labels == ["a", "b", "c"]
    assert head_of(["b|a, c"], separator="|").labels == ["a, c", "b"]
    assert head_of(['["b", 10]', "['a', 9]"]).labels == ["9", "10", "a", "b"]
    assert head_of([[True], [False, 2]]).labels == ["2", "false", "true"]
    assert head_of([["a"]], labels=("b", "a")).labels == ["b", "a"]


def test_fewer_than_two_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"column 'label' has one label only \('a'\)"):
        head_of([["a"], []])
    with pytest.raises(ValueError, match="no label in any row"):
        head_of([[], ""])


def test_an_unknown_label_is_named_with_the_nearest_known_one() -> None:
    head = head_of([["sport", "money"]])
    assert head.check({"label": ["money"]}) == ""
    assert head.check({"label": []}) == ""
    assert "unknown label 'sprot'" in head.check({"label": "money, sprot"})
    assert "Did you mean 'sport'?" in head.check({"label": "money, sprot"})


def test_an_empty_name_is_refused_with_its_row() -> None:
    head = head_of(["a,b"])
    rows = loading.from_python([{"text": "x", "label": "a"}, {"text": "x", "label": "a,,b"}], task="t")
    with pytest.raises(DataError, match=r"row 2 of task 't': column 'label': item 2: found '', expected a label"):
        loading.check(rows, head.columns(), task="t")


def test_labels_go_to_targets_and_back(models: Any) -> None:
    head = head_of([["x", "y"], ["z"]], threshold=0.6)
    tokenizer = encoder.build(EncoderOptions(model=str(models["bert"]))).tokenizer
    rows = {"text": ["the cat"] * 3, "label": [["z", "x"], [], "y"]}
    encoded = head.encode(rows, tokenizer, 16)
    assert encoded.targets["target"] == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    _, targets = head.collate(encoded.sequences, encoded.targets, [0, 1, 2], Draw(0, 0))
    assert targets.count == 9
    assert head.answer([[0.9, 0.5, 0.6]], {}) == {"value": ["x", "z"], "probabilities": {"x": 0.9, "y": 0.5, "z": 0.6}}
    assert head.encode({"text": ["the cat"]}, tokenizer, 16).targets == {}


@pytest.mark.parametrize("name", ["bert", "roberta", "llama"])
def test_equals_automodel_for_multi_label_classification(name: str, models: Any, toys: Any) -> None:
    path = str(models[name])
    backbone: Any = (
        decoder.build(DecoderOptions(model=path)) if name == "llama" else encoder.build(EncoderOptions(model=path))
    )
    head = head_of([["a", "b", "c"]])
    head.attach(backbone)
    head.eval()
    backbone.trunk.eval()
    inputs = backbone.tokenizer([row["text"] for row in toys.rows(5)], padding=True, return_tensors="pt")
    features = Features(backbone.forward(dict(inputs)), inputs["input_ids"], inputs["attention_mask"])
    target = torch.tensor(np.random.default_rng(0).integers(2, size=(5, 3)), dtype=torch.float32)
    plain = AutoModelForSequenceClassification.from_pretrained(path, pad_token_id=1, **head.config()).eval()
    plain.config.pad_token_id = backbone.tokenizer.pad_token_id
    assert head.family is not None
    assert not plain.load_state_dict(head.family.plain_state(), strict=False).unexpected_keys
    told = plain(**inputs, labels=target)
    torch.testing.assert_close(head.raw_outputs(features), told.logits, atol=1e-5, rtol=0)
    loss = head.loss(features, Targets(15, {"target": target}))
    torch.testing.assert_close(loss / 15, told.loss, atol=1e-5, rtol=0)
    probabilities = torch.tensor(head.predict(features, Targets(0, {})))
    torch.testing.assert_close(probabilities, told.logits.sigmoid(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_metrics_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    head = head_of([["a", "b", "c", "d"]])
    probabilities, truth = random.random((40, 4)), random.integers(2, size=(40, 4))
    truth[:, 3] = 0  # label d never occurs
    said = probabilities >= 0.5
    expected = {
        "loss": 0.5,
        "accuracy": metrics.accuracy_score(truth, said),
        "hamming_loss": metrics.hamming_loss(truth, said),
    }
    occur = [i for i in range(4) if truth[:, i].any() or said[:, i].any()]
    for average in ("micro", "macro"):
        options: dict[str, Any] = {"average": average, "labels": occur, "zero_division": 0}
        expected[f"precision_{average}"] = metrics.precision_score(truth, said, **options)
        expected[f"recall_{average}"] = metrics.recall_score(truth, said, **options)
        expected[f"f1_{average}"] = metrics.f1_score(truth, said, **options)
    assert head.metrics(probabilities.tolist(), truth.astype(float).tolist(), 0.5) == pytest.approx(expected)


def test_macro_averages_are_over_the_labels_that_occur_in_truth_or_prediction() -> None:
    head = head_of([["a", "b", "c"]])
    assert head.metrics([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1]], [[1, 0, 0], [0, 1, 0]], 0.5)["f1_macro"] == 1.0
    assert head.metrics([[0.9, 0.1, 0.9]], [[1, 0, 0]], 0.5)["f1_macro"] == 0.5
    assert head.metrics([[0.1, 0.1, 0.1]], [[0, 0, 0]], 0.5)["f1_macro"] == 0.0


HOT = [[0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1]]


@pytest.mark.parametrize(
    "cells",
    [HOT, [str(row) for row in HOT], ["0,1,0", "1, 1, 0", "0,0,0", "1,0,1"], [[bool(v) for v in r] for r in HOT]],
)
def test_0_and_1_for_each_label_are_read_with_the_names_of_the_labels(cells: list[Any], models: Any) -> None:
    with pytest.raises(ValueError, match=r"3 times 0 or 1 in each row \(multi-hot\); .* 'labels' with 3 names"):
        head_of(cells)
    with pytest.raises(ValueError, match="but 'labels' has 2 names; expected 3"):
        head_of(cells, labels=("x", "y"))
    head = head_of(cells, labels=("x", "y", "z"))
    assert head.facts == {"labels": ["x", "y", "z"], "multi_hot": True}
    tokenizer = encoder.build(EncoderOptions(model=str(models["bert"]))).tokenizer
    encoded = head.encode({"text": ["the cat"] * 4, "label": cells}, tokenizer, 16)
    assert encoded.targets["target"] == [[float(v) for v in row] for row in HOT]
    assert head.check({"label": cells[0]}) == ""
    assert "found 2 times 0 or 1, expected 3" in head.check({"label": [0, 1]})
    assert "found 'x', expected 0 or 1 for each label" in head.check({"label": ["x"]})


def test_lists_of_different_lengths_of_0_and_1_are_lists_of_labels() -> None:
    assert head_of([[0], [1], [0, 1]]).labels == ["0", "1"]
    assert head_of([[0, 1], [1, 0]], labels=("0", "1")).facts == {"labels": ["0", "1"]}


def test_a_label_twice_in_a_row_is_refused() -> None:
    head = head_of(["sport", "money"])
    assert (
        head.check({"label": "sport,money,sport"})
        == "column 'label' holds the label 'sport' twice, expected each label once"
    )


@pytest.mark.parametrize("mark", [";", "|"])
def test_labels_divided_at_another_mark_are_refused(mark: str) -> None:
    cells = [f"sport{mark}money", "sport", f"money{mark} world", "world"]
    with pytest.raises(RowError, match=rf"'sport\{mark}money', whose parts at '\{mark}' are labels too") as error:
        head_of(cells)
    assert error.value.row == 0
    assert head_of(cells, separator=mark).labels == ["money", "sport", "world"]
    assert len(head_of(cells, labels=tuple(cells)).labels) == 4


def test_labels_that_hold_a_mark_are_labels() -> None:
    assert head_of(["news;sport", "news;money", "art"]).labels == ["art", "news;money", "news;sport"]
    assert head_of(["a;b,c", "a", "b"]).labels == ["a", "a;b", "b", "c"]
    with pytest.raises(RowError, match="holds 0 and 1 divided at blanks"):
        head_of(["0 1 0", "1 0 0"])


@pytest.mark.parametrize("seed", range(4))
def test_a_rare_label_is_trained(seed: int, models: Any) -> None:
    rows = [{"text": "the cat", "label": ["often", f"rare {i}"] if i < 10 else ["often"]} for i in range(60)]
    recipe = {
        "backbone": str(models["bert"]),
        "tasks": {"t": {"head": "multilabel"}},
        "stages": {"max_steps": 1},
        "seed": seed,
    }
    with hft_core.session(recipe, data={"t": rows}) as session:
        assert len(session.model.head("t").facts["labels"]) == 11


def test_it_learns_and_the_plain_class_opens_it(models: Any, toys: Any, tmp_path: Any) -> None:
    def rows(count: int, seed: int) -> list[dict[str, Any]]:
        made = toys.rows(count, seed=seed)
        return [
            {"text": f"{row['text']} {other['text']}", "labels": sorted({row["label"], other["label"]})}
            for row, other in zip(made, toys.rows(count, seed=seed + 50), strict=True)
        ] + [{"text": "the old river again", "labels": []}] * 5

    recipe = {
        "backbone": {"model": str(models["bert"]), "dropout": 0.0},
        "tasks": {"topics": {"head": "multilabel", "label": "labels"}},
        "stages": [{"max_steps": 120, "learning_rate": 5e-3, "per_device_train_batch_size": 16, "eval_strategy": "no"}],
        "precision": "fp32",
    }
    splits = {"train": rows(120, 0), "test": rows(40, 1)}
    result = hft_core.run(recipe, data={"topics": splits}, output=tmp_path / "run")
    assert result.final["test"]["topics"]["f1_micro"] > 0.9
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model" / "topics")
    assert plain.config.problem_type == "multi_label_classification"
    assert plain.config.id2label == {0: "animals", 1: "money", 2: "sport"}


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["a|b", "b", "c|a", "b"], r"set separator: '\|'"),
        (["sport money", "money", "sport", "money"], "set separator: ' '"),
        (["体育、财经", "财经", "体育"], "set separator: '、'"),
        (["sport<br>money", "money", "sport"], "set separator: '<br>'"),
        (["011", "100", "110", "100"], "3 digits 0 or 1 in each row"),
    ],
)
def test_labels_that_are_several_in_one_are_refused(cells: list[str], said: str) -> None:
    with pytest.raises(RowError, match=said):
        Multilabel("t", Options(label="label")).learn({"label": cells})


def test_labels_that_another_mark_divides_are_told_of_where_the_separator_divides_some() -> None:
    head = Multilabel("t", Options(label="label"))
    head.learn({"label": ["sport;money", "sport,money", "real estate,sport", "money"]})
    assert head.labels == ["money", "real estate", "sport", "sport;money"]
    (warning,) = head.warnings
    assert warning.startswith("column 'label': the labels 'sport;money' are other labels joined by ';', and are labels")
    head = Multilabel("t", Options(label="label"))
    head.learn({"label": ["real estate,money", "real estate", "good food", "good service,bad food", "bad service"]})
    assert head.warnings == []
