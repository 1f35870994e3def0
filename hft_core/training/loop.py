"""The loop: one stage, from its first step to its best weights.

    for step in plan:
        parts = plan(seed, stage, step)             which examples of which tasks
        batches = collate(parts)                    padded with rows of like length, tasks mixed
        gradients.fill(model, combiner, batches)    each loss over the step's targets, combined
        finite?                                     before anything moves
        clip, optimizer, schedule                   only what this step touched moves
        evaluate, keep the best, stop early         on the dev splits

Everything that a stage needs is assembled by `hft_core.runs.stages`; this module only runs it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from hft_core import events
from hft_core.acceleration import fast_paths
from hft_core.acceleration.activation_cache import ActivationCache
from hft_core.batching.batch import Batch, idle_batch
from hft_core.batching.collate import Collator, slices_of_process
from hft_core.batching.mixture import AdaptiveMixture
from hft_core.batching.plan import Plan, TaskSlice
from hft_core.combiner import Combiner
from hft_core.data.examples import Examples
from hft_core.device import dtensor
from hft_core.device.clock import BACKWARD, DATA, EVALUATION, OPTIMIZER, SAVING
from hft_core.device.distributed import Machine
from hft_core.device.out_of_memory import is_shortage
from hft_core.errors import RunError
from hft_core.gradients import combine
from hft_core.model.execution_plan import ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.plugins.observers import Observers
from hft_core.recipe.stage import Stage
from hft_core.results import Evaluation
from hft_core.runtime import random_state, signals
from hft_core.training import loop_state, weights
from hft_core.training.checkpoint import Checkpoint
from hft_core.training.checkpointing import StageCheckpoints
from hft_core.training.evaluation import Selection, evaluation_steps, judge, main_scores, score
from hft_core.training.optimizer import Rates, clip_gradients
from hft_core.training.progress import Progress

SKIPS_IN_A_ROW = 5
"""So many steps in a row without a finite gradient end the run, as do all steps of a shorter stage."""
HASH_STEPS = 100
"""Steps between two looks at whether all processes still have the same weights."""
DEV_SAMPLE = 16
"""Dev rows of each task that a combiner which follows dev losses is shown at a time."""


@dataclass(frozen=True, kw_only=True)
class StageLoop:
    """One stage, ready to run."""

    stage: Stage
    index: int
    """0 for the first stage."""
    seed: int
    model: HybridModel
    execution: ExecutionPlan
    combiner: Combiner
    plan: Plan
    units_an_epoch: int
    head_steps: int
    """Steps at the start in which the trunk stands still."""
    rates: Rates
    optimizer: AdamW
    schedule: LambdaLR
    train: Mapping[str, Examples]
    dev: Mapping[str, Examples]
    machine: Machine
    selection: Selection
    adaptive_mixture: AdaptiveMixture
    observers: Observers
    best_file: Path
    """Where the best weights so far are kept."""

    def run(
        self,
        cache: ActivationCache,
        *,
        checkpoints: StageCheckpoints | None = None,
        resume_from: Checkpoint | None = None,
    ) -> Progress:
        """Train, from the beginning or from `resume_from`; the model ends with the best weights.

        `checkpoints`: saves the state, in the first process only. Raises `RunError` when the losses stay non-finite or
        the disk is full, and `Interrupted`, after saving the state, when the process was asked to end.
        """
        trunk = self.model.trunk_parameters()
        self.model.strategy.begin(self.model.backbone, self.plan.steps - self.head_steps)
        due, planned = self.evaluations, self.plan.steps
        progress = Progress() if resume_from is None else loop_state.restore(self, resume_from)
        self.machine.clock.add(progress.seconds)
        self._hold(trunk, still=progress.step < self.head_steps)
        try:
            progress.work.flops += cache.open()
            with fast_paths.patched(self.model, self.execution):
                self._train(progress, checkpoints, trunk, due, planned)
        except signals.Interrupted:
            self._checkpoint(progress, checkpoints)
            raise
        self._hold(trunk, still=False)
        if self.stage.load_best_model_at_end and 0 < progress.best_step < progress.step:
            loop_state.load_best(self)
        elif progress.best_step < progress.step or not self.stage.load_best_model_at_end:
            progress.best_step = progress.step
            self._save(progress, math.nan)
        return progress

    def _train(
        self,
        progress: Progress,
        checkpoints: StageCheckpoints | None,
        trunk: list[torch.nn.Parameter],
        due: frozenset[int],
        planned: int,
    ) -> None:
        """All steps that are left; `due`: after which of them is evaluated; `planned`: how many there are at most."""
        while True:
            if progress.step in due and not progress.is_evaluated():
                self._evaluate(progress)
                progress.stopped_early = progress.stopped_early or progress.step == self.plan.steps < planned
            if progress.step >= self.plan.steps or progress.stopped_early:
                return
            self.machine.check_interruption()
            if progress.step == self.head_steps > 0:
                self._hold(trunk, still=False)
            self._step(progress)
            if progress.step % HASH_STEPS == 0:
                self.machine.group.check_equal(list(self.state().values()), "the weights")
                self.machine.group.check_equal(list(self.model.strategy.state().values()), "the strategy's state")
            ended = int(self._epoch(progress.step)) > int(self._epoch(progress.step - 1))
            due_now = checkpoints is not None and checkpoints.is_due(progress.step, epoch_ended=ended)
            if self.machine.agree(due_now):
                self._checkpoint(progress, checkpoints)

    def _checkpoint(self, progress: Progress, checkpoints: StageCheckpoints | None) -> None:
        """Save everything from which the stage can be resumed."""
        if not self.machine.agree(checkpoints is not None):
            return
        with self.machine.clock.part(SAVING):
            progress.seconds = self.machine.clock.seconds()
            state, tensors = loop_state.snapshot(self, progress)
            best = {"best": self.best_file} if self.best_file.exists() else {}
            if checkpoints is not None:
                checkpoints.save(self.machine.group.world_size, state, tensors, best)

    def _hold(self, trunk: list[torch.nn.Parameter], *, still: bool) -> None:
        """Let the trunk stand still while fresh heads warm up, or move again."""
        for parameter in trunk:
            parameter.requires_grad_(not still)
        self.model.train_under(self.execution)

    def _step(self, progress: Progress) -> None:
        started, clock = time.perf_counter(), self.machine.clock
        random_state.seed(self._random_seed(progress.step, 0, self.machine.group.rank))
        with clock.part(DATA):
            parts = self.plan.step(progress.step)
            batches = self.batches(parts, progress.max_units)
        with clock.part(BACKWARD):  # the passes forward take their own time out of it
            batches, combined = self._within_memory(batches, parts, progress)
        learning_rate = float(self.schedule.get_last_lr()[0])
        with clock.part(OPTIMIZER):
            norm, skipped = self._move(combined, batches, parts, progress)
        self._tell_combiner(progress.step + 1)
        done = time.perf_counter()
        rows, tokens = self._size(batches)
        progress.step += 1
        progress.rows += rows
        progress.tokens += tokens
        self.observers.emit(
            "step_finished",
            events.StepFinished(
                stage=self.stage.name,
                step=progress.step,
                steps=self.plan.steps,
                epoch=self._epoch(progress.step),
                losses=dict(zip(combined.tasks, combined.losses.tolist(), strict=True)),
                weights=dict(zip(combined.tasks, combined.weights.tolist(), strict=True)),
                learning_rate=learning_rate,
                gradient_norm=norm,
                rows=rows,
                tokens=tokens,
                seconds=done - started,
                skipped=skipped,
            ),
        )

    def _within_memory(
        self, batches: list[Batch], parts: list[TaskSlice], progress: Progress
    ) -> tuple[list[Batch], combine.Combined]:
        """The step's gradients; where memory is too small for its batches, from smaller ones, and so ever after. The
        result is the same, since losses are divided by the targets of the whole step.

        Raises `RunError` when a single unit is too large, or when there are other processes, which would wait.
        """
        while True:
            try:
                with progress.work.of_step(
                    progress.step, self.head_steps, sum(b.inputs["input_ids"].numel() for b in batches)
                ):
                    return batches, self._fill(batches, progress.step)
            except (RuntimeError, MemoryError) as error:
                if not is_shortage(error):
                    raise
                self._divide_further(batches, parts, progress)
            self.optimizer.zero_grad(set_to_none=True)
            if self.machine.device.type == "cuda":
                torch.cuda.empty_cache()
            batches = self.batches(parts, progress.max_units)

    def _divide_further(self, batches: list[Batch], parts: list[TaskSlice], progress: Progress) -> None:
        """Halve the units in one pass."""
        limit = progress.max_units or self.stage.per_device_train_batch_size
        held = min(limit, max(sum(len(part.units) for part in parts), 1))
        where = f"stage '{self.stage.name}', step {progress.step + 1}: out of memory"
        if self.machine.group.world_size > 1:
            raise RunError(
                f"{where}; with several processes, batches are not divided: lower per_device_train_batch_size"
            )
        if held == 1:
            longest = max(batches, key=lambda batch: batch.inputs["input_ids"].numel())
            (segment, *_) = longest.segments
            row = int(self.train[segment.task].rows[segment.examples[0]])
            raise RunError(f"{where} with a single row, number {row} of task '{segment.task}': lower its max_length")
        progress.max_units = held // 2

    def _fill(self, batches: list[Batch], step: int) -> combine.Combined:
        """The gradients of the step, with what the strategy adds to them once the trunk moves."""
        strategy, backbone = self.model.strategy, self.model.backbone
        moves = step >= self.head_steps
        if moves:
            strategy.step_started(backbone, step - self.head_steps)
        # A step's dropout depends on the step alone, not on what came before it.
        torch.manual_seed(self._random_seed(step, 0, self.machine.group.rank))
        combined = combine.fill(
            self.model, self.combiner, batches, self.machine, self._random_seed(step, 1), self.execution
        )
        if moves:
            penalty = strategy.penalty(backbone)
            if penalty is not None and penalty.requires_grad:
                torch.autograd.backward(penalty)
            strategy.gradients_ready(backbone, step - self.head_steps)
        return combined

    def _random_seed(self, step: int, use: int, rank: int = 0) -> int:
        return random_state.random_seed(self.seed, self.index, step, use, rank)

    def _size(self, batches: list[Batch]) -> tuple[int, int]:
        """Examples of all tasks in a step, and the real tokens that went through the trunk, in all processes."""
        mine = {"rows": sum(batch.examples for batch in batches), "tokens": sum(batch.tokens for batch in batches)}
        size = self.machine.group.all_reduce_counts(mine)
        return size["rows"], size["tokens"]

    def batches(self, parts: list[TaskSlice], max_units: int | None) -> list[Batch]:
        """Those of a step, on the device, with at most `max_units` in each."""
        exact = self.combiner.per_task_gradients and self.combiner.at == "shared"
        collator = Collator(
            self.train,
            {task: self.model.head(task) for task in self.stage.tasks},
            seed=self.seed,
            pad=self.model.backbone.tokenizer.pad_token_id,
            dedupe_inputs=not exact and not self.model.strategy.routes_rows,
        )
        collate = partial(
            collator.step_batches,
            max_units=max_units or self.stage.per_device_train_batch_size,
            max_tokens=self.stage.max_tokens_per_batch,
            one_task_per_batch=exact and not self.execution.one_pass,
        )
        batches = collate(slices_of_process(parts, self.machine.group.rank, self.machine.group.world_size))
        if self.machine.sharded and len(batches) < (most := self.machine.group.all_reduce_max(len(batches))):
            (any_batch, *_) = batches or collate(parts)
            batches += [idle_batch(any_batch)] * (most - len(batches))
        return [self.execution.with_stored(batch).to(self.machine.device) for batch in batches]

    def _move(
        self, combined: combine.Combined, batches: list[Batch], parts: list[TaskSlice], progress: Progress
    ) -> tuple[float, str]:
        """Take the optimizer's step unless a loss or gradient is not finite; the norm, and why the step was skipped."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        limit = self.stage.max_grad_norm or math.inf
        norm = clip_gradients(parameters, limit, self.machine)
        skipped = ""
        finite = math.isfinite(norm) and bool(torch.isfinite(combined.losses).all())
        if not self.machine.group.any(not finite):  # agreed on before anything moves
            self.optimizer.step()
            self._moved(combined, batches, progress.step)
            progress.skipped_in_a_row = 0
        else:
            skipped = self._not_finite(combined, parts)
            progress.skipped += 1
            progress.skipped_in_a_row += 1
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if progress.skipped_in_a_row >= min(SKIPS_IN_A_ROW, self.plan.steps):
            raise RunError(
                f"stage '{self.stage.name}', step {progress.step + 1}: {progress.skipped_in_a_row} steps in a row had "
                f"losses or gradients that are not finite ({skipped}); a lower learning_rate is the usual cure"
            )
        return norm, skipped

    def _moved(self, combined: combine.Combined, batches: list[Batch], step: int) -> None:
        """Tell the strategy and the combiner that the optimizer moved."""
        if step >= self.head_steps:
            self.model.strategy.step_finished(self.model.backbone, step - self.head_steps)
        if not combined.tasks:
            return
        losses = combined.losses
        if self.combiner.losses_after_step:
            torch.manual_seed(self._random_seed(step, 0, self.machine.group.rank))
            losses = combine.losses_again(self.model, self.combiner, batches, self.machine, self.execution)
        present = [self.combiner.tasks.index(task) for task in combined.tasks]
        self.combiner.step_finished(losses, torch.tensor(present, dtype=torch.long, device=self.machine.device))

    def _tell_combiner(self, steps: int) -> None:
        """Tell the combiner of what does not come with each step: ended epochs, dev losses."""
        if int(self._epoch(steps)) > int(self._epoch(steps - 1)):
            self.combiner.epoch_finished()
        if self.combiner.dev_every and steps % self.combiner.dev_every == 0:
            turn = steps // self.combiner.dev_every - 1
            losses = [self._dev_loss(task, turn) for task in self.combiner.tasks]
            self.combiner.dev_measured(torch.tensor(losses, device=self.machine.device))

    def _dev_loss(self, task: str, turn: int) -> float:
        """The loss of the next few dev rows of a task."""
        if task not in self.dev:
            return math.nan
        size = len(self.dev[task].sizes)
        few = self.dev[task].of((turn * DEV_SAMPLE + np.arange(min(DEV_SAMPLE, size))) % size)
        with self.machine.clock.part(EVALUATION):
            return judge(
                self.model, task, few, self.machine, seed=self.seed, predicting=False, plan=self.execution
            ).loss

    def _rows(self, part: TaskSlice) -> np.ndarray:
        examples = self.train[part.task]
        rows: np.ndarray = examples.rows[examples.of_units(part.units)]
        return rows

    def _not_finite(self, combined: combine.Combined, parts: list[TaskSlice]) -> str:
        """Which tasks' losses were not finite, on which rows."""
        finite = torch.isfinite(combined.losses).tolist()
        tasks = [task for task, good in zip(combined.tasks, finite, strict=True) if not good]
        rows = [
            f"{part.task} rows {self._rows(part)[:5].tolist()}…" for part in parts if part.task in tasks or not tasks
        ]
        what = f"the loss of {', '.join(tasks)}" if tasks else "the gradient"
        return f"{what} was not finite on {'; '.join(rows)}"

    def _evaluate(self, progress: Progress) -> None:
        started = time.perf_counter()
        tasks = tuple(task for task in self.stage.tasks if task in self.dev)
        self.observers.emit(
            "evaluation_started", events.EvaluationStarted(stage=self.stage.name, split="dev", tasks=tasks)
        )
        random_state.seed(self._random_seed(progress.step, 2, self.machine.group.rank))
        with self.machine.clock.part(EVALUATION):
            scores = score(self.model, tasks, self.dev, self.machine, seed=self.seed, plan=self.execution)
        value = self.selection(scores)
        epoch = self._epoch(progress.step)
        progress.history.append(Evaluation(step=progress.step, epoch=epoch, scores=scores, score=value))
        seconds = time.perf_counter() - started
        self.observers.emit(
            "evaluation_finished",
            events.EvaluationFinished(
                stage=self.stage.name, split="dev", step=progress.step, scores=scores, seconds=seconds
            ),
        )
        if value is not None:
            self._keep_best(progress, value)
        losses = {task: values["loss"] for task, values in scores.items() if "loss" in values}
        factors = self.adaptive_mixture.factors(losses, main_scores(scores, self.selection.heads))
        if factors is not None and progress.step < self.plan.steps:
            self.plan.change(progress.step, factors)

    def _keep_best(self, progress: Progress, value: float) -> None:
        if value > progress.best_score:
            progress.best_score, progress.best_step, progress.evaluations_since_best = value, progress.step, 0
            if self.stage.load_best_model_at_end:
                self._save(progress, value)
            return
        progress.evaluations_since_best += 1
        patience = self.stage.early_stopping_patience
        progress.stopped_early = patience is not None and progress.evaluations_since_best >= patience

    def _save(self, progress: Progress, value: float) -> None:
        with self.machine.clock.part(SAVING):
            state = dtensor.full_tensors(self.state(), keep=self.machine.group.is_main)
            if self.machine.group.is_main:
                weights.save(self.best_file, state)
        self.observers.emit(
            "checkpoint_saved",
            events.CheckpointSaved(stage=self.stage.name, step=progress.step, path=self.best_file, score=value),
        )

    def state(self) -> dict[str, Tensor]:
        """What the stage trains, by name."""
        return weights.trained_state(self.model, self.combiner, self.optimizer)

    @property
    def evaluations(self) -> frozenset[int]:
        """The steps after which the stage is evaluated, by its plan as it is now."""
        if not any(task in self.dev for task in self.stage.tasks):
            return frozenset()
        return evaluation_steps(self.stage, self.plan.steps, batch=self.plan.batch, an_epoch=self.units_an_epoch)

    def _epoch(self, step: int) -> float:
        return step * self.plan.batch / self.units_an_epoch
