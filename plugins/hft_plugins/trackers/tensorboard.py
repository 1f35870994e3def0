"""The tracker `tensorboard`: event files under `RUN/tracking/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from hft_core import options
from hft_core.tracker import TrackedRun, Tracker


class Options(options.Options):
    """It has none: `tensorboard --logdir RUNS` finds the files in the runs' folders."""


def build(options: Options, *, run: TrackedRun) -> Tracker:
    return TensorBoard(run)


class TensorBoard(Tracker):
    """Writes scalars; a resumed run hides what was recorded after the step that it resumes from."""

    def __init__(self, run: TrackedRun) -> None:
        self.identity = run.name
        purge = run.step + 1 if run.identity else None
        self._writer = SummaryWriter(str(run.folder), purge_step=purge)
        if not run.identity:
            self._writer.add_text("recipe", f"```yaml\n{run.recipe}\n```", 0)

    def record(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, *, failed: bool) -> None:
        self._writer.close()
