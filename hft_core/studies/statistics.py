"""Paired statistics of two arms over seeds, and the verdict.

Both arms of a pair have the same seed and data, so that their difference is free of what the seed does to both. An
interval is Student's t over the differences: with 3 seeds, a percentile bootstrap excludes 0 in a quarter of all
comparisons of equal arms.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

LEVEL = 0.95
"""Of intervals; one minus it is the significance level."""
POWER = 0.8
EXACT_SEEDS = 16
"""With more seeds, sign flips are drawn instead of enumerated."""
DRAWS = 20_000
BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no difference shown"


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The differences of an arm to the reference in one metric, over seeds; positive is better."""

    seeds: int
    mean: float
    low: float
    """Lower end of the 95 % interval; -inf with one seed."""
    high: float
    p: float
    """Of the t test, two-sided; 1 with one seed."""
    sign_flip_p: float
    """Of the test that flips the signs of differences, two-sided."""
    sign_flip_floor: float
    """The smallest p that so many seeds can give."""
    detectable: float
    """The true difference that so many seeds show with a probability of 80 %, at the spread that was found."""


def paired(differences: Sequence[float]) -> Paired:
    """Describe differences over seeds. Raises `ValueError` without any."""
    values = np.asarray(differences, dtype=float)
    n = len(values)
    if n == 0:
        raise ValueError("no seed has both arms")
    mean = float(values.mean())
    floor = 2.0 / 2**n
    if n == 1:
        return Paired(
            seeds=1, mean=mean, low=-math.inf, high=math.inf, p=1.0, sign_flip_p=1.0, sign_flip_floor=1.0,
            detectable=math.inf,
        )  # fmt: skip
    error = float(values.std(ddof=1)) / math.sqrt(n)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
    flipped = sign_flip_p(values)
    return Paired(
        seeds=n,
        mean=mean,
        low=mean - reach,
        high=mean + reach,
        p=float(t_test(values)),
        sign_flip_p=flipped,
        sign_flip_floor=floor,
        detectable=detectable(error * math.sqrt(n), n),
    )


def t_test(differences: np.ndarray) -> np.ndarray:
    """Return the two-sided p of a paired t test over the last axis, `[…, seeds]` → `[…]`.

    Differences without any spread (scores of few rows) have no t: p is then that of sign flips, or 1 if they are 0.
    """
    n = differences.shape[-1]
    mean, deviation = differences.mean(axis=-1), differences.std(axis=-1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean / (deviation / math.sqrt(n))
    p = 2 * stats.t.sf(np.abs(t), n - 1)
    without_spread = deviation <= 1e-12 * np.maximum(1.0, np.abs(mean))
    found: np.ndarray = np.where(without_spread, np.where(np.abs(mean) > 1e-12, 2.0 / 2**n, 1.0), p)
    return found


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float:
    """Return the two-sided p of the mean under flips of signs, exact for up to 16 seeds."""
    values = np.asarray(differences, dtype=float)
    n = len(values)
    if n <= EXACT_SEEDS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    else:
        signs = np.random.default_rng(0).choice((1.0, -1.0), size=(DRAWS, n))
        signs[0] = 1.0
    sums, observed = np.abs(signs @ values), abs(values.sum())
    return float((sums >= observed * (1 - 1e-9)).mean())


def holm(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p values of one family, over the last axis: `[…, tests]`."""
    p = np.asarray(values, dtype=float)
    order = np.argsort(p, axis=-1, kind="stable")
    count = p.shape[-1]
    scaled = np.take_along_axis(p, order, axis=-1) * (count - np.arange(count))
    adjusted = np.minimum(np.maximum.accumulate(scaled, axis=-1), 1.0)
    found = np.empty_like(p)
    np.put_along_axis(found, order, adjusted, axis=-1)
    return found


def verdicts(means: np.ndarray, adjusted: np.ndarray) -> np.ndarray:
    """Return the verdict of each comparison, from the mean differences and the adjusted p values."""
    shown = adjusted < 1 - LEVEL
    return np.where(shown, np.where(means > 0, BETTER, WORSE), NO_DIFFERENCE)


def detectable(deviation: float, seeds: int) -> float:
    """Return the difference that a paired t test over so many seeds finds with a probability of 80 %."""
    if seeds < 2:
        return math.inf
    if deviation == 0:
        return 0.0
    freedom, limit = seeds - 1, float(stats.t.ppf((1 + LEVEL) / 2, seeds - 1))

    def missing(size: float) -> float:
        return float(stats.nct.sf(limit, freedom, size * math.sqrt(seeds))) - POWER

    return float(optimize.brentq(missing, 1e-6, 100.0, xtol=1e-4)) * deviation


def delta_m(
    scores: Mapping[str, float], reference: Mapping[str, float], greater: Mapping[str, bool]
) -> tuple[float | None, dict[str, float]]:
    """Return Δm, the mean over tasks of the relative gain on the reference, and its parts by task.

    A task whose reference is (nearly) 0 has no relative gain and no part; None without any part.
    """
    parts = {
        task: (1 if greater[task] else -1) * (scores[task] - base) / abs(base)
        for task, base in reference.items()
        if task in scores and abs(base) > 1e-8 and math.isfinite(base) and math.isfinite(scores[task])
    }
    return (sum(parts.values()) / len(parts) if parts else None), parts


def exact_mcnemar(one: np.ndarray, other: np.ndarray) -> tuple[float, int, int]:
    """Compare which rows two models get right, `[rows]` of booleans each.

    Returns the exact two-sided p, and the number of rows that only the first and only the second gets right.
    """
    only_one, only_other = int((one & ~other).sum()), int((~one & other).sum())
    if only_one + only_other == 0:
        return 1.0, 0, 0
    return float(stats.binomtest(only_one, only_one + only_other).pvalue), only_one, only_other


def paired_bootstrap(
    differences: np.ndarray, groups: np.ndarray | None = None, *, draws: int = 5_000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean difference over rows, `[rows]`; rows of a group (`[rows]`, equal
    numbers) are drawn together. Raises `ValueError` for fewer than 20 rows or groups, with which it is too narrow."""
    names, index = np.unique(np.arange(len(differences)) if groups is None else groups, return_inverse=True)
    if len(names) < 20:
        raise ValueError(f"{len(names)} independent rows or groups are too few for a bootstrap; expected 20 or more")
    sums, sizes = np.bincount(index, differences), np.bincount(index)
    random = np.random.default_rng(seed)
    means = np.empty(draws)
    for i in range(draws):
        drawn = random.integers(0, len(names), len(names))
        means[i] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)
