"""`classification`: one of several classes for a text or a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from hft_core.backbone import Backbone, Features
from hft_core.data import as_label
from hft_core.head import Column, Decision, Targets
from hft_core.results import LabelScores
from hft_plugins.heads.parts import class_weights, decisions, focal_loss, label_scores
from hft_plugins.heads.parts.class_weights import CLASS_WEIGHTS_FIELD, LABEL_SMOOTHING_FIELD, ClassWeights
from hft_plugins.heads.parts.decisions import CALIBRATE_FIELD, TwoClassMetric
from hft_plugins.heads.parts.focal_loss import GAMMA_FIELD
from hft_plugins.heads.parts.label_ids import LabelNames, config_of, first_rows, ids_of, in_order, refuse_alike, unknown
from hft_plugins.heads.parts.label_oddities import joined, oddities, own_labels, slips
from hft_plugins.heads.parts.sequence_head import SequenceHead, WindowedOptions, single_output_layer


class Options(WindowedOptions):
    """Options of `classification`: columns and loss."""

    loss: Literal["cross_entropy", "bce", "focal"] = Field(
        default="cross_entropy",
        description="bce: for two classes, binary cross-entropy on one logit; focal: cross-entropy that "
        "down-weights rows that are already classified with confidence",
    )
    gamma: float | None = GAMMA_FIELD
    labels: LabelNames | None = Field(
        default=None,
        description="class names in the order of their ids; those of the training rows, sorted, when left out",
    )
    class_weights: ClassWeights | None = CLASS_WEIGHTS_FIELD
    label_smoothing: float = LABEL_SMOOTHING_FIELD
    calibrate: bool = CALIBRATE_FIELD
    tune_threshold: TwoClassMetric | None = Field(
        default=None,
        description="for two classes: give the second one from the probability on that is best for this metric on the "
        "dev rows, instead of 0.5",
    )

    @model_validator(mode="after")
    def _loss_fits(self) -> Options:
        focal_loss.refuse_odd(self.loss, self.gamma, self.label_smoothing)
        return self


class Classification(SequenceHead):
    """Classify by cross-entropy over classes or, for two classes with `loss: bce`, binary cross-entropy on one logit z.

    The latter is saved as the ordinary classifier with the logits [0, z], whose softmax is the same. `loss: focal` is
    the focal loss of the softmax."""

    main_metric = "accuracy"
    target_dtype = torch.long

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task, options)
        self.binary, self.focal, self.gamma = options.loss == "bce", options.loss == "focal", options.gamma
        self.given_labels = options.labels
        self.smoothing, self.weights_wanted = options.label_smoothing, options.class_weights
        self.calibrate, self.tuned_for = options.calibrate, options.tune_threshold

    @property
    def labels(self) -> list[str]:
        """Class names; the position is the id."""
        labels: list[str] = self.facts["labels"]
        return labels

    def columns(self) -> Sequence[Column]:
        return [*self.text_columns(), Column(self.columns_read.label, "label", target=True)]

    def learn(self, rows: Mapping[str, Sequence[Any]]) -> None:
        found = first_rows([as_label(cell)] for cell in rows[self.columns_read.label])
        refuse_alike(found, self.columns_read.label, named=self.given_labels or ())
        labels = list(self.given_labels or in_order(found))
        if len(labels) < 2:
            raise ValueError(
                f"column '{self.columns_read.label}' has one class only ('{labels[0]}'); expected two or more"
            )
        if self.binary and len(labels) != 2:
            raise ValueError(f"loss 'bce' is for two classes, but column '{self.columns_read.label}' has {len(labels)}")
        if self.tuned_for is not None and len(labels) != 2:
            column = self.columns_read.label
            raise ValueError(f"tune_threshold is for two classes, but column '{column}' has {len(labels)}")
        self.facts = {"labels": labels}
        if self.weights_wanted is not None:
            found_labels = (as_label(cell) for cell in rows[self.columns_read.label])
            self.facts["class_weights"] = class_weights.of_classes(self.weights_wanted, labels, found_labels)
        if self.given_labels is None:
            column, cells = self.columns_read.label, rows[self.columns_read.label]
            more = filter(None, (joined(labels), own_labels(labels, len(cells)), *slips(Counter(map(as_label, cells)))))
            self.warnings += [*oddities(labels, column), *(f"column '{column}': {what}" for what in more)]

    def check(self, row: Mapping[str, Any]) -> str:
        label = as_label(row[self.columns_read.label])
        return "" if label in self.labels else unknown(f"column '{self.columns_read.label}' holds", label, self.labels)

    def targets_of(self, cells: Sequence[Any]) -> list[int]:
        ids = ids_of(self.labels)
        return [ids[as_label(cell)] for cell in cells]

    def attach(self, backbone: Backbone) -> None:
        self.attach_outputs(backbone, 1 if self.binary else len(self.labels), self.columns_read.pooling)

    def logits(self, features: Features) -> Tensor:
        """Return the logits `[batch, classes]`."""
        outputs = self.raw_outputs(features)
        return torch.cat([torch.zeros_like(outputs), outputs], dim=1) if self.binary else outputs

    def _of_rows(self, features: Features, targets: Targets) -> Tensor:
        """Return the outputs `[rows, classes]`, or `[rows, 1]` for binary cross-entropy."""
        return self.of_rows(self.raw_outputs(features), targets)

    def loss(self, features: Features, targets: Targets) -> Tensor:
        target = targets.tensors["target"]
        if self.focal or self.smoothing or "class_weights" in self.facts:
            return self._cross_entropy(features, targets, "sum")
        if self.binary:
            z = self._of_rows(features, targets).squeeze(1)
            return functional.binary_cross_entropy_with_logits(z, target.float(), reduction="sum")
        return functional.cross_entropy(self._of_rows(features, targets), target, reduction="sum")

    def losses(self, features: Features, targets: Targets) -> Tensor | None:
        return self._cross_entropy(features, targets, "none")

    def _cross_entropy(self, features: Features, targets: Targets, reduction: str) -> Tensor:
        logits, weights = self.of_rows(self.logits(features), targets), self.facts.get("class_weights")
        target = targets.tensors["target"]
        if not self.focal:
            return class_weights.cross_entropy(logits, target, weights, self.smoothing, reduction)
        losses = focal_loss.focused(functional.cross_entropy(logits, target, reduction="none"), self.gamma)
        if (by_class := class_weights.on_device_of(losses, weights)) is not None:
            losses = losses * by_class[target]
        return losses.sum() if reduction == "sum" else losses

    def outputs(self, features: Features) -> dict[str, Tensor]:
        return {"logits": self.logits(features)}

    def decode(self, outputs: Mapping[str, Tensor], targets: Targets) -> list[Any]:
        """Return the probability of each class."""
        logits = self.of_rows(outputs["logits"], targets)
        return (logits / self.decision().temperature).softmax(dim=1).tolist()

    @property
    def fits_decision(self) -> bool:
        return self.calibrate or self.tuned_for is not None

    def fit_decision(self, predictions: Sequence[Any], references: Sequence[Any]) -> Sequence[Any]:
        """Facts: the `temperature`, and the `threshold` of the second of two classes."""
        if self.calibrate:
            self.facts["temperature"] = decisions.fit_temperature(predictions, references)
            predictions = decisions.at_temperature(predictions, self.facts["temperature"])
        if self.tuned_for is not None:
            second = [probabilities[1] for probabilities in predictions]
            self.facts["threshold"] = decisions.fit_threshold(second, references, self.tuned_for)
        return predictions

    def decision(self) -> Decision:
        thresholds = (self.facts["threshold"],) if "threshold" in self.facts else ()
        return Decision(self.facts.get("temperature", 1.0), thresholds)

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        (probabilities,) = predictions
        (chosen,) = self._chosen(predictions)
        return {"label": self.labels[chosen], "probabilities": dict(zip(self.labels, probabilities, strict=True))}

    def baseline(self, references: Sequence[Any]) -> list[float] | None:
        """Return the share of each class."""
        counts = np.bincount(np.asarray(references, dtype=int), minlength=len(self.labels))
        shares: list[float] = (counts / counts.sum()).tolist()
        return shares

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        """Macro averages are over the classes that occur in the rows or in the predictions, as by default in
        scikit-learn."""
        from sklearn.metrics import accuracy_score, precision_recall_fscore_support  # slow to import

        chosen = self._chosen(predictions)
        scores = {"loss": loss, "accuracy": float(accuracy_score(references, chosen))}
        for average in ("macro", "weighted"):
            values = precision_recall_fscore_support(references, chosen, average=average, zero_division=0.0)
            scores |= {
                f"{n}_{average}": float(v) for n, v in zip(("precision", "recall", "f1"), values[:3], strict=True)
            }
        return scores

    def by_label(self, predictions: Sequence[Any], references: Sequence[Any]) -> LabelScores:
        return label_scores.label_scores(self.labels, references, self._chosen(predictions))

    def _chosen(self, predictions: Sequence[Sequence[float]]) -> list[int]:
        """Return the most probable class of each row, or the second of two from its threshold on."""
        if (threshold := self.facts.get("threshold")) is not None:
            return [int(probabilities[1] >= threshold) for probabilities in predictions]
        return [max(range(len(p)), key=p.__getitem__) for p in predictions]

    def config(self) -> dict[str, Any]:
        return {**config_of(self.labels), "problem_type": "single_label_classification"}

    def export_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Prepend a zero row to the last layer, for a head with one logit."""
        if not self.binary:
            return dict(state)
        last = single_output_layer(state)
        return {n: torch.cat([torch.zeros_like(t), t]) if n in last else t for n, t in state.items()}

    def import_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self.binary:
            return dict(state)
        assert self.family is not None
        last = single_output_layer(self.family.plain_state())
        return {name: tensor[1:] if name in last else tensor for name, tensor in state.items()}


def build(options: Options, *, task: str) -> Classification:
    return Classification(task, options)
