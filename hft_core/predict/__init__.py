"""Open a finished run, and evaluate it or predict with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hft_core.specs import lazy_attributes

if TYPE_CHECKING:
    from hft_core.predict.batch import Batch
    from hft_core.predict.bulk import predict_file
    from hft_core.predict.embeddings import embed
    from hft_core.predict.prediction import Trained, evaluate, predict, predict_tasks, rows_from_file, rows_from_texts
    from hft_core.predict.saved_run import SavedRun, open_run

__all__ = [
    "Batch",
    "SavedRun",
    "Trained",
    "embed",
    "evaluate",
    "open_run",
    "predict",
    "predict_file",
    "predict_tasks",
    "rows_from_file",
    "rows_from_texts",
]

_LAZY = {
    "Batch": "hft_core.predict.batch:Batch",
    "SavedRun": "hft_core.predict.saved_run:SavedRun",
    "Trained": "hft_core.predict.prediction:Trained",
    "embed": "hft_core.predict.embeddings:embed",
    "evaluate": "hft_core.predict.prediction:evaluate",
    "open_run": "hft_core.predict.saved_run:open_run",
    "predict": "hft_core.predict.prediction:predict",
    "predict_file": "hft_core.predict.bulk:predict_file",
    "predict_tasks": "hft_core.predict.prediction:predict_tasks",
    "rows_from_file": "hft_core.predict.prediction:rows_from_file",
    "rows_from_texts": "hft_core.predict.prediction:rows_from_texts",
}

__getattr__, __dir__ = lazy_attributes(__name__, _LAZY)
