"""Read files into rows, split them, and tokenize them once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hft_core.specs import lazy_attributes

if TYPE_CHECKING:
    from hft_core.data.cells import as_label, as_list, as_number, is_missing_word, shown
    from hft_core.data.readers import read_file
    from hft_core.data.row_checks import nearest
    from hft_core.data.rows import Rows
    from hft_core.data.special_tokens import SpecialTokens

__all__ = [
    "Rows",
    "SpecialTokens",
    "as_label",
    "as_list",
    "as_number",
    "is_missing_word",
    "nearest",
    "read_file",
    "shown",
]

_LAZY = {
    "Rows": "hft_core.data.rows:Rows",
    "SpecialTokens": "hft_core.data.special_tokens:SpecialTokens",
    "as_label": "hft_core.data.cells:as_label",
    "as_list": "hft_core.data.cells:as_list",
    "as_number": "hft_core.data.cells:as_number",
    "is_missing_word": "hft_core.data.cells:is_missing_word",
    "nearest": "hft_core.data.row_checks:nearest",
    "read_file": "hft_core.data.readers:read_file",
    "shown": "hft_core.data.cells:shown",
}

__getattr__, __dir__ = lazy_attributes(__name__, _LAZY)
