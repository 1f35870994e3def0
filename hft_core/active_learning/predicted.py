"""Turn what a run answers for a row into distributions and votes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hft_core.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Predicted:
    """What a run predicts for a row: one distribution over its classes, or, where labels are independent, one of two
    outcomes for each label."""

    names: tuple[str, ...]
    """Of the classes or labels."""
    probabilities: NDArray[np.float64]
    """`[distributions, outcomes]`"""
    votes: tuple[int, ...]
    """The outcome that the run's answer names, for each distribution."""


def predicted(answer: Mapping[str, Any], task: str) -> Predicted:
    """Return the distributions of an answer of `predict`. Raises `UsageError` for one without probabilities."""
    by_name = answer.get("probabilities")
    if not isinstance(by_name, Mapping) or not by_name:
        raise UsageError(
            f"task '{task}' answers without probabilities: expected one such as a 'classification' task, or "
            "--by diversity"
        )
    names, values = tuple(by_name), np.array(list(by_name.values()), np.float64)
    if "label" in answer:
        return Predicted(names, values[None], (names.index(answer["label"]),))
    given = answer.get("value", ())
    return Predicted(names, np.stack([1 - values, values], axis=1), tuple(int(name in given) for name in names))
