"""The contract of the head seam: one task's data encoding, modules, loss and metrics on top of the trunk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hft_core.backbone import Backbone, FamilyModule, Features, PooledOutput
    from hft_core.results import LabelScores

OWN_LENGTH = "decoder_"
"""Prefix of trunk inputs that do not have the length of their sequence."""


class RowError(ValueError):
    """What `Head.learn` raises for a wrong training row; `hft` names the row's file and place."""

    def __init__(self, row: int, message: str) -> None:
        """`row`: the index of the row in the columns that `learn` was given."""
        super().__init__(message)
        self.row = row


@dataclass(frozen=True)
class Column:
    """Describe a column that a head reads from its rows."""

    name: str
    kind: Literal["text", "label", "number", "messages", "tools"]
    """`text`: a non-blank string. `label`: a string, integer or boolean, compared as text. `number`: finite.
    `messages`: a conversation, a list of `{role, content}`. `tools`: functions that a conversation may call, a list of
    their JSON schemas; a row may have none."""
    target: bool = False
    """The column holds the target: rows for prediction may lack it."""
    classes: bool = True
    """For a label: its values are classes shared by rows; splits keep their proportions."""
    many: bool = False
    """Each cell is a list of such values (such as words, choices, probabilities)."""
    separator: str = ""
    """With `many`: a cell that is a text, as in a CSV file, is split at this string. A text that is a JSON list is
    parsed as one."""


@dataclass
class Encoded:
    """Tokenized rows. One row may become several examples (chunks of a long text)."""

    sequences: list[list[int]]
    """Token ids of each example, special tokens included."""
    rows: list[int]
    """For each example, the index of its row in the batch passed to `encode`."""
    extra: dict[str, list[Any]] = field(default_factory=dict)
    """Further trunk inputs by name (`token_type_ids`), one value per token; those named `decoder_…` have their own
    length."""
    targets: dict[str, list[Any]] = field(default_factory=dict)
    """Values per example that `collate` needs, by name."""
    units: list[int] = field(default_factory=list)
    """For each example, the index of its group: consecutive examples of one group (the choices of a question, the
    candidates of a query) are sampled together and always in the same batch. Empty: each example is a group."""
    notes: dict[int, str] = field(default_factory=dict)
    """What training does not learn of a row as it stands, by the row's index in the batch passed to `encode`; several
    notes are lines of one text. A run reports each note once, as a warning, with the number of its rows and the place
    of the first one."""

    def add_note(self, row: int, note: str) -> None:
        """Add a note to a row, unless it has this one."""
        lines = self.notes.get(row, "").splitlines()
        self.notes[row] = "\n".join(lines if note in lines else [*lines, note])


@dataclass(frozen=True)
class Draw:
    """Identify one use of an example, so that random choices (such as masks) are a function of it alone."""

    seed: int
    epoch: int
    """The epoch of the task's rows; -1 in evaluation."""

    def generator(self, example: int) -> np.random.Generator:
        """Return the random generator for example `example` (its index in the task)."""
        return np.random.default_rng((self.seed, self.epoch + 1, example))


@dataclass
class Targets:
    """The targets of a batch of examples."""

    count: int
    """The number of targets that the loss sums over."""
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Writing:
    """Describe how a head's `predict` has a text written, so that plain libraries can do the same."""

    settings: Mapping[str, Any]
    """Arguments of transformers' `generate`; what they leave open is greedy."""
    chat: bool = False
    """The text to continue is what the chat template makes of a user's message."""
    before: str = ""
    """Stands before the text of a row."""
    after: str = ""
    """Stands behind the text of a row."""


@dataclass(frozen=True)
class Decision:
    """Describe how a head's logits become probabilities and labels, so that plain libraries can do the same."""

    temperature: float = 1.0
    """Logits are divided by it."""
    thresholds: tuple[float, ...] = ()
    """The least probability of each label that is given; of two exclusive classes, that of the second alone. Empty: the
    most probable class, or the labels that the head's options say."""


@dataclass(frozen=True)
class TextWindows:
    """Describe how a head reads a long text in windows, so that other programs can do the same."""

    stride: int
    """Tokens that consecutive windows share; at most half of what a window holds of the text."""
    most: int
    """Windows of a text; what is behind them is cut."""
    pool: Literal["mean", "max", "first"]
    """What the outputs of a text are of those of its windows."""


@dataclass(frozen=True)
class HeadContext:
    """Describe the run that a head is built for. A head's factory receives one when it has a keyword `context`."""

    catalogue: Any
    """The run's plugins (`hft_core.Catalogue`), for a head that opens another run with `hft_core.open_run`."""


class Head(nn.Module, ABC):
    """Define one task: its columns, encoding, modules, loss, predictions and metrics.

    Life cycle: a factory builds it from its options; `learn` fits label names to the training rows; `attach` makes the
    modules for a backbone; training calls `encode`, `collate` and `loss`, evaluation also `losses`, `predict`
    and `metrics`. A saved run stores `facts` and does not call `learn` again.
    """

    main_metric: str
    """The metric that best weights are selected by."""
    greater_is_better = True
    """Direction of the main metric."""
    supervised = True
    chunks_long_texts = False
    """A row longer than `max_length` becomes several examples instead of being truncated."""
    generates = False
    """`predict` generates text (`Backbone.generate`)."""
    predicts_when_scored = True
    """`metrics` needs predictions; false where the loss alone suffices because predictions are slow (generated
    text)."""
    joint = False
    """The loss compares all rows of a step with each other (`embed`, `joint_loss`)."""
    predicts_units = False
    """The examples of a unit are windows of one row: `predict`, `losses` and `references` have one item per unit."""
    changes_sequences = False
    """`collate` returns other sequences than `encode` (such as masked ones), so that tasks cannot share an encoding."""
    facts: dict[str, Any]
    """What `learn` fitted to the training rows (such as label names); JSON-serializable."""
    warnings: list[str]
    """What is odd about the training rows as `learn` read them, a line each; a run reports them."""
    pretrained = False
    """The head's weights are pre-trained: loaded with the trunk, or trained by an earlier stage."""
    keeps_encoding = True
    """The result of `encode` may be cached for later runs: it depends only on its arguments, the head's options and the
    files they name, `facts`, the backbone and the code."""
    part_of_trunk = False
    """The head's weights belong to the trunk's checkpoint; they train only if all of the trunk does, at its learning
    rate."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task
        self.facts = {}
        self.warnings = []

    @property
    def group_column(self) -> str:
        """A column whose equal values form a group (a query's candidates): such rows are in one split, and consecutive
        in one call of `encode`. Empty: rows are independent."""
        return ""

    # --- data

    @abstractmethod
    def columns(self) -> Sequence[Column]:
        """Return the columns that the head reads."""

    def learn(self, rows: Mapping[str, Sequence[Any]]) -> None:
        """Fit `facts` (such as label names) to all training rows, given by column; a column that is not accessed is not
        loaded. Raises `ValueError` when the rows do not define a task, `RowError` when one of them is
        wrong. Checkpoints hold the facts, and a run resumes only where all processes find the same ones again: let no
        order of a set be part of them."""

    def classes_of(self, row: Mapping[str, Any]) -> Collection[str] | None:
        """Return the classes of a labeled row that may have several, each of which must be in a training row; None: the
        labels in its target columns with `many` labels. An automatic split moves rows to train so that it is (called
        before `learn`), and `hft validate` counts them (called after it)."""
        return None

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Take over the `facts` of a saved run, instead of `learn`."""
        self.facts = dict(facts)

    def check(self, row: Mapping[str, Any]) -> str:
        """Return what is wrong with a labelled row (such as an unknown label), beyond the kinds of its columns; empty
        if nothing is. `row` has the head's columns. Called after `learn`."""
        return ""

    @abstractmethod
    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        """Tokenize rows, given by column (target columns may be missing), to sequences of at most `max_length` tokens.
        The result may be cached for later runs (`keeps_encoding`)."""

    @abstractmethod
    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        """Return the sequences that the trunk reads (masked, for instance) and the targets of the batch.

        `targets`: values of `Encoded.targets` per example; `examples`: indices of the examples in the task.
        """

    # --- model

    @abstractmethod
    def attach(self, backbone: Backbone) -> None:
        """Create the head's modules. Raises `ValueError` when the backbone lacks what the head needs."""

    def input_scale(self, features: Features) -> float | None:
        """Return the root mean square of what the fresh output layer reads, so that its learning rate can fit; None to
        leave the rate as it is (such as for a head with more than one fresh layer)."""
        return None

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return the head's parameters that came with the checkpoint (a pooler): they train at the trunk's rate."""
        return []

    @abstractmethod
    def loss(self, features: Features, targets: Targets) -> Tensor:
        """Compute the loss summed over the batch's targets: a scalar, 0 without targets."""

    def embed(self, features: Features) -> Tensor:
        """Compute the embeddings `[examples, d]` that `joint_loss` compares. Required where `joint` is true."""
        raise NotImplementedError(f"{type(self).__name__} sets `joint` and does not embed")

    def joint_loss(self, embeddings: Tensor, targets: Targets) -> Tensor:
        """Compute the loss as `loss` does, from the embeddings `[examples, d]` of all examples of a step and their
        concatenated targets.

        The embeddings of a step that is split into batches are computed twice, so that memory is that of one batch
        (GradCache, Gao et al. 2021, arXiv:2101.06983).
        """
        raise NotImplementedError(f"{type(self).__name__} sets `joint` and has no joint loss")

    def losses(self, features: Features, targets: Targets) -> Tensor | None:
        """Compute the loss of each example, summed over its targets: `[batch]` (or `[units]`, see `predicts_units`),
        whose sum `loss` is. None where the loss is no sum over examples, or is not known by example."""
        return None

    def outputs(self, features: Features) -> dict[str, Tensor]:
        """Compute the tensors that predictions are made of, from the features alone: by name (`logits`, `value`,
        `score`, `embedding`), each `[batch, …]`, in float32. Empty where there are none (generated text, a loss
        alone)."""
        return {}

    def decode(self, outputs: Mapping[str, Tensor], targets: Targets) -> list[Any]:
        """Convert what `outputs` computed to predictions, as `predict` returns them. Required with `outputs`."""
        raise NotImplementedError(f"{type(self).__name__} has `outputs` and does not decode them")

    def predict(self, features: Features, targets: Targets) -> list[Any]:
        """Return one JSON-serializable prediction per example, from `outputs` and `decode` unless overridden; an empty
        list for heads that only have a loss. `targets` may be empty: rows for prediction need not have any."""
        outputs = self.outputs(features)
        return self.decode(outputs, targets) if outputs else []

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `hft predict` prints for a row (`label` or `value`, and further keys), from the predictions of
        its examples and its cells by column."""
        raise NotImplementedError(f"the head of task '{self.task}' makes no predictions for single texts")

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        """Compute the metrics of a split, main metric included, from one prediction and one reference per example and
        the mean loss per target."""
        return {"loss": loss}

    def by_label(self, predictions: Sequence[Any], references: Sequence[Any]) -> LabelScores:
        """Return `precision`, `recall`, `f1`, `support` (occurrences) and `predicted` (times it was given) of each
        label, from what `metrics` is given; empty for heads without labels."""
        return {}

    @property
    def fits_decision(self) -> bool:
        """Whether a run calls `fit_decision` at its end."""
        return False

    def fit_decision(self, predictions: Sequence[Any], references: Sequence[Any]) -> Sequence[Any]:
        """Fit to the dev rows how outputs become answers (a temperature, thresholds), keep it in `facts`, and return
        the predictions as they are with it. Both arguments have one item per example, as for `metrics`."""
        return predictions

    def decision(self) -> Decision:
        """Return how logits become answers."""
        return Decision()

    def text_windows(self) -> TextWindows | None:
        """Return how `outputs` of the windows of one text become those that `decode` makes an answer of; None where a
        head reads no windows, or its answers need more than that."""
        return None

    def baseline(self, references: Sequence[Any]) -> Any | None:
        """Return the prediction that is best where the text is not known, from the references of training examples (the
        classes' frequencies, the mean); None where there is no such prediction. Scores stand beside that of it."""
        return None

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        """Return one reference per example, for `metrics`."""
        return []

    # --- saving

    def writing(self) -> Writing | None:
        """Return how `predict` has texts written; None for a head that writes none."""
        return None

    @property
    def family(self) -> FamilyModule | None:
        """The family's module used by this head, if any: a transformers class loads it with the trunk."""
        return None

    def pooled_output(self) -> PooledOutput | None:
        """Return what the head computes, if it is a pooled text or a linear layer on one, not the `family`'s module, so
        that a few lines of torch, or sentence-transformers, compute it too."""
        return None

    def config(self) -> dict[str, Any]:
        """Return settings for the saved model's configuration (such as `id2label`)."""
        return {}

    def export_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert the weights of `family` to what the transformers class expects."""
        return dict(state)

    def import_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Invert `export_state`."""
        return dict(state)
