"""Make the batches of a step from the plan's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from hft_core.batching.batch import Batch, idle_batch
from hft_core.batching.collate import Collator, slices_of_process
from hft_core.batching.plan import TaskSlice
from hft_core.combiner import Combiner
from hft_core.data.examples import Examples
from hft_core.data.streamed_examples import StreamedExamples
from hft_core.device.machine import Machine
from hft_core.model.execution_plan import ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.batch_size import rows_per_pass
from hft_core.recipe.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Batcher:
    """Makes the batches of a stage's steps, on the device."""

    stage: Stage
    model: HybridModel
    execution: ExecutionPlan
    combiner: Combiner
    train: Mapping[str, Examples]
    streams: Mapping[str, StreamedExamples]
    """Of the tasks whose training examples are not in `train`, but for their first ones."""
    machine: Machine
    seed: int

    def examples(self, slices: Sequence[TaskSlice]) -> Mapping[str, Examples]:
        """Return the examples that the slices are of; those of a stream hold the step's only."""
        windows = {
            one.task: self.streams[one.task].window(int(one.units.min()), int(one.units.max()) + 1)
            for one in slices
            if one.task in self.streams
        }
        return {**self.train, **windows}

    def batches(self, slices: Sequence[TaskSlice], max_units: int | None = None) -> list[Batch]:
        """Return this process's batches of a step, with at most `max_units` in each (by default the stage's limit).

        With FSDP, all processes get equally many: batches without targets are added.
        """
        per_task_gradients = self.combiner.per_task_gradients and self.combiner.at == "shared"
        collator = Collator(
            self.examples(slices),
            {task: self.model.head(task) for task in self.stage.tasks},
            seed=self.seed,
            pad=self.model.backbone.tokenizer.pad_token_id,
            dedupe_inputs=not per_task_gradients and not self.model.strategy.routes_rows,
        )
        collate = partial(
            collator.step_batches,
            max_units=max_units or rows_per_pass(self.stage),
            max_tokens=self.stage.max_tokens_per_batch,
            one_task_per_batch=per_task_gradients and not self.execution.one_pass,
        )
        group = self.machine.group
        batches = collate(slices_of_process(slices, group.rank, group.world_size))
        if self.machine.sharded and len(batches) < (most := group.all_reduce_max(len(batches))):
            (any_batch, *_) = batches or collate(slices)
            batches += [idle_batch(any_batch)] * (most - len(batches))
        return [self.execution.with_stored(batch).to(self.machine.device) for batch in batches]
