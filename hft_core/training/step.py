"""Run one optimizer step: compute gradients, clip, apply, report."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from hft_core import events
from hft_core.batching.batch import Batch
from hft_core.batching.plan import TaskSlice
from hft_core.device.clock import BACKWARD, DATA, OPTIMIZER
from hft_core.errors import RunError
from hft_core.gradients import combine
from hft_core.gradients.step_losses import Combined
from hft_core.recipe.batch_size import rows_per_pass
from hft_core.runtime import random_state
from hft_core.training.combiner_feedback import CombinerFeedback
from hft_core.training.gradient_clipping import clip_gradients
from hft_core.training.oom_retry import fill_within_memory
from hft_core.training.progress import Progress
from hft_core.training.stage_setup import RandomUse, StageSetup

MAX_SKIPPED_IN_A_ROW = 5
"""After so many steps in a row with losses or gradients that are not finite the run fails; after all steps of a shorter
stage."""


class NotFiniteError(RunError):
    """Losses or gradients stayed infinite or NaN. The weights are those before: such steps change nothing."""


@dataclass(frozen=True)
class TrainingStep:
    """Runs the steps of a stage."""

    setup: StageSetup
    feedback: CombinerFeedback

    def run(self, progress: Progress) -> None:
        """Run the step after `progress.step`, and count it in `progress`.

        Raises `RunError` when memory is too small for a single row, or too many steps in a row were not finite.
        """
        setup, clock, step = self.setup, self.setup.machine.clock, progress.step
        started = time.perf_counter()
        random_state.seed(self._dropout_seed(step))
        with clock.part(DATA):
            slices = setup.plan.step(step)
            batches = setup.batcher.batches(slices, progress.max_units)
        with clock.part(BACKWARD):  # forward passes count their own time, which is left out of it
            combined, batches = self._compute(batches, slices, progress)
        learning_rate = float(setup.schedule.get_last_lr()[0])
        with clock.part(OPTIMIZER):
            norm, skipped = self._apply(combined, batches, slices, progress)
        if setup.ends_epoch(step + 1):
            self.feedback.epoch_finished()
        losses = dict(zip(combined.tasks, combined.losses.tolist(), strict=True))
        seconds = time.perf_counter() - started
        rows, tokens = self._size(batches)
        progress.step += 1
        progress.rows += rows
        progress.tokens += tokens
        setup.observers.emit(
            "step_finished",
            events.StepFinished(
                stage=setup.stage.name,
                step=progress.step,
                steps=setup.plan.steps,
                epoch=setup.epoch(progress.step),
                losses=losses,
                weights=dict(zip(combined.tasks, combined.weights.tolist(), strict=True)),
                learning_rate=learning_rate,
                gradient_norm=norm,
                rows=rows,
                tokens=tokens,
                seconds=seconds,
                skipped=skipped,
            ),
        )
        if not skipped:
            for text in setup.watch.see_losses(progress, losses):
                setup.observers.emit("noticed", events.Noticed(stage=setup.stage.name, step=progress.step, text=text))

    def _compute(
        self, batches: list[Batch], slices: list[TaskSlice], progress: Progress
    ) -> tuple[Combined, list[Batch]]:
        """Compute the step's gradients, from smaller batches where memory is too small, then and in later steps.

        The result does not depend on the size of the batches, since losses are divided by the targets of the step.
        """
        setup, step = self.setup, progress.step

        def fill(batches: list[Batch]) -> Combined:
            padded_tokens = sum(batch.inputs["input_ids"].numel() for batch in batches)
            with progress.work.of_step(step, setup.head_steps, padded_tokens):
                return self._fill(batches, step)

        def rebatch(units: int) -> list[Batch]:
            setup.optimizer.zero_grad(set_to_none=True)
            if setup.machine.device.type == "cuda":
                torch.cuda.empty_cache()
            return setup.batcher.batches(slices, units)

        limit = progress.max_units or rows_per_pass(setup.stage)
        units = min(limit, max(sum(len(task_slice.units) for task_slice in slices), 1))
        combined, batches, fitting_units = fill_within_memory(
            fill,
            rebatch,
            batches,
            units,
            position=f"stage '{setup.stage.name}', step {step + 1}",
            world_size=setup.machine.group.world_size,
            train=lambda: setup.batcher.examples(slices),
        )
        if fitting_units < units:
            progress.max_units = fitting_units
        return combined, batches

    def _fill(self, batches: list[Batch], step: int) -> Combined:
        """Fill in the gradients of the step, with what the strategy adds to them once the trunk is trained."""
        setup, model = self.setup, self.setup.model
        trunk_step = step - setup.head_steps
        if trunk_step >= 0:
            model.strategy.step_started(model.backbone, trunk_step)
        torch.manual_seed(self._dropout_seed(step))  # again, since the step may be a retry
        combiner_seed = setup.random_seed(step, RandomUse.COMBINER)
        combined = combine.fill(model, setup.combiner, batches, setup.machine, combiner_seed, setup.execution)
        if trunk_step >= 0:
            penalty = model.strategy.penalty(model.backbone)
            if penalty is not None and penalty.requires_grad:
                torch.autograd.backward(penalty)
            model.strategy.gradients_ready(model.backbone, trunk_step)
        return combined

    def _apply(
        self, combined: Combined, batches: list[Batch], slices: list[TaskSlice], progress: Progress
    ) -> tuple[float, str]:
        """Apply the step unless a loss or gradient is not finite. Returns the gradients' norm before clipping, and why
        the step was skipped."""
        setup, step = self.setup, progress.step
        trained = [p for group in setup.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = clip_gradients(trained, setup.stage.max_grad_norm or math.inf, setup.machine)
        finite = math.isfinite(norm) and bool(torch.isfinite(combined.losses).all())
        skipped = ""
        if setup.machine.group.any(not finite):
            skipped = self._not_finite(combined, slices)
            progress.skipped += 1
            progress.skipped_in_a_row += 1
        else:
            setup.optimizer.step()
            if step >= setup.head_steps:
                setup.model.strategy.step_finished(setup.model.backbone, step - setup.head_steps)
            self.feedback.step_applied(combined, batches, self._dropout_seed(step))
            progress.skipped_in_a_row = 0
        setup.optimizer.zero_grad(set_to_none=True)
        setup.schedule.step()
        if progress.skipped_in_a_row >= min(MAX_SKIPPED_IN_A_ROW, setup.plan.steps):
            raise NotFiniteError(
                f"stage '{setup.stage.name}', step {step + 1}: {progress.skipped_in_a_row} steps in a row had "
                f"losses or gradients that are not finite ({skipped}); a learning_rate below "
                f"{setup.learning_rates.trunk:g} is the usual cure"
            )
        return norm, skipped

    def _not_finite(self, combined: Combined, slices: list[TaskSlice]) -> str:
        """Describe which tasks' losses were not finite, on which rows."""
        finite = torch.isfinite(combined.losses).tolist()
        tasks = [task for task, is_finite in zip(combined.tasks, finite, strict=True) if not is_finite]
        rows = [
            f"{each.task} rows {self._rows(each)[:5].tolist()}…" for each in slices if each.task in tasks or not tasks
        ]
        what = f"the loss of {', '.join(tasks)}" if tasks else "the gradient"
        return f"{what} was not finite on {'; '.join(rows)}"

    def _rows(self, task_slice: TaskSlice) -> np.ndarray:
        examples = self.setup.batcher.examples([task_slice])[task_slice.task]
        return examples.rows_of(examples.of_units(task_slice.units))

    def _size(self, batches: list[Batch]) -> tuple[int, int]:
        """Count the examples of all tasks in a step, and their tokens without padding, in all processes."""
        counts = {"rows": sum(batch.examples for batch in batches), "tokens": sum(batch.tokens for batch in batches)}
        total = self.setup.machine.group.all_reduce_counts(counts)
        return total["rows"], total["tokens"]

    def _dropout_seed(self, step: int) -> int:
        """Return a seed that depends on the step and the process alone, not on what was drawn before."""
        return self.setup.random_seed(step, RandomUse.DROPOUT, self.setup.machine.group.rank)
