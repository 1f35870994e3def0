"""Recommend items by the texts of those that a user liked, and by what is known without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hft_core.errors import DataError, UsageError, did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hft_core.predict import SavedRun
    from hft_core.search import Index

DEFAULT_COLUMNS = ("disliked", "next")
"""Columns of users that need not be there."""
RECENT = 3
"""As many of the items that a user liked last are read by a ranking task."""


@dataclass(frozen=True)
class User:
    """What is known about a user; items are given by their texts."""

    columns: dict[str, Any]
    """Those that are repeated in the answer."""
    liked: list[str]
    """The latest last."""
    seen: frozenset[str] = frozenset()
    """Further ones that are not recommended."""
    after: frozenset[str] = field(default=frozenset())
    """Those that the user did like afterwards, to score recommendations by."""


@dataclass(frozen=True)
class Recommended:
    """An item, and the liked one that it is nearest to."""

    number: int
    score: float
    because: str


Scores = Callable[[User], "NDArray[np.float64]"]
"""Scores all items `[items]` for a user; the higher, the better."""


def history_text(liked: Sequence[str]) -> str:
    """Return what a ranking task reads of a user: the texts of the items that were liked last."""
    return "; ".join(liked[-RECENT:])


class Items:
    """The rows of an index in the order of their numbers."""

    def __init__(self, index: Index) -> None:
        self.rows = index.rows()
        self.texts = [str(row[index.facts.text]) for row in self.rows]

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return a column of numbers from 0 on `[items]`. Raises `UsageError` where a row has none."""
        if column not in self.rows[0]:
            hint = did_you_mean(column, self.rows[0])
            raise UsageError(f"--popularity: the rows of the index have no column '{column}'.{hint}")
        found = np.array([_number(row.get(column)) for row in self.rows])
        wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0)))
        if len(wrong):
            value = self.rows[wrong[0]].get(column)
            raise UsageError(
                f"--popularity {column}: row {wrong[0] + 1} of the index has {value!r}, expected a number of 0 or more"
            )
        return found


class Nearness:
    """Scores an item by the mean of its similarities to those that a user liked, each among its nearest neighbors.

    `weights` `[items]`: factors on the scores.
    """

    def __init__(self, index: Index, items: Items, neighbors: int, weights: NDArray[np.float64] | float = 1) -> None:
        self.index, self.items, self.neighbors, self.weights = index, items, neighbors, weights
        self._similar: dict[str, NDArray[np.float64]] = {}

    def prepare(self, users: Sequence[User]) -> None:
        """Search for all that the users liked, at once, and forget what other users liked."""
        wanted = {text for user in users for text in user.liked}
        self._similar = {text: found for text, found in self._similar.items() if text in wanted}
        new = list(dict.fromkeys(text for user in users for text in user.liked if text not in self._similar))
        for text, hits in zip(new, self.index.search(new, k=self.neighbors) if new else [], strict=True):
            self._similar[text] = np.zeros(len(self.items.rows))
            self._similar[text][[hit.number - 1 for hit in hits]] = [hit.similarity for hit in hits]

    def __call__(self, user: User) -> NDArray[np.float64]:
        return np.asarray(self._of(user).mean(0) * self.weights)

    def reason(self, user: User, number: int) -> str:
        """Return the liked item that the item is nearest to."""
        return user.liked[int(self._of(user)[:, number].argmax())]

    def _of(self, user: User) -> NDArray[np.float64]:
        if any(text not in self._similar for text in user.liked):
            self.prepare([user])
        return np.stack([self._similar[text] for text in user.liked])


def by_tfidf(items: Items) -> Scores:
    """Score by the mean cosine of TF-IDF vectors of words to those of the items that a user liked."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True)
    vectors = words.fit_transform(items.texts)
    return lambda user: np.asarray((vectors @ words.transform(user.liked).T).mean(1)).ravel()


def top(scores: NDArray[np.float64], user: User, texts: Sequence[str], k: int) -> list[int]:
    """Return the numbers (from 0) of the `k` best items that the user has neither liked nor seen; of items with one
    text, the first."""
    known = set(user.seen.union(user.liked))
    found: list[int] = []
    for number in np.argsort(-scores, kind="stable"):
        if len(found) == k:
            break
        if texts[number] not in known:
            known.add(texts[number])
            found.append(int(number))
    return found


class Ranker:
    """Orders candidates by a task of the run that reads a user's history and an item together."""

    def __init__(self, saved: SavedRun, task: str, items: Items) -> None:
        """Raises `UsageError` for a task that does not, and rows without the column that it reads."""
        heads = saved.model.heads
        if task not in heads:
            raise UsageError(f"--rerank: the run has no task '{task}'.{did_you_mean(task, heads)}")
        head = saved.model.head(task)
        columns = [column.name for column in head.columns() if column.kind == "text" and not column.target]
        if len(columns) != 2 or columns[1] not in items.rows[0]:
            raise UsageError(
                f"--rerank {task}: expected a ranking task that reads a history and a column of the index "
                f"({', '.join(items.rows[0])}); it reads {', '.join(columns)}"
            )
        self.saved, self.task, self.items = saved, task, items
        (self.query, self.document), self.group = columns, head.group_column

    def order(self, users: Sequence[User], candidates: Sequence[Sequence[int]]) -> list[list[tuple[int, float]]]:
        """Return the candidates of each user with their scores, the best first."""
        from hft_core.predict import predict

        rows = [
            {**({self.group: str(i)} if self.group else {}), self.document: self.items.rows[number][self.document]}
            | {self.query: history_text(user.liked)}
            for i, (user, own) in enumerate(zip(users, candidates, strict=True))
            for number in own
        ]
        values = [answer.get("value") for answer in predict(self.saved, self.task, rows)] if rows else []
        numbers = iter([float(value) for value in values if isinstance(value, int | float)])
        if any(not isinstance(value, int | float) for value in values):
            raise UsageError(f"--rerank {self.task}: expected a task that answers with a number, such as 'ranking'")
        scored = [[(number, next(numbers)) for number in own] for own in candidates]
        return [sorted(own, key=lambda pair: -pair[1]) for own in scored]


def users_of(path: str, *, liked: str, seen: Sequence[str], after: str) -> list[User]:
    """Read a user from each row of a data file. Raises `DataError` for the first row that is none."""
    from hft_core.predict import rows_from_file

    rows, users = rows_from_file(path, "input"), []
    for flag, name in (*(("--seen", name) for name in seen), ("--next", after)):
        if name not in DEFAULT_COLUMNS and not rows.has(name):
            raise UsageError(f"{flag}: {path} has no column '{name}'.{did_you_mean(name, rows.columns)}")
    for indices, columns in rows.batches(1024):
        for i, values in zip(indices, zip(*columns.values(), strict=True), strict=True):
            row = dict(zip(columns, values, strict=True))
            if liked not in row:
                raise DataError(f"{rows.where(i)}: has no '{liked}' (--liked).{did_you_mean(liked, row)}")
            lists = {name: _texts(row[name], rows.where(i), name) for name in {liked, after, *seen} & set(row)}
            if not lists[liked]:
                raise DataError(
                    f"{rows.where(i)}: column '{liked}': expected texts of items that the user liked; found none"
                )
            others = frozenset(text for name in seen for text in lists.get(name, ()))
            kept = {name: value for name, value in row.items() if name not in lists}
            users.append(User(kept, lists[liked], others, frozenset(lists.get(after, ()))))
    return users


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _texts(value: Any, place: str, column: str) -> list[str]:
    found = [] if value is None else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise DataError(f"{place}: column '{column}': expected a list of texts; found {str(value)[:80]!r}")
    return found
