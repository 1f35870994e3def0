"""Check that numbers can be the targets of a squared error in float32, and look like measurements."""

from __future__ import annotations

import numpy as np

LARGEST = 1e15
"""Squared, and summed over the gradients of 10^8 weights, it is still a number of float32."""

FEW = 20
"""Among fewer targets, chance makes what the checks below look for."""
FAR = 10
"""A value this many times the interquartile range beyond the quartiles is far from the others."""
VERY_FAR = 1000
"""A single value so many times as far is no measurement like the others."""
MARKED, BEYOND, DISTINCT = 0.02, 3, 5
"""A value of this share of the rows, farther from all others than so many times their whole range, is a mark, where
there are so many others."""


def problem_of_target(value: float, column: str) -> str:
    """Return what is wrong with a target that float32 cannot compute with; empty if nothing is."""
    if abs(value) > LARGEST:
        return (
            f"column '{column}': found {value:g}, expected a number between -{LARGEST:g} and {LARGEST:g}, whose square "
            "is computed in float32: scale the column"
        )
    if value != 0 and np.float32(value) == 0:
        return f"column '{column}': found {value:g}, which is 0 in float32: scale the column"
    return ""


def oddities(values: np.ndarray, column: str) -> list[str]:
    """Return what is odd about the targets of all training rows `[rows]`: a line for each kind."""
    if len(values) > 1 and values.min() == values.max():
        return [f"column '{column}': all {len(values)} targets are {values[0]:g}: nothing is learned of the texts"]
    if len(values) < FEW:
        return []
    return [f"column '{column}': {what}" for what in (*_far_values(values), _count_or_date(values)) if what]


def _far_values(values: np.ndarray) -> list[str]:
    """Describe a lowest or highest value far from all others: of several rows, as -999 for a missing one has, or of one
    row, as a slip has."""
    low, high = np.quantile(values, (0.25, 0.75))
    found = []
    for value, distance in ((values.min(), low - values.min()), (values.max(), values.max() - high)):
        count, others = int((values == value).sum()), values[values != value]
        if not len(others):
            continue
        gap, spread = np.abs(others - value).min(), others.max() - others.min()
        several = count > 1 and distance > FAR * (high - low) > 0
        marked = count >= max(2, MARKED * len(values)) and gap > BEYOND * spread and len(np.unique(others)) >= DISTINCT
        if several or marked or (count == 1 and distance > VERY_FAR * (high - low) > 0):
            found.append(
                f"{count} of {len(values)} rows {'has' if count == 1 else 'have'} the target {value:g}, far from the "
                f"others ({others.min():g} to {others.max():g}), which decides most of the squared error; if it is a "
                "slip or stands for a missing value, leave it out"
            )
    return found


def _count_or_date(values: np.ndarray) -> str:
    """Describe whole numbers that look like those of rows, or like dates; empty for others."""
    if (values != np.round(values)).any():
        return ""
    steps = np.diff(np.sort(values))
    if steps[0] > 0 and (steps == steps[0]).all():
        return (
            f"the {len(values)} targets are all different and evenly spaced ({values.min():.0f} to "
            f"{values.max():.0f}), as the numbers of rows are"
        )
    years, months, days = values // 10000, values // 100 % 100, values % 100
    if ((years >= 1900) & (years < 2100) & (months >= 1) & (months <= 12) & (days >= 1) & (days <= 31)).all():
        return (
            f"the targets look like dates ({values[0]:.0f}) and are learned as numbers, in which a month ends 70 days "
            "before the next"
        )
    return ""
