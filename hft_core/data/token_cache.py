"""Cache tokenized rows as memory-mapped Arrow files, by a hash of everything that tokenizing depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from hft_core.data import token_cache_key
from hft_core.data.arrow import PartWriter, open_table
from hft_core.runtime import cache_entry
from hft_core.runtime.cache import MANIFEST, TOKENS, Cache

if TYPE_CHECKING:
    from hft_core.backbone import Backbone
    from hft_core.data.rows import Rows
    from hft_core.head import Head
    from hft_core.recipe.resolve import Chosen

MIN_ROWS = 2_000
"""Fewer rows are not cached. A lookup takes 0.1 to 0.3 s, mostly to hash the tokenizer; a fast tokenizer takes as long
for a few thousand short rows, a slow one or a teacher for a few hundred."""

Tokenize = Callable[[], Iterable[pa.Table]]
"""Tokenizes, a few rows at a time."""


def without_cache(tokenize: Tokenize) -> list[pa.Table]:
    """Tokenize, keeping the tables for this process only."""
    return _write(tokenize, PartWriter())


class TokenCache:
    """The tokenized rows of a model's tasks, from this and earlier runs."""

    def __init__(self, backbone: Backbone, chosen: Chosen, heads: Mapping[str, Chosen]) -> None:
        """`chosen`, `heads`: plugin and options of the backbone, and of the heads by task. Rows of other heads are not
        cached."""
        self._backbone, self._chosen, self._heads = backbone, chosen, heads
        self._cache = Cache(TOKENS)

    def get(self, rows: Rows, names: Sequence[str], head: Head, max_length: int, tokenize: Tokenize) -> list[pa.Table]:
        """Return the tokenized columns `names` of `rows`, from the cache or by calling `tokenize`."""
        key = self._key(rows, names, head, max_length) if len(rows) >= MIN_ROWS else None
        if key is None:
            return without_cache(tokenize)
        tables = self._read(key)
        if tables is not None:
            return tables
        with self._cache.filling(key) as folder:
            tables = self._read(key)  # another process may have filled it meanwhile
            if tables is not None:
                return tables
            if folder is None:
                return without_cache(tokenize)
            return self._fill(key, folder, tokenize)

    def _fill(self, key: str, folder: Path, tokenize: Tokenize) -> list[pa.Table]:
        writer = PartWriter(folder)
        tables = _write(tokenize, writer)
        if writer.all_in_folder:
            with suppress(OSError):  # the disk is full; this process has the tables all the same
                self._cache.publish(folder, key, rows=_rows(tables))
        return tables

    def _read(self, key: str) -> list[pa.Table] | None:
        folder = self._cache.find(key)
        if folder is None:
            return None
        try:
            tables = [open_table(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST]
            return tables if _rows(tables) == cache_entry.rows(folder) else None
        except (OSError, ValueError, pa.ArrowInvalid):  # another process removed it, or it is of another Arrow
            return None

    def _key(self, rows: Rows, names: Sequence[str], head: Head, max_length: int) -> str | None:
        chosen = self._heads.get(head.task)
        hashes = (self._model_hash, chosen and token_cache_key.hash_head(head, chosen, max_length))
        if None in hashes:
            return None
        return token_cache_key.hash_all(*hashes, names, token_cache_key.hash_rows(rows, names))

    @cached_property
    def _model_hash(self) -> str | None:
        backbone = token_cache_key.hash_backbone(self._backbone, self._chosen)
        try:
            return backbone and token_cache_key.hash_all(
                backbone, token_cache_key.hash_tokenizer(self._backbone.tokenizer)
            )
        except Exception:  # a custom tokenizer that cannot be saved may raise anything
            return None


def _rows(tables: Iterable[pa.Table]) -> int:
    return sum(table.num_rows for table in tables)


def _write(tokenize: Tokenize, writer: PartWriter) -> list[pa.Table]:
    for table in tokenize():
        writer.add(table)
    return writer.finish()
