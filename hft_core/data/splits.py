"""Which rows train, and which measure: a seeded split into train, dev and test.

scikit-learn's splitters do not do it: `StratifiedShuffleSplit` refuses a class with one row and fewer test rows than
classes, and gives no class a place in every part; `GroupShuffleSplit` counts groups, not rows, and knows no classes;
`StratifiedGroupKFold` knows only shares of 1/k.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hft_core.data.cells import shown
from hft_core.errors import DataError

if TYPE_CHECKING:
    from hft_core.data.rows import Rows

PARTS = ("train", "dev", "test")


def split(
    rows: Rows, dev: float, test: float, *, seed: int, stratify: Sequence[str] | None, by: str | None
) -> dict[str, list[int]]:
    """Sorted indices of the train, dev and test rows; every row is in exactly one of them.

    A function of the seed, the number of rows, `stratify` (one class a row) and the values of column `by` alone.
    Without `by`: each class is divided by the shares (largest remainder), a class of three rows or more is in every
    part whose share is not 0, and every class is in train. With `by`: rows of equal value stay together, so the shares
    and classes are met as nearly as whole groups allow; train comes first.

    Raises `DataError` when there are too few rows (or groups) to give every part one.
    """
    shares = {part: share for part, share in zip(PARTS, (1.0 - dev - test, dev, test), strict=True) if share > 0}
    classes = list(stratify) if stratify is not None else [""] * len(rows)
    random = np.random.default_rng((seed, 0))
    parts: Mapping[str, Sequence[int]]
    if by is None:
        _enough(len(rows), "rows", len(shares))
        parts = _divide_rows(random.permutation(len(rows)), classes, shares)
    else:
        groups = _groups(rows[by], random, room=min(shares.values()) * len(rows))
        _enough(len(groups), f"groups (different values of {by!r})", len(shares))
        parts = _divide_groups(groups, classes, shares)
    empty = [part for part in shares if not parts[part]]
    if empty:
        raise DataError(
            f"{len(rows)} rows of {len(set(classes))} classes leave no row for {' and '.join(empty)}: give at least "
            f"{len(shares)} rows of a class, or files for each split (train, dev, test)"
        )
    return {part: sorted(parts[part]) for part in PARTS}


def draw(classes: Sequence[str], count: int, *, seed: int) -> list[int]:
    """Sorted indices of `count` rows drawn at random, one of each class first while they last, so that no class is
    lost. A smaller draw with the same seed is a part of a larger one."""
    order = np.random.default_rng((seed, 1)).permutation(len(classes)).tolist()
    seen: set[str] = set()
    firsts: list[int] = []
    others: list[int] = []
    for i in order:
        (others if classes[i] in seen else firsts).append(i)
        seen.add(classes[i])
    return sorted((firsts + others)[:count])


def draw_groups(values: Sequence[object], count: int, *, seed: int) -> list[int]:
    """Sorted indices of about `count` rows drawn at random by whole groups of equal `values`: no more rows than that,
    but at least one group."""
    groups = _members(values)
    drawn: list[int] = []
    for i in np.random.default_rng((seed, 1)).permutation(len(groups)):
        if not drawn or len(drawn) + len(groups[i]) <= count:
            drawn += groups[i]
    return sorted(drawn)


def refuse_torn(rows: Rows, parts: Mapping[str, Sequence[int]], column: str, *, by: str | None) -> None:
    """Raise `DataError` when rows with an equal value of `column` are in different `parts`, as a split `by` another
    column may leave them."""
    values = [repr(value) for value in rows[column]]
    home: dict[str, str] = {}
    for part, indices in parts.items():
        for i in indices:
            if home.setdefault(values[i], part) != part:
                raise DataError(
                    f"{rows.where(i)}: the rows with {column!r} {shown(rows[column][i])} belong together, but the "
                    f"split by {by!r} puts them into {home[values[i]]} and {part}: leave 'by' out, or name a column "
                    f"that has one value for all of them"
                )


def _enough(have: int, what: str, needed: int) -> None:
    if have < needed:
        raise DataError(
            f"{have} {what} are too few for a split into {needed} parts, which needs one each: give more rows, or "
            f"shares of 0 for dev or test"
        )


def _divide_rows(order: np.ndarray, classes: list[str], shares: dict[str, float]) -> dict[str, array[int]]:
    parts: dict[str, array[int]] = {part: array("q") for part in PARTS}
    members: dict[str, array[int]] = {}  # a list of a million numbers takes forty megabytes, an array eight
    for i in order:
        members.setdefault(classes[i], array("q")).append(i)
    # What the rounding of one class owes a part is carried to the next, so that the whole split has the asked shares.
    owed = dict.fromkeys(shares, 0.0)
    for name in sorted(members):
        taken = 0
        for part, count in _counts(len(members[name]), shares, owed).items():
            parts[part] += members[name][taken : taken + count]
            taken += count
    return parts


def _counts(size: int, shares: dict[str, float], owed: dict[str, float]) -> dict[str, int]:
    """How many of a class's `size` rows each part gets; updates `owed`."""
    quota = {part: size * share for part, share in shares.items()}
    least = 1 if size >= len(shares) else 0
    counts = {part: max(int(quota[part]), least if part != "train" else 1) for part in shares}
    for part in shares:
        owed[part] += quota[part] - counts[part]
    while (left := size - sum(counts.values())) != 0:
        # More than `size` were given only where the least of 1 lifted a small part: the largest gives them back.
        part = max(shares, key=owed.__getitem__) if left > 0 else max(shares, key=counts.__getitem__)
        counts[part] += 1 if left > 0 else -1
        owed[part] -= 1 if left > 0 else -1
    return counts


def _groups(values: list[object], random: np.random.Generator, room: float) -> list[list[int]]:
    """The rows of each value: first the groups of more than `room` rows, which only train has a place for, then the
    others; both in random order."""
    groups = _members(values)
    return sorted((groups[i] for i in random.permutation(len(groups))), key=lambda group: len(group) <= room)


def _members(values: Sequence[object]) -> list[list[int]]:
    """The indices of each different value, in the order in which the values first occur."""
    members: dict[str, list[int]] = {}
    for i, value in enumerate(values):
        members.setdefault(repr(value), []).append(i)
    return list(members.values())


def _divide_groups(groups: list[list[int]], classes: list[str], shares: dict[str, float]) -> dict[str, list[int]]:
    """Each group goes to the part that lacks most of the group's classes."""
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    totals = Counter(classes)
    lacking = {part: {name: share * count for name, count in totals.items()} for part, share in shares.items()}
    trained: set[str] = set()
    for done, group in enumerate(groups):
        counts = Counter(classes[i] for i in group)
        unfilled = [part for part in shares if not parts[part]]
        if len(groups) - done <= len(unfilled):
            part = unfilled[0]
        elif not counts.keys() <= trained:
            part = "train"
        else:
            part = max(shares, key=lambda p: sum(n * lacking[p][name] / totals[name] for name, n in counts.items()))
        for name, n in counts.items():
            lacking[part][name] -= n
        if part == "train":
            trained |= counts.keys()
        parts[part] += group
    return parts
