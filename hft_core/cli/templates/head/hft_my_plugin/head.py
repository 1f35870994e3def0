"""`my-plugin`: a number for a text.

Put your own task here. `hft_core.head.Head` says what each method is given and when it is called: rows become token ids
and targets (`encode`, `collate`), features become a loss, predictions and metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from hft_core import options
from hft_core.backbone import Backbone, Features
from hft_core.data import as_number
from hft_core.head import Column, Draw, Encoded, Head, Targets


class Options(options.Options):
    """Which columns are read."""

    text: str = Field(default="text", description="column of the text")
    number: str = Field(default="number", description="column of the number to be learned")


class MyPluginHead(Head):
    """Squared error of one output on the mean of the text's hidden states."""

    main_metric = "mae"
    greater_is_better = False

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task)
        self.read = options
        self.output: nn.Module = nn.Identity()

    def columns(self) -> Sequence[Column]:
        """What is read of each row."""
        return [Column(self.read.text, "text"), Column(self.read.number, "number", target=True)]

    def learn(self, rows: Mapping[str, Sequence[Any]]) -> None:
        """Find the scale of the training rows; `facts` are saved with the run."""
        numbers = np.array([as_number(cell) for cell in rows[self.read.number]])
        self.facts = {"mean": float(numbers.mean()), "scale": float(numbers.std()) or 1.0}

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        """One sequence a row."""
        sequences = tokenizer(list(rows[self.read.text]), truncation=True, max_length=max_length)["input_ids"]
        cells = rows.get(self.read.number)  # missing in rows to predict on
        targets = {} if cells is None else {"number": [as_number(cell) for cell in cells]}
        return Encoded(sequences, list(range(len(sequences))), targets=targets)

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        """The targets of a batch as tensors."""
        numbers = torch.tensor(targets.get("number", []), dtype=torch.float32)
        return sequences, Targets(len(numbers), {"number": numbers})

    def attach(self, backbone: Backbone) -> None:
        """Make the modules."""
        self.output = nn.Linear(backbone.hidden_size, 1)

    def outputs(self, features: Features) -> dict[str, Tensor]:
        """`scaled`, `[batch]`: how far from the mean, in units of the scale; padding does not count."""
        mask = features.attention_mask.unsqueeze(-1)
        mean = (features.hidden.float() * mask).sum(dim=1) / mask.sum(dim=1)
        return {"scaled": self.output(mean).squeeze(-1).float()}

    def losses(self, features: Features, targets: Targets) -> Tensor:
        """The loss of each row, `[batch]`."""
        wanted = (targets.tensors["number"] - self.facts["mean"]) / self.facts["scale"]
        return functional.mse_loss(self.outputs(features)["scaled"], wanted, reduction="none")

    def loss(self, features: Features, targets: Targets) -> Tensor:
        """The sum over the batch's targets; the core divides it by their number in the whole step."""
        return self.losses(features, targets).sum()

    def decode(self, outputs: Mapping[str, Tensor], targets: Targets) -> list[Any]:
        """One prediction a row."""
        return [self.facts["mean"] + self.facts["scale"] * output for output in outputs["scaled"].tolist()]

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        """What the predictions are compared with."""
        return targets["number"]

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        """The scores of a split."""
        return {"loss": loss, "mae": float(np.abs(np.subtract(predictions, references)).mean())}

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """What `hft predict` prints for a row."""
        (value,) = predictions
        return {"value": value}


def build(options: Options, *, task: str) -> MyPluginHead:
    """Called once a run for each task that has this head."""
    return MyPluginHead(task, options)
