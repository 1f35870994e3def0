"""Make the batches of a step from the plan's rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
        units, tokens, alone = self._limits(max_units)
        collator = self._collator(self.examples(slices))
        collate = partial(collator.step_batches, max_units=units, max_tokens=tokens, one_task_per_batch=alone)
        group = self.machine.group
        batches = collate(slices_of_process(slices, group.rank, group.world_size))
        if self.machine.sharded and len(batches) < (most := group.all_reduce_max(len(batches))):
            (any_batch, *_) = batches or collate(slices)
            batches += [idle_batch(any_batch)] * (most - len(batches))
        return [self.execution.with_stored(batch).to(self.machine.device) for batch in batches]

    def largest(self, steps: Iterable[Sequence[TaskSlice]], processes: int) -> tuple[Batch, int]:
        """Return the batch with the most padded tokens of those that the first of some processes makes in some steps,
        and the most batches of one of these steps."""
        own = (slices_of_process(self._of_first_examples(slices), 0, processes) for slices in steps)
        return self._collator(self.train).largest_batch(own, *self._limits(None))

    def _of_first_examples(self, slices: Sequence[TaskSlice]) -> list[TaskSlice]:
        """Return the slices with the first examples of streams, which are in memory, in place of later ones."""
        return [
            replace(one, units=one.units % len(self.train[one.task])) if one.task in self.streams else one
            for one in slices
        ]

    def _collator(self, examples: Mapping[str, Examples]) -> Collator:
        return Collator(
            examples,
            {task: self.model.head(task) for task in self.stage.tasks},
            seed=self.seed,
            pad=self.model.backbone.tokenizer.pad_token_id,
            dedupe_inputs=not self._per_task_gradients and not self.model.strategy.routes_rows,
        )

    def _limits(self, max_units: int | None) -> tuple[int, int | None, bool]:
        """Return the most units and tokens of a batch, and whether each has rows of one task."""
        alone = self._per_task_gradients and not self.execution.one_pass
        return max_units or rows_per_pass(self.stage), self.stage.max_tokens_per_batch, alone

    @property
    def _per_task_gradients(self) -> bool:
        return self.combiner.per_task_gradients and self.combiner.at == "shared"
