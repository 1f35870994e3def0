"""Export each task as a folder of a whole model that transformers opens: adapters are merged into the trunk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from hft_core.errors import UsageError
from hft_core.export.export_format import Exported, has_outputs, is_language_model, leaving_out, refuse_windows
from hft_core.export.plain_models import PlainModels
from hft_core.predict.saved_run import SavedRun
from hft_core.recipe.schema import TRUNK_FOLDER
from hft_core.runs import assembly, usage_lines
from hft_core.runs.model_folders import save_model
from hft_core.runs.usage_lines import Usage

README = "README.md"


class PlainFolders:
    """A folder for each task."""

    to = "hf"

    def check(self, saved: SavedRun, tasks: Sequence[str]) -> None:
        """Raise `UsageError` for a run that cannot be merged, and for a task that no class of transformers computes."""
        model, last = saved.model, saved.resolved.stages[-1]
        if model.strategy.adapter and not last.merges:
            assert last.strategy is not None
            raise UsageError(
                f"strategy '{last.strategy.entry.name}' adds parts that cannot be merged into the trunk, so that no "
                f"class of transformers has the whole model: {saved.folder / 'model'} has what the run trained"
            )
        for task in tasks:
            if model.head(task).predicts_units:
                refuse_windows(task, self.to, but=" (of one text, --to onnx does)")
            if not _is_plain(saved, task):
                name = saved.resolved.heads[task].entry.name
                raise UsageError(
                    f"task '{task}': neither transformers nor sentence-transformers computes what its head '{name}' "
                    f"does{leaving_out(task, tasks)}"
                )

    def write(self, saved: SavedRun, tasks: Sequence[str], folder: Path) -> None:
        """Write the folders, and a README with lines that open them and predict."""
        lengths = assembly.max_lengths(saved.resolved, tasks, saved.model)
        save_model(folder, saved.model, trunk_changed=True, max_lengths=lengths, tasks=tasks)
        shutil.rmtree(folder / TRUNK_FOLDER)  # each task's folder has its files
        (folder / README).write_text(self.readme(saved, lengths), encoding="utf-8")

    def readme(self, saved: SavedRun, lengths: Mapping[str, int]) -> str:
        """Return how to open the folders and predict; `lengths`: tokens of a text, by task."""
        backbone = saved.model.backbone
        room = backbone.max_target_length if backbone.encoder_decoder else backbone.max_length
        about = (
            "A folder for each task, with the whole model; `verdict.json` compares its answers with those of the run."
        )
        parts = ["# Exported models\n", f"{about}\n"]
        for task, length in lengths.items():
            usage = Usage(task, saved.model.head(task), length, adapter_base="", room=room, place="")
            code = "\n".join(usage_lines.lines(usage))
            parts.append(f"## `{task}`\n\n```python\n{code}\n```\n")
        return "\n".join(parts)

    def open(self, saved: SavedRun, tasks: Sequence[str], folder: Path) -> Exported:
        """Open the folders with transformers."""
        return PlainModels(saved, tasks, folder)


def _is_plain(saved: SavedRun, task: str) -> bool:
    head, backbone = saved.model.head(task), saved.model.backbone
    if head.family is not None:
        return has_outputs(head) or is_language_model(head)
    return has_outputs(head) and backbone.saves_pooled and head.pooled_output() is not None
