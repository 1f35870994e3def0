"""Rows are tokenised once: what a head made of them is kept as mapped Arrow files, by the hash of what made it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from hft_core.data import token_cache_key
from hft_core.data.mapped import Parts, opened
from hft_core.runtime.cache import MANIFEST, Cache

if TYPE_CHECKING:
    from hft_core.backbone import Backbone
    from hft_core.data.rows import Rows
    from hft_core.head import Head
    from hft_core.recipe.resolve import Chosen

LEAST_ROWS = 2_000
"""Fewer rows are tokenised anew. Finding out whether they were before takes 0.1 to 0.3 s, mostly for the tokenizer's
hash; a fast tokenizer takes as long for a few thousand short rows, a slow one or a teacher for a few hundred."""

Make = Callable[[], Iterable[pa.Table]]
"""Tokenises, a few rows at a time."""


def tokenised(make: Make) -> list[pa.Table]:
    """What `make` makes, kept for this process only."""
    return _filled(make, Parts())


class TokenStore:
    """The tokenised rows of a model's tasks, those of earlier runs included."""

    def __init__(self, backbone: Backbone, chosen: Chosen, heads: Mapping[str, Chosen]) -> None:
        """`chosen`: the backbone's plugin and options; `heads`: those of the heads by task. Rows of a head that is not
        among them are not kept."""
        self._backbone, self._chosen, self._heads = backbone, chosen, heads
        self._cache = Cache("tokens")

    def tokenised(self, rows: Rows, names: Sequence[str], head: Head, max_length: int, make: Make) -> list[pa.Table]:
        """What `make` makes of the columns `names` of `rows`, now or in an earlier run."""
        key = self._key(rows, names, head, max_length) if len(rows) >= LEAST_ROWS else None
        if key is None:
            return tokenised(make)
        found = self._found(key)
        if found is not None:
            return found
        with self._cache.filling(key) as folder:
            found = self._found(key)  # another process may have filled it meanwhile
            if found is not None:
                return found
            if folder is None:
                return tokenised(make)
            return self._made(key, folder, make)

    def _made(self, key: str, folder: Path, make: Make) -> list[pa.Table]:
        parts = Parts(folder)
        tables = _filled(make, parts)
        if parts.in_folder:
            with suppress(OSError):  # the disk is full: what was made is there for this process all the same
                self._cache.publish(folder, key)
        return tables

    def _found(self, key: str) -> list[pa.Table] | None:
        place = self._cache.find(key)
        if place is None:
            return None
        try:
            return [opened(path) for path in sorted(place.iterdir()) if path.name != MANIFEST]
        except (OSError, pa.ArrowInvalid):  # another process removed it, or it was written by another Arrow
            return None

    def _key(self, rows: Rows, names: Sequence[str], head: Head, max_length: int) -> str | None:
        chosen = self._heads.get(head.task)
        parts = (self._of_model, chosen and token_cache_key.of_head(head, chosen, max_length))
        if None in parts:
            return None
        return token_cache_key.of_all(*parts, names, token_cache_key.of_rows(rows, names))

    @cached_property
    def _of_model(self) -> str | None:
        made = token_cache_key.of_backbone(self._backbone, self._chosen)
        try:
            return made and token_cache_key.of_all(made, token_cache_key.of_tokenizer(self._backbone.tokenizer))
        except Exception:  # whatever a tokenizer of a family's own raises that cannot be saved
            return None


def _filled(make: Make, parts: Parts) -> list[pa.Table]:
    for table in make():
        parts.add(table)
    return parts.finish()
