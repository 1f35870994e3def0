"""Choose one of several annotators' answers, and measure how far they agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from hft_core.data.readers.annotations.items import Answer


def chosen(answers: Sequence[Answer]) -> Answer | None:
    """Return the answer that most annotators gave; None where two answers are given equally often, or there is none.

    Of numbers, the mean.
    """
    if answers and all(isinstance(answer, float) for answer in answers):
        return sum(answer for answer in answers if isinstance(answer, float)) / len(answers)
    ranked = Counter(answers).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def krippendorff_alpha(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Return Krippendorff's alpha (2011, "Computing Krippendorff's alpha-reliability") of what annotators said of each
    unit: 1 is agreement, 0 what chance gives.

    Numbers (floats) differ by the square of their distance (interval data), all else is equal or not (nominal data).
    None where no unit has two values or all values are equal, which leaves nothing to measure.
    """
    pairable = [values for values in units if len(values) > 1]
    total = sum(map(len, pairable))
    if not total:
        return None
    observed = sum(_differences(Counter(values)) / (len(values) - 1) for values in pairable) / total
    expected = _differences(Counter(value for values in pairable for value in values)) / (total * (total - 1))
    return None if not expected else 1 - observed / expected


def _differences(counts: Counter[Hashable]) -> float:
    """Return the sum of the differences between all ordered pairs of values."""
    if all(isinstance(value, float) for value in counts):
        pairs = [(a, m, b, n) for a, m in counts.items() for b, n in counts.items()]
        return float(sum(m * n * (a - b) ** 2 for a, m, b, n in pairs))  # type: ignore[operator]
    total = sum(counts.values())
    return float(total * total - sum(count * count for count in counts.values()))
