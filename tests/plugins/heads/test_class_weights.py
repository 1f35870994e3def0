"""Weights of classes and softened targets, against torch and scikit-learn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from sklearn.metrics import precision_recall_fscore_support
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from hft_core.data import loading
from hft_core.head import Targets
from hft_plugins.heads import classification, multilabel, token_classification
from hft_plugins.heads.parts.class_weights import ClassWeights

LABELS = ["ham"] * 6 + ["spam"] * 2 + ["odd"]
WEIGHTS = {"spam": 3.0, "odd": 0.5}
LOGITS = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.2, -0.4], [0.0, 0.1, 0.2], [-2.0, 1.0, 0.5]])
TARGET = torch.tensor([0, 1, 2, 2])


def learned(module: Any, rows: list[dict[str, Any]], *columns: str, **options: Any) -> Any:
    head = module.build(module.Options(**options), task="t")
    table = loading.from_python(rows, task="t")
    head.learn({name: table[name] for name in columns})
    return head


def classifier(labels: list[str] = LABELS, **options: Any) -> Any:
    return learned(classification, [{"text": "a", "label": label} for label in labels], "label", **options)


def tagger(**options: Any) -> Any:
    rows = [{"words": ["w"] * 9, "tags": LABELS}]
    return learned(token_classification, rows, "tags", "words", scheme="plain", **options)


def loss_of(head: Any, logits: torch.Tensor, **targets: torch.Tensor) -> torch.Tensor:
    head.raw_outputs = lambda features: logits
    if isinstance(head, token_classification.TokenClassification):  # the words of one text
        head.raw_outputs = lambda features: logits.unsqueeze(0)
        targets |= {"sequence": torch.zeros(len(logits), dtype=torch.long), "position": torch.arange(len(logits))}
    summed = head.loss(None, Targets(len(logits), targets))
    features = SimpleNamespace(input_ids=torch.zeros(1, len(logits)))
    torch.testing.assert_close(head.losses(features, Targets(len(logits), targets)).sum(), summed)
    return summed


@pytest.mark.parametrize(("make", "name"), [(classifier, "target"), (tagger, "label")], ids=["texts", "tags"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, "balanced", WEIGHTS], ids=["none", "balanced", "given"])
def test_equals_the_cross_entropy_of_torch(make: Any, name: str, smoothing: float, weights: Any) -> None:
    head = make(class_weights=weights, label_smoothing=smoothing)
    by_label = {
        None: [1.0] * 3,
        "balanced": compute_class_weight("balanced", classes=np.array(head.labels), y=np.array(LABELS)),
    }
    wanted = [WEIGHTS.get(label, 1.0) for label in head.labels] if isinstance(weights, dict) else by_label[weights]
    torch.testing.assert_close(
        loss_of(head, LOGITS, **{name: TARGET}),
        functional.cross_entropy(
            LOGITS, TARGET, torch.tensor(wanted, dtype=torch.float32), label_smoothing=smoothing, reduction="sum"
        ),
    )


def test_one_logit_for_two_classes_is_weighted_as_two_are() -> None:
    head = classifier(["no", "yes", "no"], loss="bce", class_weights={"yes": 2}, label_smoothing=0.2)
    z, target = torch.tensor([[0.7], [-1.2]]), torch.tensor([1, 0])
    two = torch.cat([torch.zeros_like(z), z], dim=1)
    wanted = functional.cross_entropy(two, target, torch.tensor([1.0, 2.0]), label_smoothing=0.2, reduction="sum")
    torch.testing.assert_close(loss_of(head, z, target=target), wanted)


def test_labels_of_a_row_are_weighted_where_it_has_them() -> None:
    rows = [{"text": "a", "label": label} for label in ("x,y", "x", "", "x")]
    head = learned(multilabel, rows, "label", class_weights="balanced", label_smoothing=0.1)
    logits, target = torch.tensor([[0.5, -1.0], [2.0, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    wanted = functional.binary_cross_entropy_with_logits(
        logits, target * 0.9 + 0.05, pos_weight=torch.tensor([1 / 3, 3.0]), reduction="sum"
    )
    torch.testing.assert_close(loss_of(head, logits, target=target), wanted)


def test_a_weight_of_an_unknown_label_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"class_weights: 'spma' is none of .* Did you mean 'spam'\?"):
        classifier(class_weights={"spma": 2})


def test_keys_are_read_as_labels_of_rows_are() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(ClassWeights)
    assert adapter.validate_python({1: 2, "x": 1}) == {"1": 2.0, "x": 1.0}
    for wrong in ("balance", {"x": 0}, {"x": float("inf")}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


def test_scores_by_label_are_those_of_scikit_learn() -> None:
    head, truth, said = classifier(), [0, 0, 0, 1, 2, 2], [0, 0, 2, 0, 2, 2]
    found = head.by_label([np.eye(3)[i].tolist() for i in said], truth)
    columns = precision_recall_fscore_support(truth, said, average=None, zero_division=0.0)
    for i, label in enumerate(head.labels):
        values = [found[label][name] for name in ("precision", "recall", "f1", "support")]
        assert values == pytest.approx([column[i] for column in columns])
    assert {label: scores["predicted"] for label, scores in found.items()} == {"ham": 3, "odd": 0, "spam": 3}


def test_scores_of_chunks_are_by_type() -> None:
    rows = [{"words": ["a", "b", "c"], "tags": ["B-PER", "I-PER", "B-LOC"]}]
    head = learned(token_classification, rows, "tags", "words")
    ids = [head.labels.index(tag) for tag in rows[0]["tags"]]
    outside = head.labels.index("O")
    found = head.by_label([[[0, ids[0]], [1, ids[1]], [2, outside]]], [ids])
    assert found == {
        "LOC": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1, "predicted": 0},
        "PER": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1, "predicted": 1},
    }
