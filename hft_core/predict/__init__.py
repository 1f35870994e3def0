"""Open a finished run, and evaluate it or predict with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hft_core.specs import load

if TYPE_CHECKING:
    from hft_core.predict.prediction import Trained, evaluate, predict, predict_tasks, rows_from_file, rows_from_texts
    from hft_core.predict.saved_run import SavedRun, open_run

__all__ = [
    "SavedRun",
    "Trained",
    "evaluate",
    "open_run",
    "predict",
    "predict_tasks",
    "rows_from_file",
    "rows_from_texts",
]

_LAZY = {
    "SavedRun": "saved_run:SavedRun",
    "Trained": "prediction:Trained",
    "evaluate": "prediction:evaluate",
    "open_run": "saved_run:open_run",
    "predict": "prediction:predict",
    "predict_tasks": "prediction:predict_tasks",
    "rows_from_file": "prediction:rows_from_file",
    "rows_from_texts": "prediction:rows_from_texts",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return load(f"{__name__}.{_LAZY[name]}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
