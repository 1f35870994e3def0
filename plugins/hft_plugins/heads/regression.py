"""`regression`: a number for a text or a pair of texts.

The output layer learns targets divided by their standard deviation, from a bias that is their mean: a step of AdamW
changes outputs by about the learning rate, whatever the targets' unit, and beside other tasks the squares of large
numbers would be the only loss that counts. The divisor is rounded to a power of two, so that multiplying the saved
weights by it loses no bit: the saved model gives the targets' own numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from hft_core.backbone import Backbone, Features
from hft_core.data import as_number
from hft_core.head import Column, Targets
from hft_plugins.heads.parts.number_targets import oddities, problem_of_target
from hft_plugins.heads.parts.sequence_head import SequenceHead, WindowedOptions, single_output_layer


class Options(WindowedOptions):
    """Options of `regression`: columns and the unit of the loss."""

    standardize: bool = Field(
        default=True,
        description="learn targets divided by about their standard deviation, starting from their mean; predictions "
        "and the saved model are in the targets' own unit",
    )


class Regression(SequenceHead):
    """Predict a number by squared error on one output."""

    main_metric = "pearson"
    target_dtype = torch.float32

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task, options)
        self.standardizes = options.standardize
        self._mean = 0.0

    @property
    def scale(self) -> float:
        """A power of two: outputs of the scorer times this are predictions."""
        return float(self.facts.get("scale", 1.0))

    def columns(self) -> Sequence[Column]:
        return [*self.text_columns(), Column(self.columns_read.label, "number", target=True)]

    def learn(self, rows: Mapping[str, Sequence[Any]]) -> None:
        values = np.array([as_number(cell) for cell in rows[self.columns_read.label]])
        if values.min() < values.max() and values.min().astype(np.float32) == values.max().astype(np.float32):
            raise ValueError(
                f"column '{self.columns_read.label}': the numbers from {values.min():.17g} to {values.max():.17g} are "
                "one and the same in float32: subtract what they have in common"
            )
        self.warnings += oddities(values, self.columns_read.label)
        if self.standardizes:
            self._mean = float(values.mean())
            # To so many digits that rounding on another machine does not change it.
            self.facts = {"scale": _power_of_two(float(f"{values.std():.3g}"))}

    def check(self, row: Mapping[str, Any]) -> str:
        return problem_of_target(as_number(row[self.columns_read.label]), self.columns_read.label)

    def targets_of(self, cells: Sequence[Any]) -> list[float]:
        return [as_number(cell) for cell in cells]

    def attach(self, backbone: Backbone) -> None:
        self.attach_outputs(backbone, 1, self.columns_read.pooling)
        if self.standardizes:
            self._begin_at_mean()

    def _begin_at_mean(self) -> None:
        assert self.scorer is not None, "attach comes first"
        *_, output = (m for m in self.scorer.modules() if isinstance(m, nn.Linear) and m.out_features == 1)
        if output.bias is not None:  # decoders' classes have none
            nn.init.constant_(output.bias, self._mean / self.scale)

    def loss(self, features: Features, targets: Targets) -> Tensor:
        """Return the sum of squared errors of the standardized targets."""
        return self._squared_errors(features, targets, "sum")

    def losses(self, features: Features, targets: Targets) -> Tensor | None:
        return self._squared_errors(features, targets, "none")

    def _squared_errors(self, features: Features, targets: Targets, reduction: str) -> Tensor:
        outputs = self.of_rows(self.raw_outputs(features).squeeze(1), targets)
        return functional.mse_loss(outputs, targets.tensors["target"] / self.scale, reduction=reduction)

    def outputs(self, features: Features) -> dict[str, Tensor]:
        return {"value": self.raw_outputs(features).squeeze(1) * self.scale}

    def decode(self, outputs: Mapping[str, Tensor], targets: Targets) -> list[Any]:
        return self.of_rows(outputs["value"], targets).tolist()

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        (value,) = predictions
        return {"value": value}

    def baseline(self, references: Sequence[Any]) -> float:
        """Return the mean."""
        return float(np.mean(references))

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        """Return `mse` and `mae` in the targets' unit (`loss` is of the standardized ones), and correlations, which are
        0 where they are not defined (a constant on either side)."""
        from scipy.stats import pearsonr, spearmanr  # slow to import
        from sklearn.metrics import mean_absolute_error, mean_squared_error

        scores = {
            "loss": loss,
            "mse": float(mean_squared_error(references, predictions)),
            "mae": float(mean_absolute_error(references, predictions)),
        }
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

    def export_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        last = single_output_layer(state)
        return {name: tensor * self.scale if name in last else tensor for name, tensor in state.items()}

    def import_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        last = single_output_layer(state)
        return {name: tensor / self.scale if name in last else tensor for name, tensor in state.items()}


def _power_of_two(deviation: float) -> float:
    """Return the power of two nearest to a standard deviation; 1 for targets that are all the same."""
    return 2.0 ** round(math.log2(deviation)) if deviation > 0 else 1.0


def build(options: Options, *, task: str) -> Regression:
    return Regression(task, options)
