"""A task that is proposed for the columns of a file, and the columns that it is chosen from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hft_core.inspection import column_names as names
from hft_core.inspection.column_profile import ColumnProfile, Kind


@dataclass(frozen=True)
class Proposal:
    """A head and its options for a file, in the terms of a recipe."""

    head: str
    options: dict[str, Any]
    why: str
    """In one sentence."""
    unsure: tuple[str, ...] = ()
    """What the choice rests on no evidence for, and what to change if it is wrong; a sentence each."""
    texts: tuple[str, ...] = ()
    """The columns that it reads."""
    label: str = ""
    """The column of classes, numbers or texts that it learns."""


@dataclass(frozen=True)
class Table:
    """The columns of a file."""

    columns: Sequence[ColumnProfile]
    kinds: dict[Kind, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        found: dict[Kind, list[str]] = {}
        for column in self.columns:
            found.setdefault(column.kind, []).append(column.name)
        object.__setattr__(self, "kinds", found)

    def __getitem__(self, name: str) -> ColumnProfile:
        return next(column for column in self.columns if column.name == name)

    def of(self, *kinds: Kind) -> list[str]:
        """Return the columns of these kinds, in their order in the file."""
        return [column.name for column in self.columns if column.kind in kinds]

    @property
    def texts(self) -> list[str]:
        """The columns of texts that a head may read, those about the row left out where there are others."""
        found = self.of("text")
        return [name for name in found if not names.is_named(name, names.OTHER)] or found

    def pair(self, known: Iterable[tuple[str, str]], kinds: tuple[Kind, ...] = ("text",)) -> tuple[str, str] | None:
        """Return the two columns that have the names of a known pair."""
        among = self.of(*kinds)
        for first, second in known:
            one, other = names.first_named(among, (first,)), names.first_named(among, (second,))
            if one and other:
                return one, other
        return None

    def two(
        self, known: Iterable[tuple[tuple[str, ...], tuple[str, ...]]], kinds: tuple[Kind, ...] = ("text",)
    ) -> tuple[str, str] | None:
        """Return one column with a name of the first group and one with a name of the second."""
        among = self.of(*kinds)
        for firsts, seconds in known:
            one = names.first_named(among, firsts)
            other = names.first_named([name for name in among if name != one], seconds)
            if one and other:
                return one, other
        return None
