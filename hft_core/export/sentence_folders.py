"""Export each task whose head is a pooled text, or linear on one, as a folder of sentence-transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hft_core.errors import UsageError
from hft_core.export.export_format import Exported, leaving_out, named_output, require_packages
from hft_core.export.plain_folders import PlainFolders
from hft_core.predict.saved_run import SavedRun
from hft_core.runtime.transformers_logs import quiet_transformers

NEEDED = ("sentence_transformers",)


class SentenceFolders(PlainFolders):
    """A folder for each task, whose outputs are the embeddings of a `SentenceTransformer`."""

    to = "sentence-transformers"

    def check(self, saved: SavedRun, tasks: Sequence[str]) -> None:
        """Raise `UsageError` for what cannot be merged, and for a task that is no pooled text."""
        require_packages("sentence-transformers", NEEDED)
        super().check(saved, tasks)
        for task in tasks:
            if saved.model.head(task).family is not None:
                name = saved.resolved.heads[task].entry.name
                raise UsageError(
                    f"task '{task}': its head '{name}' is a module of the model's family, not a pooled text that "
                    f"sentence-transformers computes{leaving_out(task, tasks)}"
                )

    def readme(self, saved: SavedRun, lengths: Mapping[str, int]) -> str:
        about = "A folder for each task; `verdict.json` compares its answers with those of the run."
        parts = ["# Exported for sentence-transformers\n", f"{about}\n"]
        for task in lengths:
            code = "\n".join(_lines(saved, task))
            parts.append(f"## `{task}`\n\n```python\n{code}\n```\n")
        return "\n".join(parts)

    def open(self, saved: SavedRun, tasks: Sequence[str], folder: Path) -> Exported:
        """Open the folders with sentence-transformers."""
        return SentenceModels(saved, folder)


class SentenceModels:
    """Folders of sentence-transformers, one of which is open at a time."""

    def __init__(self, saved: SavedRun, folder: Path) -> None:
        self._saved, self._folder = saved, folder
        self._open: tuple[str, Any] = ("", None)

    def tokenizer(self, task: str) -> PreTrainedTokenizerBase:
        found: PreTrainedTokenizerBase = self._model(task).tokenizer
        return found

    def outputs(self, task: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.inference_mode():
            computed = self._model(task)(dict(inputs))["sentence_embedding"]
        model = self._saved.model
        return named_output(model.head(task), model.backbone.hidden_size, computed)

    def language(self, task: str, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("sentence-transformers has no language models")

    def _model(self, task: str) -> Any:
        if self._open[0] != task:
            from sentence_transformers import SentenceTransformer

            with quiet_transformers():
                model = SentenceTransformer(str(self._folder / task), device="cpu", local_files_only=True).eval()
            self._open = (task, model)
        return self._open[1]


def _lines(saved: SavedRun, task: str) -> list[str]:
    head = saved.model.head(task)
    pair = len([column for column in head.columns() if column.kind == "text" and not column.target]) == 2
    texts = ["A first text.", "A second and somewhat longer text."]
    others = ["What goes with the first.", "What goes with the second."]
    given: Any = list(zip(texts, others, strict=True)) if pair else texts
    labels = [name for _, name in sorted((head.config().get("id2label") or {}).items())]
    return [
        "from pathlib import Path",
        "",
        "from sentence_transformers import SentenceTransformer",
        "",
        'run = Path(".")  # the folder of this README',
        f'model = SentenceTransformer(str(run / "{task}"))',
        f"texts = {json.dumps(given)}",
        f"values = model.encode(texts){f'  # of a text, the outputs for {labels}' if labels else ''}",
    ]
