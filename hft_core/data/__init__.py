"""Read files into rows, split them, and tokenize them once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hft_core.specs import load

if TYPE_CHECKING:
    from hft_core.data.cells import as_label, as_list, as_number, shown
    from hft_core.data.readers import read_file
    from hft_core.data.rows import Rows, nearest

__all__ = ["Rows", "as_label", "as_list", "as_number", "nearest", "read_file", "shown"]

_LAZY = {
    "Rows": "rows:Rows",
    "as_label": "cells:as_label",
    "as_list": "cells:as_list",
    "as_number": "cells:as_number",
    "nearest": "rows:nearest",
    "read_file": "readers:read_file",
    "shown": "cells:shown",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return load(f"{__name__}.{_LAZY[name]}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
