"""Decide when checkpoints of a run are saved."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hft_core.recipe.schema import Output
from hft_core.runtime.run_folder import RunFolder
from hft_core.training.checkpoint import Checkpoints
from hft_core.training.snapshot import Snapshot
from hft_core.training.training_state import RunState, StageState, TrainingState

AUTO_SECONDS = 120.0
"""`save_strategy: auto` saves after so many seconds, which bounds the work that a crash loses, …"""
AUTO_SHARE = 0.05
"""… but does not spend more than this share of the time on saving."""


class CheckpointScheduler:
    """Decides when a run is saved in its folder, and saves it."""

    def __init__(self, folder: RunFolder, output: Output, checkpoints: Checkpoints, run: RunState) -> None:
        """`folder`: the run's, with its log; `checkpoints`: where to publish."""
        self.folder, self.output, self.checkpoints, self.run = folder, output, checkpoints, run
        self._last_save, self._cost = time.monotonic(), 0.0

    def is_due(self, step: int, *, epoch_ended: bool) -> bool:
        """Decide whether to save after step `step`."""
        if self.output.save_strategy == "steps":
            return step % (self.output.save_steps or 1) == 0
        if self.output.save_strategy == "epoch":
            return epoch_ended
        if self.output.save_strategy == "auto":
            return time.monotonic() - self._last_save > max(AUTO_SECONDS, self._cost / AUTO_SHARE)
        return False

    def save(
        self,
        world_size: int,
        stage: StageState,
        taken: Snapshot,
        links: Mapping[str, Path],
    ) -> None:
        """Publish a checkpoint, unless the recipe disables them. Raises `RunError` when it cannot be written."""
        if self.output.save_strategy == "no":
            return
        self.folder.sync_log()
        state = TrainingState(
            run=self.run, stage=stage, loop=taken.loop, random=taken.random, log_size=self.folder.log_size()
        )
        self._cost = self.checkpoints.publish(world_size, state, taken.tensors, links)
        self._last_save = time.monotonic()


@dataclass(frozen=True, kw_only=True)
class StageCheckpoints:
    """Saves the checkpoints of one stage."""

    scheduler: CheckpointScheduler
    stage: StageState
    links: Mapping[str, Path] = field(default_factory=dict)
    """Tensor files that all checkpoints of the stage contain, by name."""

    @property
    def keeps(self) -> bool:
        """Whether `save` writes anything."""
        return self.scheduler.output.save_strategy != "no"

    def is_due(self, step: int, *, epoch_ended: bool) -> bool:
        """Decide whether to save after step `step`."""
        return self.scheduler.is_due(step, epoch_ended=epoch_ended)

    def save(
        self,
        world_size: int,
        taken: Snapshot,
        links: Mapping[str, Path],
    ) -> None:
        """Publish a checkpoint with the files `links`. Raises `RunError` when it cannot be written."""
        self.scheduler.save(world_size, self.stage, taken, {**self.links, **links})
