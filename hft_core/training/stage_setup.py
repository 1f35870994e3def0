"""Everything that the training loop of one stage needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from hft_core.batching.mixture import AdaptiveMixture
from hft_core.batching.plan import Plan
from hft_core.combiner import Combiner
from hft_core.data.examples import Examples
from hft_core.data.streamed_examples import StreamedExamples
from hft_core.device.machine import Machine
from hft_core.model.execution_plan import ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.plugins.observers import Observers
from hft_core.recipe.stage import Stage
from hft_core.runtime import random_state
from hft_core.training import weights
from hft_core.training.learning_rates import LearningRates
from hft_core.training.micro_batches import Batcher
from hft_core.training.phases import evaluation_steps
from hft_core.training.selection import Selection
from hft_core.training.watch import Watch


class RandomUse(IntEnum):
    """What random numbers of a step are drawn for; each use has a seed of its own."""

    DROPOUT = 0
    COMBINER = 1
    EVALUATION = 2


@dataclass(frozen=True, kw_only=True)
class StageSetup:
    """What a stage trains, on what data and how; `hft_core.runs.stages` makes it."""

    stage: Stage
    index: int
    """0 for the first stage."""
    seed: int
    """Of the run."""
    model: HybridModel
    execution: ExecutionPlan
    """How passes through the model are computed."""
    combiner: Combiner
    plan: Plan
    units_per_epoch: int
    head_steps: int
    """Steps at the start in which the trunk is frozen."""
    learning_rates: LearningRates
    optimizer: AdamW
    schedule: LambdaLR
    train: Mapping[str, Examples]
    """Of a task that streams, the first ones, which are looked at before training."""
    streams: Mapping[str, StreamedExamples]
    """By the tasks of the stage that stream."""
    dev: Mapping[str, Examples]
    machine: Machine
    selection: Selection
    watch: Watch
    adaptive_mixture: AdaptiveMixture
    observers: Observers
    best_file: Path
    """Where the best weights so far are saved."""

    @property
    def batcher(self) -> Batcher:
        """What makes the batches of the stage's steps."""
        return Batcher(
            stage=self.stage,
            model=self.model,
            execution=self.execution,
            combiner=self.combiner,
            train=self.train,
            streams=self.streams,
            machine=self.machine,
            seed=self.seed,
        )

    @property
    def evaluation_steps(self) -> frozenset[int]:
        """The steps after which the stage is evaluated, by its plan as it is now."""
        if not any(task in self.dev for task in self.stage.tasks):
            return frozenset()
        return evaluation_steps(self.stage, self.plan.steps, batch=self.plan.batch, an_epoch=self.units_per_epoch)

    def epoch(self, step: int) -> float:
        """Return how many epochs the first `step` steps are."""
        return step * self.plan.batch / self.units_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Return whether step number `step` (1 for the first) is the last one of an epoch."""
        return int(self.epoch(step)) > int(self.epoch(step - 1))

    def random_seed(self, step: int, use: RandomUse, rank: int = 0) -> int:
        """Return the seed of one use of random numbers in a step."""
        return random_state.random_seed(self.seed, self.index, step, int(use), rank)

    def trained_state(self) -> dict[str, Tensor]:
        """Return what the stage trains, by name."""
        return weights.trained_state(self.model, self.combiner, self.optimizer)
