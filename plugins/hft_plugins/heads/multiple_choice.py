"""`multiple-choice`: which of a question's choices is the right one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from textwrap import shorten
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from hft_core import options
from hft_core.backbone import Backbone, Features
from hft_core.data import as_label, as_list, nearest
from hft_core.head import Column, Draw, Encoded, Targets
from hft_plugins.heads.parts.example_groups import table
from hft_plugins.heads.parts.sequence_head import POOLING_FIELD, ScoringHead, tokenize_texts
from hft_plugins.heads.parts.sequence_scorer import PoolingOption

PLAIN_CLASS = "AutoModelForMultipleChoice"

LabelIs = Literal["index", "number", "letter", "text"]

_LETTERS = ascii_uppercase
_NUMBER = re.compile(r"-?\d+(\.0+)?")
"""A whole number, also as pandas writes it where a column has empty cells."""
TWICE = "the right choice has the tokens of another choice too: which of them is right cannot be learned"


class Options(options.Options):
    """Options of `multiple-choice`: columns, and the format of the label."""

    text: str | None = Field(
        default=None, description="column of the question or context; left out for choices without one"
    )
    choices: str | Annotated[tuple[str, ...], Field(min_length=2)] = Field(
        default="choices", description="column of each row's list of choices, or one column per choice"
    )
    separator: str = Field(default="", description="separator of choices in one text cell, as in a CSV file")
    label: str = Field(default="label", description="column of the right choice")
    label_is: LabelIs | None = Field(
        default=None,
        description="what labels are: indices from 0, numbers from 1, letters from A, or texts of choices; when left "
        "out, indices if all training labels are integers, and texts otherwise",
    )
    pooling: PoolingOption = POOLING_FIELD


class MultipleChoice(ScoringHead):
    """Cross-entropy over a row's choices. Each choice, after the question, is one sequence with one score; the choices
    of a row are a unit, and rows may have different numbers of them."""

    main_metric = "accuracy"

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task)
        self.options = options
        listed = isinstance(options.choices, str)
        names = (options.choices,) if isinstance(options.choices, str) else options.choices
        self.choice_columns = [Column(n, "text", many=listed, separator=options.separator) for n in names]
        self.label_column = Column(options.label, "label", target=True, classes=False)

    def columns(self) -> Sequence[Column]:
        question = [Column(self.options.text, "text")] if self.options.text is not None else []
        return [*question, *self.choice_columns, self.label_column]

    def learn(self, rows: Mapping[str, Sequence[Any]]) -> None:
        """Facts: what labels are (`label_is`). Raises `ValueError` where they can be read in two ways."""
        if self.options.label_is is not None:
            self.facts = {"label_is": self.options.label_is}
            return
        labels = [as_label(cell) for cell in rows[self.options.label]]
        numbers = all(_NUMBER.fullmatch(label) for label in labels)
        if numbers and all(self._are_texts(labels, rows)):
            raise ValueError(
                f"column '{self.options.label}': each label is a number and also the text of one of its row's choices "
                f"(such as '{labels[0]}'); expected 'label_is: text', or 'index' or 'number' for places from 0 or 1"
            )
        if numbers and not any(float(label) == 0 for label in labels):
            self.warnings.append(
                f"no label of column '{self.options.label}' is 0; they are read as places of choices from 0 on "
                "('label_is: number' counts from 1)"
            )
        self.facts = {"label_is": "index" if numbers else "text"}

    def _are_texts(self, labels: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> Iterator[bool]:
        """Yield for each row whether its label is the text of one of its choices."""
        names = [column.name for column in self.choice_columns]
        cells = zip(*(rows[name] for name in names), strict=True)
        for label, row in zip(labels, cells, strict=True):
            yield label in map(as_label, self.choices_of(dict(zip(names, row, strict=True))))

    def choices_of(self, row: Mapping[str, Any]) -> list[str]:
        if isinstance(self.options.choices, str):
            return as_list(row[self.options.choices], self.choice_columns[0])
        return [row[name] for name in self.options.choices]

    def check(self, row: Mapping[str, Any]) -> str:
        choices = [as_label(choice) for choice in self.choices_of(row)]
        if len(choices) < 2:
            found = f"one choice ('{_short(choices[0])}')" if choices else "an empty list of choices"
            return f"column '{self.options.choices}': found {found}, expected two or more"
        label = as_label(row[self.options.label])
        found = f"column '{self.options.label}': found '{_short(label)}'"
        if self.facts["label_is"] != "text":
            names = self._names(len(choices))
            if len(names) < len(choices):
                return f"column '{self.options.choices}': found {len(choices)} choices, more than there are letters"
            wanted = f"expected the place of a choice, {names[0]} to {names[-1]}"
            return "" if _place(label) in names else f"{found}, {wanted}"
        if choices.count(label) > 1:
            return f"{found}, which is the text of {choices.count(label)} choices, expected that of one"
        if label in choices:
            return ""
        hint = nearest(_short(label), map(_short, choices))
        if label.upper() in _LETTERS[: len(choices)]:
            hint = " ('label_is: letter' reads A, B, … as places)"
        return f"{found}, which is none of the row's {len(choices)} choices.{hint}"

    def right_of(self, choices: Sequence[str], cell: Any) -> int:
        """Return the index of the choice that a label cell names."""
        label = as_label(cell)
        if self.facts["label_is"] == "text":
            return [as_label(text) for text in choices].index(label)
        return self._names(len(choices)).index(_place(label))

    def _names(self, count: int) -> list[str]:
        """Return what labels call the places of `count` choices."""
        if self.facts["label_is"] == "letter":
            return list(_LETTERS[:count])
        first = 1 if self.facts["label_is"] == "number" else 0
        return [str(place) for place in range(first, first + count)]

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        names = [column.name for column in self.choice_columns]
        listed = [
            self.choices_of(dict(zip(names, cells, strict=True)))
            for cells in zip(*(rows[name] for name in names), strict=True)
        ]
        row_of = [i for i, choices in enumerate(listed) for _ in choices]
        texts = [[text for choices in listed for text in choices]]
        if self.options.text is not None:
            questions = rows[self.options.text]
            texts.insert(0, [questions[i] for i in row_of])
        sequences, extra = tokenize_texts(texts, tokenizer, max_length)
        targets = {"position": [j for choices in listed for j in range(len(choices))]}
        notes: dict[int, str] = {}
        if (labels := rows.get(self.options.label)) is not None:
            right = [self.right_of(choices, cell) for choices, cell in zip(listed, labels, strict=True)]
            targets["right"] = [right[i] for i in row_of]
            notes = _same_choices(sequences, row_of, right)
        return Encoded(sequences, row_of, units=row_of, extra=extra, targets=targets, notes=notes)

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        tensors = {name: torch.tensor(values) for name, values in targets.items()}
        questions = targets["position"].count(0) if "right" in targets else 0
        return sequences, Targets(questions, tensors)

    def attach(self, backbone: Backbone) -> None:
        self.attach_outputs(backbone, 1, self.options.pooling, PLAIN_CLASS)

    def scores(self, features: Features) -> Tensor:
        """Return the scores `[batch]`."""
        return self.raw_outputs(features).squeeze(1)

    def loss(self, features: Features, targets: Targets) -> Tensor:
        position = targets.tensors["position"]
        logits = table(self.scores(features), position, -math.inf)
        return functional.cross_entropy(logits, targets.tensors["right"][position == 0], reduction="sum")

    def outputs(self, features: Features) -> dict[str, Tensor]:
        return {"score": self.scores(features)}

    def decode(self, outputs: Mapping[str, Tensor], targets: Targets) -> list[Any]:
        return outputs["score"].tolist()

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the place (as labels give it; an index where they are texts) and text of the chosen one, and the
        probability of each."""
        probabilities = torch.tensor(predictions).softmax(dim=0)
        chosen = int(probabilities.argmax())
        names = self._names(len(probabilities))
        return {
            "label": names[chosen],
            "text": self.choices_of(row)[chosen],
            "probabilities": dict(zip(names, probabilities.tolist(), strict=True)),
        }

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        """Return each choice's index, and that of the right one."""
        return list(zip(targets["position"], targets["right"], strict=True))

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        from sklearn.metrics import accuracy_score  # slow to import

        position, right = torch.tensor(references).unbind(dim=1)
        chosen = table(torch.tensor(predictions), position, -math.inf).argmax(dim=1)
        return {"loss": loss, "accuracy": float(accuracy_score(right[position == 0], chosen))}


def _same_choices(sequences: Sequence[list[int]], rows: Sequence[int], right: Sequence[int]) -> dict[int, str]:
    """Return a note for each row with another choice of the tokens, cut as they are, of the right one."""
    of_row: dict[int, list[list[int]]] = {}
    for row, sequence in zip(rows, sequences, strict=True):
        of_row.setdefault(row, []).append(sequence)
    return {row: TWICE for row, choices in of_row.items() if choices.count(choices[right[row]]) > 1}


def _place(label: str) -> str:
    """Return a label that is a place in one form: without leading zeros, in upper case."""
    return str(int(float(label))) if _NUMBER.fullmatch(label) else label.upper()


def _short(text: str) -> str:
    """Shorten a text to one line."""
    return shorten(text, 60, placeholder="…")


def build(options: Options, *, task: str) -> MultipleChoice:
    return MultipleChoice(task, options)
