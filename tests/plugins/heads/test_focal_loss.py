"""The focal loss, against torchvision's formula."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from hft_core.data import loading
from hft_core.head import Targets
from hft_plugins.heads import classification, multilabel

LOGITS = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.2, -0.4], [0.0, 0.1, 0.2], [-2.0, 1.0, 0.5]])
CLASSES = torch.tensor([0, 1, 2, 2])
LABELS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])


def sigmoid_focal_loss(inputs: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """As in torchvision.ops."""
    p = torch.sigmoid(inputs)
    ce_loss = functional.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    loss = ce_loss * ((1 - p_t) ** gamma)
    if alpha >= 0:
        alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
        loss = alpha_t * loss
    return loss


def learned(module: Any, labels: list[Any], **options: Any) -> Any:
    head = module.build(module.Options(loss="focal", **options), task="t")
    rows = loading.from_python([{"text": "a", "label": label} for label in labels], task="t")
    head.learn({"label": rows["label"], "text": rows["text"]})
    return head


def loss_of(head: Any, logits: Tensor, target: Tensor) -> Tensor:
    head.raw_outputs = lambda features: logits
    targets = Targets(target.numel(), {"target": target})
    summed = head.loss(SimpleNamespace(), targets)
    torch.testing.assert_close(head.losses(SimpleNamespace(), targets).sum(), summed)
    assert isinstance(summed, Tensor)
    return summed


@pytest.mark.parametrize("gamma", [None, 0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [-1.0, 0.25])
def test_the_loss_of_labels_is_torchvisions(gamma: float | None, alpha: float) -> None:
    weights = {} if alpha < 0 else {"class_weights": dict.fromkeys("abc", alpha / (1 - alpha))}
    head = learned(multilabel, [["a", "b"], ["c"]], gamma=gamma, **weights)
    expected = sigmoid_focal_loss(LOGITS, LABELS, alpha, 2.0 if gamma is None else gamma).sum()
    torch.testing.assert_close(loss_of(head, LOGITS, LABELS), expected / (1 if alpha < 0 else 1 - alpha))


@pytest.mark.parametrize("gamma", [None, 0.0, 0.5, 5.0])
@pytest.mark.parametrize("weights", [None, {"a": 3.0, "c": 0.5}])
def test_the_loss_of_classes_is_the_same_of_a_softmax(gamma: float | None, weights: dict[str, float] | None) -> None:
    head = learned(classification, ["a", "b", "c"], gamma=gamma, class_weights=weights)
    by_class = torch.tensor([3.0, 1.0, 0.5] if weights else [1.0, 1.0, 1.0])
    p = LOGITS.softmax(dim=1)[range(4), CLASSES]
    expected = (by_class[CLASSES] * (1 - p) ** (2.0 if gamma is None else gamma) * -p.log()).sum()
    torch.testing.assert_close(loss_of(head, LOGITS, CLASSES), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_row_that_is_certain_has_a_finite_gradient(gamma: float) -> None:
    for module, labels, target in (
        (classification, ["a", "b"], torch.tensor([0])),
        (multilabel, [["a"], ["b"]], torch.tensor([[1.0, 0.0]])),
    ):
        logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
        loss_of(learned(module, labels, gamma=gamma), logits, target).backward()
        assert logits.grad is not None and torch.equal(logits.grad, torch.zeros(1, 2))


def test_options_that_contradict_the_loss_are_refused() -> None:
    for module, other in ((classification, "cross_entropy"), (multilabel, "bce")):
        with pytest.raises(ValidationError, match="'gamma' is for loss: focal"):
            module.Options(loss=other, gamma=1.0)
        with pytest.raises(ValidationError, match="focal needs targets without label_smoothing"):
            module.Options(loss="focal", label_smoothing=0.1)
