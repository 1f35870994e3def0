"""Weight the classes of a loss, and soften its targets: the options that classification heads share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor
from torch.nn import functional

from hft_core.data import as_label
from hft_core.errors import did_you_mean

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _with_labels(value: Any) -> Any:
    """Return the mapping with its keys as rows' labels are read: a number, yes and no too."""
    return {as_label(key): weight for key, weight in value.items()} if isinstance(value, dict) else value


ClassWeights = Literal["balanced"] | Annotated[dict[str, Weight], BeforeValidator(_with_labels)]
"""The type of the option: `balanced`, or a weight by label."""

CLASS_WEIGHTS_FIELD: Any = Field(
    default=None,
    description="factors on the loss of classes: balanced (rare ones count as much as frequent ones), or by label "
    "({spam: 3})",
)
LABEL_SMOOTHING_FIELD: Any = Field(
    default=0.0, ge=0, lt=1, description="share of a target that is divided evenly among all classes"
)


def balanced(counts: Sequence[int]) -> list[float]:
    """Return rows / (classes · rows of the class) for each class, as scikit-learn's `compute_class_weight` does; 1 for
    a class without rows."""
    total, classes = sum(counts), len(counts)
    return [total / (classes * count) if count else 1.0 for count in counts]


def of_classes(wanted: ClassWeights, labels: Sequence[str], found: Iterable[str]) -> list[float]:
    """Return the weight of each label; `found`: the labels of all training targets. Raises `ValueError`."""
    if isinstance(wanted, dict):
        return by_label(wanted, labels)
    counts = Counter(found)
    return balanced([counts[label] for label in labels])


def balanced_positives(counts: Sequence[int], rows: int) -> list[float]:
    """Return rows without the label / rows with it, for each label: `pos_weight` of binary cross-entropy; 1 for a label
    that no row or every row has."""
    return [(rows - count) / count if 0 < count < rows else 1.0 for count in counts]


def by_label(weights: Mapping[str, float], labels: Sequence[str]) -> list[float]:
    """Return the weight of each label; 1 for those that are left out. Raises `ValueError` for an unknown label."""
    odd = next((label for label in weights if label not in labels), None)
    if odd is not None:
        raise ValueError(
            f"class_weights: '{odd}' is none of the {len(labels)} labels of the training rows."
            f"{did_you_mean(odd, labels)}"
        )
    return [float(weights.get(label, 1.0)) for label in labels]


def on_device_of(logits: Tensor, weights: Sequence[float] | None) -> Tensor | None:
    """Return the weights as a tensor like `logits`."""
    return None if weights is None else torch.tensor(weights, dtype=logits.dtype, device=logits.device)


def cross_entropy(
    logits: Tensor, target: Tensor, weights: Sequence[float] | None, smoothing: float, reduction: str = "sum"
) -> Tensor:
    """Return `torch.nn.functional.cross_entropy` of logits `[targets, classes]`."""
    weight = on_device_of(logits, weights)
    return functional.cross_entropy(logits, target, weight, reduction=reduction, label_smoothing=smoothing)
