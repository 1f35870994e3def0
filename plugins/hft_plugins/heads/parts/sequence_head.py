"""Share what heads with one output vector per text or pair of texts have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hft_core import options
from hft_core.backbone import Backbone, FamilyModule, Features
from hft_core.head import Column, Draw, Encoded, Head, Targets
from hft_plugins.heads.parts.pooling import PooledLinear

PLAIN_CLASS = "AutoModelForSequenceClassification"


class SequenceOptions(options.Options):
    """Options of the columns."""

    text: str | tuple[str, str] = Field(default="text", description="column of the text, or two columns for a pair")
    label: str = Field(default="label", description="column of the label")

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if isinstance(self.text, str) else self.text


class ScoringHead(Head):
    """One vector of outputs a sequence, by the family's own module where it has one."""

    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.scorer: nn.Module | None = None

    def attach_outputs(self, backbone: Backbone, outputs: int, plain_class: str = PLAIN_CLASS) -> None:
        """Build the module that scores `[batch, outputs]`."""
        self.scorer = backbone.sequence_module(plain_class, num_labels=outputs) or PooledLinear(backbone, outputs)

    def outputs(self, features: Features) -> Tensor:
        """`[batch, outputs]`, in float32: losses and softmax lose too much in bfloat16."""
        assert self.scorer is not None, "attach comes first"
        outputs: Tensor = self.scorer(features)
        return outputs.float()

    @property
    def family(self) -> FamilyModule | None:
        return self.scorer if isinstance(self.scorer, FamilyModule) else None


def tokenize_texts(
    texts: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[list[int]], dict[str, list[Any]]]:
    """Token ids of texts, or of pairs (`texts` holds one or two columns), and the trunk's further inputs by name."""
    encoding = tokenizer(*map(list, texts), truncation=True, max_length=max_length, return_attention_mask=False)
    extra = {"token_type_ids": encoding["token_type_ids"]} if "token_type_ids" in encoding else {}
    return encoding["input_ids"], extra


class SequenceHead(ScoringHead):
    """A text or a pair in, one vector `[outputs]` out."""

    target_dtype: torch.dtype

    def __init__(self, task: str, options: SequenceOptions) -> None:
        super().__init__(task)
        self.columns_read = options

    @abstractmethod
    def target_of(self, cell: Any) -> int | float:
        """Return the target of a label cell."""

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        sequences, extra = tokenize_texts([rows[name] for name in self.columns_read.texts], tokenizer, max_length)
        cells = rows.get(self.columns_read.label)
        targets = {} if cells is None else {"target": [self.target_of(cell) for cell in cells]}
        return Encoded(sequences, list(range(len(sequences))), extra=extra, targets=targets)

    def text_columns(self) -> list[Column]:
        return [Column(name, "text") for name in self.columns_read.texts]

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        tensor = torch.tensor(targets.get("target", []), dtype=self.target_dtype)
        return sequences, Targets(len(tensor), {"target": tensor})

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        return targets["target"]
