"""When a run's state is saved, and into what, so that it can go on as if it had never stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hft_core.recipe.schema import Output
from hft_core.results import CARD_FILE, CHECKPOINT_FOLDER, COMBINER_FOLDER, LOG_FILE, RECIPE_FILE, RESULTS_FILE
from hft_core.runtime import random_state
from hft_core.training.checkpoint import Checkpoint, Checkpoints

AUTO_SECONDS = 120.0
"""`save_strategy: auto` saves after so many seconds, so that no more are ever lost, …"""
AUTO_SHARE = 0.05
"""… but does not spend more than this share of the time on it."""


class Keeper:
    """Saves checkpoints of one run in its folder."""

    def __init__(self, folder: Path, output: Output, *, recipe: str) -> None:
        """`recipe`: the hash of the run's recipe."""
        self.folder, self.output = folder, output
        self.checkpoints = Checkpoints(folder / CHECKPOINT_FOLDER, recipe=recipe, limit=output.save_total_limit)
        self.run: dict[str, Any] = {}
        """What is the same for all checkpoints of a stage: its number, the results of those before it."""
        self.links: dict[str, Path] = {}
        """Files that all checkpoints of a stage hold."""
        self._since, self._cost = time.monotonic(), 0.0

    def due(self, step: int, *, epoch_ended: bool) -> bool:
        """Whether to save after step `step`."""
        if self.output.save_strategy == "steps":
            return step % (self.output.save_steps or 1) == 0
        if self.output.save_strategy == "epoch":
            return epoch_ended
        if self.output.save_strategy == "auto":
            return time.monotonic() - self._since > max(AUTO_SECONDS, self._cost / AUTO_SHARE)
        return False

    def save(
        self,
        stage: int,
        step: int,
        world: int,
        state: Mapping[str, Any],
        tensors: Mapping[str, Mapping[str, Tensor]],
        links: Mapping[str, Path],
    ) -> None:
        """Publish a checkpoint, unless the recipe wants none. Raises `RunError` when it cannot be written."""
        if self.output.save_strategy == "no":
            return
        facts, random = random_state.snapshot()
        log = self.folder / LOG_FILE
        whole = {
            **self.run,
            "loop": dict(state),
            "random": facts,
            "log_size": log.stat().st_size if log.exists() else 0,
        }
        self._cost = self.checkpoints.publish(
            stage, step, world, whole, {**tensors, "random": random}, {**self.links, **links}
        )
        self._since = time.monotonic()


def clear_leftovers(folder: Path) -> None:
    """Remove files of a run that were being written, beside their places, when it was killed."""
    beside = [path for name in (RECIPE_FILE, RESULTS_FILE, CARD_FILE) for path in folder.glob(f".{name}.*")]
    for path in (*beside, *(folder / COMBINER_FOLDER).glob(".*")):
        path.unlink(missing_ok=True)


def rewind_log(folder: Path, at: Checkpoint | None) -> None:
    """Cut from the log what was written after the checkpoint, or after the beginning: it will be written again."""
    log, size = folder / LOG_FILE, 0 if at is None else at.state["log_size"]
    if log.exists() and log.stat().st_size > size:
        with open(log, "r+b") as file:
            file.truncate(size)
