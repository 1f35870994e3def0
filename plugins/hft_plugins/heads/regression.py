"""`regression`: a number for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hft_core.backbone import Backbone, Features
from hft_core.data import as_number
from hft_core.head import Column, Targets
from hft_plugins.heads.parts.number_targets import problem_of_target
from hft_plugins.heads.parts.sequence_head import SequenceHead, SequenceOptions


class Options(SequenceOptions):
    """Options of `regression`: columns."""


class Regression(SequenceHead):
    """Predict a number by squared error on one output."""

    main_metric = "pearson"
    target_dtype = torch.float32

    def columns(self) -> Sequence[Column]:
        return [*self.text_columns(), Column(self.columns_read.label, "number", target=True)]

    def learn(self, rows: Mapping[str, Sequence[Any]]) -> None:
        values = np.array([as_number(cell) for cell in rows[self.columns_read.label]])
        if values.min() < values.max() and values.min().astype(np.float32) == values.max().astype(np.float32):
            raise ValueError(
                f"column '{self.columns_read.label}': the numbers from {values.min():.17g} to {values.max():.17g} are "
                "one and the same in float32: subtract what they have in common"
            )

    def check(self, row: Mapping[str, Any]) -> str:
        return problem_of_target(as_number(row[self.columns_read.label]), self.columns_read.label)

    def target_of(self, cell: Any) -> float:
        return as_number(cell)

    def attach(self, backbone: Backbone) -> None:
        self.attach_outputs(backbone, 1, self.columns_read.pooling)

    def loss(self, features: Features, targets: Targets) -> Tensor:
        return functional.mse_loss(self.outputs(features)["value"], targets.tensors["target"], reduction="sum")

    def losses(self, features: Features, targets: Targets) -> Tensor | None:
        return functional.mse_loss(self.outputs(features)["value"], targets.tensors["target"], reduction="none")

    def outputs(self, features: Features) -> dict[str, Tensor]:
        return {"value": self.raw_outputs(features).squeeze(1)}

    def decode(self, outputs: Mapping[str, Tensor], targets: Targets) -> list[Any]:
        return outputs["value"].tolist()

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        (value,) = predictions
        return {"value": value}

    def baseline(self, references: Sequence[Any]) -> float:
        """Return the mean."""
        return float(np.mean(references))

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        """Correlations are 0 where they are not defined (a constant on either side)."""
        from scipy.stats import pearsonr, spearmanr  # slow to import
        from sklearn.metrics import mean_absolute_error

        scores = {"loss": loss, "mae": float(mean_absolute_error(references, predictions))}
        defined = len(predictions) > 1 and np.ptp(predictions) > 0 and np.ptp(references) > 0
        for name, correlation in (("pearson", pearsonr), ("spearman", spearmanr)):
            scores[name] = float(correlation(references, predictions).statistic) if defined else 0.0
        return scores

    def config(self) -> dict[str, Any]:
        return {
            "id2label": {0: self.columns_read.label},
            "label2id": {self.columns_read.label: 0},
            "problem_type": "regression",
        }


def build(options: Options, *, task: str) -> Regression:
    return Regression(task, options)
