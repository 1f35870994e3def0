"""The contract of the head seam: what one task learns from the trunk's features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hft_core.backbone import Backbone, FamilyModule, Features

OWN_LENGTH = "decoder_"
"""Inputs of the trunk whose names begin so are not as long as their sequence."""


@dataclass(frozen=True)
class Column:
    """A column that a head reads from its rows."""

    name: str
    kind: Literal["text", "label", "number", "messages"]
    """`text`: a string that is not blank. `label`: a string, integer or boolean, used by its text. `number`: finite.
    `messages`: a conversation, a list of `{role, content}`."""
    target: bool = False
    """The column holds what is to be learned: rows to predict on may lack it."""
    classes: bool = True
    """Of a label: its values are classes that rows share, so that splits keep their proportions."""
    many: bool = False
    """Each cell is a list of such values (words, choices, probabilities)."""
    separator: str = ""
    """With `many`: a cell that is a text, as in a CSV file, is divided at this. A text that is a JSON list is read as
    one."""


@dataclass
class Encoded:
    """Rows as the trunk takes them. One row may become several examples (a long text in chunks)."""

    sequences: list[list[int]]
    """Token ids of each example, special tokens included."""
    rows: list[int]
    """For each example, the index of its row in the batch that was encoded."""
    extra: dict[str, list[Any]] = field(default_factory=dict)
    """Further trunk inputs by name (`token_type_ids`), one value a token; those called `decoder_…` have a length of
    their own."""
    targets: dict[str, list[Any]] = field(default_factory=dict)
    """What the head needs to know of each example, for `collate`."""
    units: list[int] = field(default_factory=list)
    """For each example, the number of its unit: consecutive examples of one unit (the choices of a question, the
    candidates of a query) are planned as one and always in the same batch. Empty: each example is a unit."""


@dataclass(frozen=True)
class Draw:
    """Names one use of an example, so that random choices (masks) are a function of it and of nothing else."""

    seed: int
    epoch: int
    """The pass over the task's rows that the use belongs to; -1 in evaluation."""

    def generator(self, example: int) -> np.random.Generator:
        """Random numbers for example number `example` of the task."""
        return np.random.default_rng((self.seed, self.epoch + 1, example))


@dataclass
class Targets:
    """What a batch of examples is to be compared with."""

    count: int
    """How many targets the loss is a sum over."""
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class HeadContext:
    """Describe the run that a head is built for. A head's factory receives one when it has a keyword `context`."""

    catalogue: Any
    """The run's plugins (`hft_core.Catalogue`), for a head that opens another run with `hft_core.open_run`."""


class Head(nn.Module, ABC):
    """One task's head.

    Life: built from its options; `learn` looks at the training rows (label names); `attach` makes the modules for a
    backbone; then `encode` → `collate` → `loss` in training, `predict` → `metrics` in evaluation. `facts` carries what
    `learn` found into a saved run, where `learn` is not called.
    """

    main_metric: str
    """The metric that stands for the task."""
    greater_is_better = True
    """Of the main metric."""
    supervised = True
    chunks_long_texts = False
    """A row longer than `max_length` becomes several examples instead of being cut."""
    generates = False
    """`predict` writes text (`Backbone.generate`)."""
    predicts_when_scored = True
    """`metrics` needs predictions. Where making them takes long (generated text), a head may let the loss do."""
    joint = False
    """The loss compares the rows of a whole step with one another (`embed`, `joint_loss`)."""
    changes_sequences = False
    """`collate` gives other sequences than `encode` made (masked ones), so that no other task can share their encoding.
    """
    facts: dict[str, Any]
    """What was learned from the training rows; JSON-able."""
    pretrained = False
    """The head's weights mean something: they came with the trunk, or were trained by an earlier stage."""
    keeps_encoding = True
    """What `encode` gave in one run may be used in the next: it depends on nothing but its arguments, the head's
    options and the files they name, `facts`, the backbone and the code."""
    part_of_trunk = False
    """The head's weights came with the trunk, and train only where all of the trunk does, at its rate."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task
        self.facts = {}

    @property
    def group_column(self) -> str:
        """A column whose equal values belong together (a query's candidates): such rows are in one split, and are given
        to `encode` one after another in one call. Empty: rows are independent."""
        return ""

    # --- data

    @abstractmethod
    def columns(self) -> Sequence[Column]:
        """The columns that the head reads."""

    def learn(self, rows: Mapping[str, Sequence[Any]]) -> None:
        """Look at all training rows (by column; one that is not looked at is not loaded) and fill `facts`. Raises
        `ValueError` when nothing can be learned."""

    def check(self, row: Mapping[str, Any]) -> str:
        """What is wrong with a labelled row beyond its columns' kinds (an unknown label), or an empty string; `row` has
        the head's columns. After `learn`."""
        return ""

    @abstractmethod
    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        """Token ids and targets of some rows (by column; target columns may be missing). No sequence is longer than
        `max_length`. What it gives may be kept for later runs (`keeps_encoding`)."""

    @abstractmethod
    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        """The sequences as the trunk shall see them (masked, for instance), and the targets of the batch."""

    # --- model

    @abstractmethod
    def attach(self, backbone: Backbone) -> None:
        """Make the head's modules. Raises `ValueError` when the backbone lacks what the head needs."""

    @abstractmethod
    def loss(self, features: Features, targets: Targets) -> Tensor:
        """The loss, summed over the batch's targets (a scalar; 0 when there is none)."""

    def embed(self, features: Features) -> Tensor:
        """`[examples, d]`: what `joint_loss` needs to know of each example. Of heads whose loss is `joint`."""
        raise NotImplementedError(f"{type(self).__name__} sets `joint` and does not embed")

    def joint_loss(self, embeddings: Tensor, targets: Targets) -> Tensor:
        """As `loss`, from the embeddings of all examples of a step, `targets.tensors` joined likewise.

        The embeddings of a step that is divided into batches are computed twice, so that memory is that of one batch
        (GradCache, Gao et al. 2021, arXiv:2101.06983).
        """
        raise NotImplementedError(f"{type(self).__name__} sets `joint` and has no joint loss")

    def predict(self, features: Features, targets: Targets) -> list[Any]:
        """One JSON-able prediction an example. Heads that only have a loss return nothing. `targets` may be empty: rows
        to predict on need not have any."""
        return []

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """What `hft predict` prints for a row: a `label` or a `value`, and what else is known, from its examples'
        predictions and its cells by column."""
        raise NotImplementedError(f"the head of task '{self.task}' makes no predictions for single texts")

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        """Metric values on a split, main metric included, from one prediction and one reference an example and the mean
        loss a target."""
        return {"loss": loss}

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        """What the predictions of some examples are compared with, one an example."""
        return []

    # --- saving

    @property
    def family(self) -> FamilyModule | None:
        """The module that the backbone's family made for this head, if any: a plain class opens it with the trunk."""
        return None

    def config(self) -> dict[str, Any]:
        """Settings of the saved model's configuration (`id2label` and the like)."""
        return {}

    def export_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of `family` as the plain class of the backbone's family expects them."""
        return dict(state)

    def import_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `export_state`."""
        return dict(state)
