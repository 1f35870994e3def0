"""Index the embeddings of rows, and find the rows that are nearest to a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hft_core.specs import lazy_attributes

if TYPE_CHECKING:
    from hft_core.search.build import build_index
    from hft_core.search.index import Hit, Index, open_index
    from hft_core.search.query_file import search_file

__all__ = ["Hit", "Index", "build_index", "open_index", "search_file"]

_LAZY = {
    "Hit": "hft_core.search.index:Hit",
    "Index": "hft_core.search.index:Index",
    "build_index": "hft_core.search.build:build_index",
    "open_index": "hft_core.search.index:open_index",
    "search_file": "hft_core.search.query_file:search_file",
}

__getattr__, __dir__ = lazy_attributes(__name__, _LAZY)
