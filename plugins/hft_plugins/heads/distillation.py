"""`distillation`: the class probabilities of a teacher, from the rows or from a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from hft_core.backbone import Features
from hft_core.data import as_label, as_list, as_number
from hft_core.errors import ModelError, did_you_mean
from hft_core.head import Column, Draw, Encoded, HeadContext, Targets
from hft_core.options import LocalPath
from hft_core.results import LabelScores
from hft_plugins.heads import classification
from hft_plugins.heads.classification import Classification
from hft_plugins.heads.parts.label_ids import LabelNames
from hft_plugins.heads.parts.sequence_head import SequenceOptions
from hft_plugins.heads.parts.teacher import Teacher

TOLERANCE = 1e-3
"""How far a row's probabilities may be from a sum of 1."""


class Options(SequenceOptions):
    """Columns, teacher and loss."""

    label: str = Field(default="", description="column of true labels, if any")
    probabilities: str | Annotated[tuple[str, ...], Field(min_length=2)] | None = Field(
        default=None,
        description="the teacher's class probabilities: the column of a list of them, or one column per class",
    )
    separator: str = Field(default="", description="separator of probabilities in one text cell, as in a CSV file")
    labels: LabelNames | None = Field(
        default=None,
        description="class names in the order of the probabilities; the columns' names, or 0, 1, … for a list, when "
        "left out",
    )
    teacher: LocalPath | None = Field(default=None, description="folder of a finished run that gives the probabilities")
    teacher_task: str | None = Field(
        default=None, description="the teacher's task; the one of the same name when left out"
    )
    temperature: float = Field(default=2.0, gt=0, description="softens both distributions: softmax(logits / T)")
    alpha: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="weight of the teacher beside true labels, which have 1 - alpha; 0.5 when left out",
    )

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        if (self.probabilities is None) == (self.teacher is None):
            raise ValueError("give either 'probabilities' (columns) or 'teacher' (the folder of a finished run)")
        if self.teacher is None and self.teacher_task is not None:
            raise ValueError("'teacher_task' is a task of 'teacher', which is missing")
        if self.teacher is not None and self.labels is not None:
            raise ValueError("'labels' are those of the teacher, and cannot be given beside 'teacher'")
        if self.alpha is not None and not self.label:
            raise ValueError("'alpha' weighs the teacher against true labels, but there is no 'label' column")
        return self


class Distillation(Classification):
    """Train on alpha · T² · KL(teacher_T ‖ student_T) + (1 - alpha) · cross-entropy with the true label.

    p_T is p with its logits divided by the temperature T (Hinton et al. 2015, arXiv:1503.02531); without labels alpha
    is 1.

    It is predicted from and saved as a classification.
    """

    def __init__(self, task: str, options: Options, context: HeadContext | None = None) -> None:
        super().__init__(task, classification.Options(text=options.text, label=options.label, labels=options.labels))
        self.options = options
        self.labelled = bool(options.label)
        self.main_metric = "accuracy" if self.labelled else "agreement"
        self.alpha = 1.0 if not self.labelled else 0.5 if options.alpha is None else options.alpha
        given = options.probabilities or ()
        listed = isinstance(given, str)
        names = (given,) if isinstance(given, str) else given
        self.soft_columns = [Column(n, "number", target=True, many=listed, separator=options.separator) for n in names]
        self.teacher = None
        if options.teacher is not None:
            self.teacher = Teacher(Path(options.teacher), options.teacher_task or task, student=task, context=context)

    def columns(self) -> Sequence[Column]:
        hard = [Column(self.options.label, "label", target=True)] if self.labelled else []
        return [*self.text_columns(), *self.soft_columns, *hard]

    def learn(self, rows: Mapping[str, Sequence[Any]]) -> None:
        self.facts = {"labels": self._class_names(rows)}
        if len(self.labels) < 2:
            raise ValueError(f"found the probabilities of {len(self.labels)} classes, expected two or more")

    def _class_names(self, rows: Mapping[str, Sequence[Any]]) -> list[str]:
        if self.teacher is not None:
            return self.teacher.labels(len(self.columns_read.texts))
        if not self.soft_columns[0].many:
            names = [column.name for column in self.soft_columns]
        else:
            first = rows[self.soft_columns[0].name][0]
            names = [str(i) for i in range(len(as_list(first, self.soft_columns[0])))]
        if self.given_labels is not None and len(self.given_labels) != len(names):
            raise ValueError(f"'labels' has {len(self.given_labels)} classes, but there are {len(names)} probabilities")
        return list(self.given_labels or names)

    def check(self, row: Mapping[str, Any]) -> str:
        label = as_label(row[self.options.label]) if self.labelled else self.labels[0]
        if label not in self.labels:
            return (
                f"column '{self.options.label}' holds the label '{label}', which is not one of the teacher's "
                f"{len(self.labels)} classes.{did_you_mean(label, self.labels)}"
            )
        return self._problem_of_probabilities(row) if self.soft_columns else ""

    def _problem_of_probabilities(self, row: Mapping[str, Any]) -> str:
        found = self._soft(row)
        where = ", ".join(f"'{column.name}'" for column in self.soft_columns)
        if len(found) != len(self.labels):
            return f"column {where}: found {len(found)} probabilities, expected {len(self.labels)}, one a class"
        if min(found) < 0:
            return f"column {where}: found the probability {min(found):g}, expected none below 0"
        if abs(sum(found) - 1) > TOLERANCE:
            return f"column {where}: found probabilities whose sum is {sum(found):g}, expected 1"
        return ""

    def _soft(self, row: Mapping[str, Any]) -> list[float]:
        """Return the probabilities in a row's cells."""
        first = self.soft_columns[0]
        values = as_list(row[first.name], first) if first.many else [row[column.name] for column in self.soft_columns]
        return [as_number(value) for value in values]

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        encoded = super().encode(rows, tokenizer, max_length)
        soft = self._probabilities(rows)
        if soft is not None:
            encoded.targets["probabilities"] = (soft / soft.sum(axis=1, keepdims=True)).tolist()
        return encoded

    def _probabilities(self, rows: Mapping[str, Sequence[Any]]) -> np.ndarray | None:
        """Return the probabilities `[rows, classes]`; None for rows without any, and once the teacher's run is deleted:
        the student can still predict."""
        if self.teacher is not None:
            texts = [rows[name] for name in self.columns_read.texts]
            return self.teacher.probabilities(texts) if self.teacher.exists() else None
        names = [column.name for column in self.soft_columns]
        if not all(name in rows for name in names):
            return None
        cells = zip(*(rows[name] for name in names), strict=True)
        return np.array([self._soft(dict(zip(names, row, strict=True))) for row in cells])

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        dtypes = {"probabilities": torch.float32, "target": self.target_dtype}
        tensors = {name: torch.tensor(values, dtype=dtypes[name]) for name, values in targets.items()}
        return sequences, Targets(len(targets.get("probabilities", ())), tensors)

    def loss(self, features: Features, targets: Targets) -> Tensor:
        return self._loss(features, targets, "sum")

    def losses(self, features: Features, targets: Targets) -> Tensor | None:
        return self._loss(features, targets, "none")

    def _loss(self, features: Features, targets: Targets, reduction: str) -> Tensor:
        logits, temperature = self.logits(features), self.options.temperature
        teacher = (targets.tensors["probabilities"].log() / temperature).softmax(dim=1)
        student = (logits / temperature).log_softmax(dim=1)
        divergence = functional.kl_div(student, teacher, reduction=reduction)
        soft = temperature**2 * (divergence.sum(dim=1) if reduction == "none" else divergence)
        if not self.labelled:
            return soft
        hard = functional.cross_entropy(logits, targets.tensors["target"], reduction=reduction)
        return self.alpha * soft + (1 - self.alpha) * hard

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        """The teacher's probabilities and the true label's id, where there is one."""
        if self.teacher is not None and "probabilities" not in targets:
            raise ModelError(
                f"task '{self.task}': there is no teacher {self.teacher.folder} any more to compare predictions with"
            )
        soft = targets["probabilities"]
        return list(zip(soft, targets["target"] if self.labelled else [None] * len(soft), strict=True))

    def baseline(self, references: Sequence[Any]) -> None:
        return None  # a teacher is no class label

    def by_label(self, predictions: Sequence[Any], references: Sequence[Any]) -> LabelScores:
        """Return the scores of the true labels; none where there are none."""
        return super().by_label(predictions, [label for _, label in references]) if self.labelled else {}

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        """`agreement`: how often student and teacher choose the same class; `kl`: the mean of KL(teacher ‖ student).
        With true labels also what a classification has."""
        from scipy.special import rel_entr  # only evaluations need it

        student, teacher = np.array(predictions), np.array([soft for soft, _ in references])
        divergence = rel_entr(teacher, np.maximum(student, np.finfo(np.float32).tiny)).sum(axis=1)
        scores = {
            "loss": loss,
            "agreement": float((student.argmax(axis=1) == teacher.argmax(axis=1)).mean()),
            "kl": float(divergence.mean()),
        }
        if not self.labelled:
            return scores
        return scores | super().metrics(predictions, [label for _, label in references], loss)


def build(options: Options, *, task: str, context: HeadContext | None = None) -> Distillation:
    return Distillation(task, options, context)
