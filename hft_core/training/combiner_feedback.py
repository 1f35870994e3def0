"""Tell the combiner what happened in training: applied steps, ended epochs, dev losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hft_core.batching.batch import Batch
from hft_core.combiner import Combiner
from hft_core.data.examples import Examples
from hft_core.device.clock import EVALUATION
from hft_core.device.machine import Machine
from hft_core.gradients import combine
from hft_core.gradients.step_losses import Combined
from hft_core.model.execution_plan import ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.training.evaluation import evaluate_task

DEV_SAMPLE_ROWS = 16
"""Dev rows of each task in one measurement of dev losses."""


@dataclass(frozen=True, kw_only=True)
class CombinerFeedback:
    """Calls the hooks of a stage's combiner."""

    model: HybridModel
    execution: ExecutionPlan
    combiner: Combiner
    dev: Mapping[str, Examples]
    machine: Machine
    seed: int

    def step_applied(self, combined: Combined, batches: Sequence[Batch], dropout_seed: int) -> None:
        """Pass on the losses of a step after the optimizer applied it; they are computed again, with the same dropout,
        where the combiner asks for those of the updated weights."""
        if not combined.tasks:
            return
        losses = combined.losses
        if self.combiner.losses_after_step:
            torch.manual_seed(dropout_seed)
            losses = combine.losses_again(self.model, self.combiner, batches, self.machine, self.execution)
        present = [self.combiner.tasks.index(task) for task in combined.tasks]
        self.combiner.step_finished(losses, torch.tensor(present, dtype=torch.long, device=self.machine.device))

    def epoch_finished(self) -> None:
        """Pass on that an epoch ended."""
        self.combiner.epoch_finished()

    def measure_dev_losses(self, step: int) -> None:
        """Measure the loss on a few dev rows of each task, other ones each time, and pass them on."""
        turn = step // self.combiner.dev_every - 1
        losses = [self._dev_loss(task, turn) for task in self.combiner.tasks]
        self.combiner.dev_measured(torch.tensor(losses, device=self.machine.device))

    def _dev_loss(self, task: str, turn: int) -> float:
        if task not in self.dev:
            return math.nan
        size = len(self.dev[task].sizes)
        sample = self.dev[task].of((turn * DEV_SAMPLE_ROWS + np.arange(min(DEV_SAMPLE_ROWS, size))) % size)
        with self.machine.clock.part(EVALUATION):
            evaluation = evaluate_task(
                self.model, task, sample, self.machine, seed=self.seed, predicting=False, plan=self.execution
            )
        return evaluation.loss
