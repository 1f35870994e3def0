"""Choose the rows to label next: those that finished runs are least sure of, or that are least alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hft_core.specs import lazy_attributes

if TYPE_CHECKING:
    from hft_core.active_learning.select import Chosen, Selection, select_file, select_rows

__all__ = ["Chosen", "Selection", "select_file", "select_rows"]

_LAZY = {
    "Chosen": "hft_core.active_learning.select:Chosen",
    "Selection": "hft_core.active_learning.select:Selection",
    "select_file": "hft_core.active_learning.select:select_file",
    "select_rows": "hft_core.active_learning.select:select_rows",
}

__getattr__, __dir__ = lazy_attributes(__name__, _LAZY)
