"""Split rows into train, dev and test with a seed.

scikit-learn's splitters do not fit: `StratifiedShuffleSplit` refuses a class with one row and fewer test rows than
classes, and does not guarantee each class in every part; `GroupShuffleSplit` counts groups, not rows, and does not
stratify; `StratifiedGroupKFold` supports only shares of 1/k.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hft_core.data.cells import group_key, shown
from hft_core.errors import DataError

if TYPE_CHECKING:
    from hft_core.data.rows import Rows

PARTS = ("train", "dev", "test")
UNKNOWN_GROUPS = ("nan", "NaN", "NaT", "<NA>", "None", "null", "NULL", "#N/A", "\\N")
"""What programs write for a missing value; not 'NA' (Namibia) and 'Null' (a name)."""


def split(
    rows: Rows, dev: float, test: float, *, seed: int, stratify: Sequence[str] | None, by: str | None
) -> dict[str, list[int]]:
    """Return the sorted indices of the train, dev and test rows; every row is in exactly one of them.

    The result depends only on the seed, the number of rows, `stratify` (one class per row) and the values of column
    `by`. Without `by`, each class is divided by the shares (largest remainder), a class of three or more rows is in
    every part whose share is not 0, and every class is in train. With `by`, rows with equal values stay together, so
    that the shares are approximate; every class is in train.

    Raises `DataError` for too few rows (or groups) to give every part one.
    """
    shares = {part: share for part, share in zip(PARTS, (1.0 - dev - test, dev, test), strict=True) if share > 0}
    classes = list(stratify) if stratify is not None else [""] * len(rows)
    random = np.random.default_rng((seed, 0))
    parts: Mapping[str, Sequence[int]]
    if by is None:
        _check_enough(len(rows), "rows", len(shares))
        parts = _divide_rows(random.permutation(len(rows)), classes, shares)
    else:
        groups = _groups(rows[by], random, room=min(shares.values()) * len(rows))
        _check_enough(len(groups), f"groups (different values of {by!r})", len(shares))
        parts = _divide_groups(groups, classes, shares)
    empty = [part for part in shares if not parts[part]]
    if empty:
        raise DataError(
            f"{len(rows)} rows of {len(set(classes))} classes leave no row for {' and '.join(empty)}: give at least "
            f"{len(shares)} rows of a class, or files for each split (train, dev, test)"
        )
    return {part: sorted(parts[part]) for part in PARTS}


def draw(classes: Sequence[str], count: int, *, seed: int) -> list[int]:
    """Return the sorted indices of `count` randomly sampled rows, one of each class first, so that no class is lost. A
    smaller sample with the same seed is a subset of a larger one."""
    order = np.random.default_rng((seed, 1)).permutation(len(classes)).tolist()
    seen: set[str] = set()
    firsts: list[int] = []
    others: list[int] = []
    for i in order:
        (others if classes[i] in seen else firsts).append(i)
        seen.add(classes[i])
    return sorted((firsts + others)[:count])


def draw_groups(values: Sequence[object], count: int, *, seed: int) -> list[int]:
    """Return the sorted indices of randomly sampled groups of equal `values`: at most `count` rows, but at least one
    group."""
    groups = _members(values)
    drawn: list[int] = []
    for i in np.random.default_rng((seed, 1)).permutation(len(groups)):
        if not drawn or len(drawn) + len(groups[i]) <= count:
            drawn += groups[i]
    return sorted(drawn)


def train_every_class(
    parts: Mapping[str, Sequence[int]], classes: Sequence[Collection[str]], groups: Sequence[object] | None
) -> dict[str, list[int]]:
    """Move rows of dev and test to train until train has a row of every class; the other rows stay where they are.

    A part that loses all its rows gets one of train in exchange, whose classes other rows of train have too; where none
    is, nothing is moved. `classes[i]`: row i's classes, any number of them. `groups[i]`: a value that is equal for rows
    that stay together.
    """
    before = {part: list(parts[part]) for part in PARTS}
    trained = {name for i in parts["train"] for name in classes[i]}
    moved: set[int] = set()
    together = {} if groups is None else {i: group for group in _members(groups) for i in group}
    for part in PARTS[1:]:
        for i in parts[part]:
            if i not in moved and not trained.issuperset(classes[i]):
                group = together.get(i, [i])
                moved.update(group)
                trained.update(name for row in group for name in classes[row])
    found = {part: [i for i in parts[part] if i not in moved] for part in PARTS}
    found["train"] = sorted({*parts["train"], *moved})
    for part in PARTS[1:]:
        if before[part] and not found[part]:
            spare = _spare_group([i for i in found["train"] if i not in moved], classes, found["train"], together)
            if not spare:
                return before
            found[part] = spare
            found["train"] = sorted({*found["train"]} - {*spare})
    return found


def _spare_group(
    rows: Sequence[int], classes: Sequence[Collection[str]], train: Sequence[int], together: Mapping[int, list[int]]
) -> list[int]:
    """Return the first of `rows`, with those that stay with it, without which `train` has every class still."""
    counts = Counter(name for i in train for name in classes[i])
    for i in rows:
        group = together.get(i, [i])
        needed = Counter(name for row in group for name in classes[row])
        if len(group) < len(train) and all(counts[name] > count for name, count in needed.items()):
            return group
    return []


def draw_of_all(classes: Sequence[Collection[str]], count: int, *, seed: int) -> list[int]:
    """Return the sorted indices of `count` randomly sampled rows that have any number of classes. If classes would be
    lost, rows with a class that no earlier row has come first."""
    order = np.random.default_rng((seed, 1)).permutation(len(classes)).tolist()
    if {name for i in order[:count] for name in classes[i]} < {name for names in classes for name in names}:
        seen: set[str] = set()
        firsts: list[int] = []
        for i in order:
            if not seen.issuperset(classes[i]):
                firsts.append(i)
            seen.update(classes[i])
        early = set(firsts)
        order = [*firsts, *(i for i in order if i not in early)]
    return sorted(order[:count])


def refuse_torn(rows: Rows, parts: Mapping[str, Sequence[int]], column: str, *, by: str | None) -> None:
    """Raise `DataError` if rows with an equal value of `column` are in different `parts`, as after a split `by` another
    column."""
    values = [group_key(value) for value in rows[column]]
    home: dict[Hashable, str] = {}
    for part, indices in parts.items():
        for i in indices:
            if home.setdefault(values[i], part) != part:
                raise DataError(
                    f"{rows.where(i)}: the rows with {column!r} {shown(rows[column][i])} belong together, but the "
                    f"split by {by!r} puts them into {home[values[i]]} and {part}: leave 'by' out, or name a column "
                    f"that has one value for all of them"
                )


def refuse_unknown_groups(rows: Rows, by: str) -> None:
    """Raise `DataError` for rows with nothing in column `by`, or what programs write for nothing: they would be one
    group, and rows that belong together in several parts."""
    unknown = [i for i, value in enumerate(rows[by]) if _is_unknown(value)]
    if unknown:
        more = f" (and {len(unknown) - 1} more row{'s' * (len(unknown) > 2)})" if len(unknown) > 1 else ""
        raise DataError(
            f"{rows.where(unknown[0])}: column {by!r} of 'by': found {shown(rows[by][unknown[0]])}{more}, from which "
            "it is not known which rows belong together; expected a value in each row"
        )


def _is_unknown(value: object) -> bool:
    if isinstance(value, str):
        return not value.strip() or value.strip() in UNKNOWN_GROUPS
    return value is None or value != value  # NaN


def _check_enough(count: int, kind: str, needed: int) -> None:
    if count < needed:
        raise DataError(
            f"{count} {kind} are too few for a split into {needed} parts, which needs one each: give more rows, or "
            f"shares of 0 for dev or test"
        )


def _divide_rows(order: np.ndarray, classes: list[str], shares: dict[str, float]) -> dict[str, array[int]]:
    parts: dict[str, array[int]] = {part: array("q") for part in PARTS}
    members: dict[str, array[int]] = {}  # a list of a million ints takes 40 MB, an array 8 MB
    for i in order:
        members.setdefault(classes[i], array("q")).append(i)
    # The rounding error of one class is carried to the next, so that the whole split meets the shares.
    owed = dict.fromkeys(shares, 0.0)
    for name in sorted(members):
        taken = 0
        for part, count in _counts(len(members[name]), shares, owed).items():
            parts[part] += members[name][taken : taken + count]
            taken += count
    return parts


def _counts(size: int, shares: dict[str, float], owed: dict[str, float]) -> dict[str, int]:
    """Return how many of a class's `size` rows each part gets; updates `owed`."""
    quota = {part: size * share for part, share in shares.items()}
    least = 1 if size >= len(shares) else 0
    counts = {part: max(int(quota[part]), least if part != "train" else 1) for part in shares}
    for part in shares:
        owed[part] += quota[part] - counts[part]
    while (left := size - sum(counts.values())) != 0:
        # The sum exceeds `size` only if the minimum of 1 raised a small part; the largest part makes up for it.
        part = max(shares, key=owed.__getitem__) if left > 0 else max(shares, key=counts.__getitem__)
        counts[part] += 1 if left > 0 else -1
        owed[part] -= 1 if left > 0 else -1
    return counts


def _groups(values: list[object], random: np.random.Generator, room: float) -> list[list[int]]:
    """Return the rows of each value: first the groups of more than `room` rows, which fit only into train, then the
    others, both in random order."""
    groups = _members(values)
    return sorted((groups[i] for i in random.permutation(len(groups))), key=lambda group: len(group) <= room)


def _members(values: Sequence[object]) -> list[list[int]]:
    """Return the indices of each distinct value, in order of first occurrence."""
    members: dict[Hashable, list[int]] = {}
    for i, value in enumerate(values):
        members.setdefault(group_key(value), []).append(i)
    return list(members.values())


def _divide_groups(groups: list[list[int]], classes: list[str], shares: dict[str, float]) -> dict[str, list[int]]:
    """Assign each group to the part that lacks most of the group's classes."""
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
