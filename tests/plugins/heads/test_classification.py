from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

import hft_core
from hft_core.backbone import Features
from hft_core.data import loading
from hft_core.errors import DataError
from hft_core.head import Targets
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions
from hft_plugins.heads.classification import Classification, Options, build


def head_of(rows: list[dict[str, Any]], **options: Any) -> Classification:
    head = build(Options(**options), task="t")
    columns = loading.from_python(rows, task="t")
    head.learn({name: columns[name] for name in (head.columns_read.label,)})
    return head


def labelled(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": "a text", "label": label} for label in labels]


def features_of(backbone: Any, *texts: list[str]) -> tuple[Features, Any]:
    inputs = backbone.tokenizer(*texts, padding=True, return_tensors="pt")
    backbone.trunk.eval()
    hidden = backbone.forward(dict(inputs))
    return Features(hidden, inputs["input_ids"], inputs["attention_mask"]), inputs


def test_labels_are_those_of_the_training_rows_with_numbers_in_their_order() -> None:
    assert head_of(labelled("b", "a", "b", "c")).labels == ["a", "b", "c"]
    assert head_of(labelled("10", "9", "x", "-1")).labels == ["-1", "9", "10", "x"]
    assert head_of(labelled(10, 9, 2)).labels == ["2", "9", "10"]
    assert head_of(labelled("a", "b"), labels=("b", "a", "never seen")).labels == ["b", "a", "never seen"]


def test_a_column_from_which_no_classes_can_be_learned_is_refused() -> None:
    with pytest.raises(ValueError, match="one class only"):
        head_of(labelled("a", "a"))
    with pytest.raises(ValueError, match=r"bce.*two classes.*3"):
        head_of(labelled("a", "b", "c"), loss="bce")


def test_an_unknown_label_is_named_with_the_nearest_known_one() -> None:
    head = head_of(labelled("sport", "money"))
    assert head.check({"label": "sport"}) == ""
    problem = head.check({"label": "sprot"})
    assert "'sprot'" in problem
    assert "Did you mean 'sport'?" in problem


def test_labels_go_to_ids_and_back() -> None:
    head = head_of(labelled("x", "y", "z"))
    for i, label in enumerate(head.labels):
        assert head.targets_of([label]) == [i]
        probabilities = [0.1, 0.1, 0.1]
        probabilities[i] = 0.8
        answer = head.answer([probabilities], {})
        assert answer["label"] == label
        assert answer["probabilities"][label] == 0.8


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert", "llama", "gpt2"])
def test_equals_the_loss_and_logits_of_the_plain_class(name: str, models: Any, toys: Any) -> None:
    rows = toys.rows(7)
    head, path = head_of(rows), str(models[name])
    decodes = name in ("llama", "gpt2")
    backbone = decoder.build(DecoderOptions(model=path)) if decodes else encoder.build(EncoderOptions(model=path))
    head.attach(backbone)
    head.eval()
    features, inputs = features_of(backbone, [row["text"] for row in rows])
    target = torch.tensor(head.targets_of([row["label"] for row in rows]))
    plain = AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=3, pad_token_id=backbone.tokenizer.pad_token_id
    ).eval()
    assert head.family is not None
    result = plain.load_state_dict(head.family.plain_state(), strict=False)
    assert not result.unexpected_keys
    told = plain(**inputs, labels=target)
    assert head.logits(features).shape == (7, 3)
    torch.testing.assert_close(head.logits(features), told.logits, atol=1e-5, rtol=0)
    loss = head.loss(features, Targets(7, {"target": target}))
    torch.testing.assert_close(loss / 7, told.loss, atol=1e-5, rtol=0)
    probabilities = torch.tensor(head.predict(features, Targets(0, {})))
    torch.testing.assert_close(probabilities, told.logits.softmax(dim=1), atol=1e-5, rtol=0)


def test_binary_cross_entropy_on_one_logit_is_the_cross_entropy_of_0_and_z(models: Any, toys: Any) -> None:
    rows = toys.rows(6)
    head = head_of(rows, loss="bce", label="fits", text=("text", "other"))
    backbone = encoder.build(EncoderOptions(model=str(models["bert"])))
    head.attach(backbone)
    head.eval()
    features, _ = features_of(backbone, [row["text"] for row in rows], [row["other"] for row in rows])
    target = torch.tensor(head.targets_of([row["fits"] for row in rows]))
    z = head.raw_outputs(features)
    assert z.shape == (6, 1)
    loss = head.loss(features, Targets(6, {"target": target}))
    reference = functional.binary_cross_entropy_with_logits(z.squeeze(1), target.float(), reduction="sum")
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(loss, functional.cross_entropy(head.logits(features), target, reduction="sum"))
    assert head.family is not None
    state = head.family.plain_state()
    exported = head.export_state(state)
    assert exported["classifier.weight"].shape == (2, 32)
    assert not exported["classifier.weight"][0].any()
    back = head.import_state(exported)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_a_pair_is_encoded_as_the_tokenizer_encodes_pairs(models: Any, toys: Any) -> None:
    rows = toys.rows(4)
    head = head_of(rows, text=("text", "other"))
    tokenizer = encoder.build(EncoderOptions(model=str(models["bert"]))).tokenizer
    columns = {name: [row[name] for row in rows] for name in ("text", "other", "label")}
    encoded = head.encode(columns, tokenizer, 64)
    reference = tokenizer(columns["text"], columns["other"])
    assert encoded.sequences == reference["input_ids"]
    assert encoded.extra["token_type_ids"] == reference["token_type_ids"]
    assert encoded.rows == [0, 1, 2, 3]
    assert max(map(len, head.encode(columns, tokenizer, 9).sequences)) == 9
    del columns["label"]
    assert head.encode(columns, tokenizer, 64).targets == {}


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    head = head_of(labelled("a", "b", "c", "d"))
    probabilities = random.dirichlet(np.ones(4), size=40)
    references = random.integers(3, size=40)  # class d never occurs
    chosen = probabilities.argmax(axis=1)
    found = head.metrics(probabilities.tolist(), references.tolist(), 0.5)
    expected = {"loss": 0.5, "accuracy": metrics.accuracy_score(references, chosen)}
    for average in ("macro", "weighted"):
        options: dict[str, Any] = {"average": average, "zero_division": 0}
        expected[f"precision_{average}"] = metrics.precision_score(references, chosen, **options)
        expected[f"recall_{average}"] = metrics.recall_score(references, chosen, **options)
        expected[f"f1_{average}"] = metrics.f1_score(references, chosen, **options)
    assert found == pytest.approx(expected)
    assert head.main_metric in found


def test_macro_averages_are_over_the_classes_that_occur_in_truth_or_prediction() -> None:
    head = head_of(labelled("a", "b", "c"))
    right = [[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]]
    assert head.metrics(right, [0, 1], 0.5)["f1_macro"] == 1.0
    wrong = head.metrics([*right, [0.0, 0.1, 0.9]], [0, 1, 0], 0.5)
    assert wrong["f1_macro"] == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_labels_that_look_alike_are_refused_with_their_row(models: Any) -> None:
    rows = [*labelled("yes", "no", "yes"), *labelled("yes\u200b", "no")]
    recipe = {"backbone": str(models["bert"]), "tasks": {"t": {"head": "classification"}}, "stages": {"max_steps": 1}}
    with pytest.raises(
        DataError, match=r"task 't' \(train\): row 4 of task 't': .*'yes\\u200b', which looks like .*'yes'"
    ):
        hft_core.run(recipe, data={"t": {"train": rows}})


def test_a_family_without_a_classifier_gets_a_linear_layer_on_the_mean_of_real_tokens(models: Any, toys: Any) -> None:
    rows = toys.rows(5)
    head = head_of(rows)
    backbone = encoder.build(EncoderOptions(model=str(models["splinter"])))
    head.attach(backbone)
    head.eval()
    assert head.family is None
    features, _ = features_of(backbone, [row["text"] for row in rows])
    together = head.logits(features)
    for i, row in enumerate(rows):
        alone, _ = features_of(backbone, [row["text"]])
        torch.testing.assert_close(head.logits(alone)[0], together[i], atol=1e-5, rtol=0)
