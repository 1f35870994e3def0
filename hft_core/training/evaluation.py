"""Evaluate tasks on a split: predictions, losses and metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hft_core import events
from hft_core.backbone import Features
from hft_core.batching.batch import Segment
from hft_core.batching.buckets import EVALUATION_ROWS, EVALUATION_TOKENS, tokens_at_once
from hft_core.batching.collate import Collator
from hft_core.data.examples import Examples
from hft_core.device.clock import EVALUATION
from hft_core.device.machine import Machine
from hft_core.head import Head
from hft_core.model import fsdp
from hft_core.model.execution_plan import PLAIN, ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.plugins.observers import Observers
from hft_core.results import LabelScores, Scores
from hft_core.runtime import signals


@dataclass(frozen=True)
class TaskEvaluation:
    """The outputs of one task on a split."""

    predictions: list[Any]
    """One per example, in their order; empty for heads that only have a loss."""
    loss: float
    """Mean over the targets; NaN without any."""
    losses: dict[int, float] = field(default_factory=dict)
    """By index of the example, summed over its targets; empty for heads that do not tell (`Head.losses`)."""


Keep = Callable[[str, TaskEvaluation], None]
"""Takes what a task's predictions and losses were, before they are forgotten."""


def evaluate_task(
    model: HybridModel,
    task: str,
    examples: Examples,
    machine: Machine,
    *,
    seed: int,
    with_loss: bool = True,
    predicting: bool = True,
    plan: ExecutionPlan = PLAIN,
) -> TaskEvaluation:
    """Evaluate one task on `examples`, as `evaluate_tasks` does."""
    predicting_tasks = (task,) if predicting else ()
    evaluations = evaluate_tasks(
        model, {task: examples}, machine, seed=seed, with_loss=with_loss, predicting=predicting_tasks, plan=plan
    )
    return evaluations[task]


def evaluate_tasks(
    model: HybridModel,
    examples: Mapping[str, Examples],
    machine: Machine,
    *,
    seed: int,
    with_loss: bool = True,
    predicting: Collection[str] = (),
    plan: ExecutionPlan = PLAIN,
) -> dict[str, TaskEvaluation]:
    """Evaluate tasks on their examples, which are divided among the processes; all processes return all results.

    Batches mix rows of all tasks where their heads allow it, and contain an input that several tasks share once.
    `predicting`: the tasks to make predictions for. `plan`: how the passes are computed. The model's training mode is
    restored afterwards.
    """
    accumulators = {task: _Accumulator() for task in examples}
    # FSDP gathers a layer into memory that training steps use as well, so that it must be no inference tensor.
    no_gradients = torch.no_grad() if machine.sharded else torch.inference_mode()
    with model.evaluating(), no_gradients:
        for tasks in _task_groups(model, examples):
            machine.check_interruption()
            generates = machine.sharded and any(model.head(task).generates for task in tasks)
            with fsdp.put_together(model.trunk) if generates else nullcontext():
                group = {task: examples[task] for task in tasks}
                _predict(model, group, machine, plan, seed, with_loss, predicting, accumulators)
    gathered = machine.group.all_gather(accumulators)
    return {task: _merge([of_process[task] for of_process in gathered]) for task in examples}


def _task_groups(model: HybridModel, tasks: Iterable[str]) -> list[list[str]]:
    """Group the tasks that can be in one batch: all but those whose heads compare the rows of a batch with one another,
    or generate text."""
    together, alone = [], []
    for task in tasks:
        head = model.head(task)
        if head.joint or head.generates:
            alone.append([task])
        else:
            together.append(task)
    return [together, *alone] if together else alone


@dataclass
class _Accumulator:
    """The outputs of a task in one process so far."""

    predictions: dict[int, Any] = field(default_factory=dict)
    """By index of the example."""
    losses: dict[int, float] = field(default_factory=dict)
    """By index of the example."""
    loss_sum: float = 0.0
    target_count: int = 0

    def add_loss(self, head: Head, features: Features, segment: Segment, answered: np.ndarray) -> None:
        """Add the loss of a batch's examples, by example where the head tells; `answered`: those with a loss."""
        losses = head.losses(features, segment.targets)
        if losses is None:
            self.loss_sum += float(head.loss(features, segment.targets))
        else:
            self.loss_sum += float(losses.sum())
            self.losses |= dict(zip(answered.tolist(), losses.tolist(), strict=True))
        self.target_count += segment.targets.count


def _max_tokens(model: HybridModel, tasks: Collection[str], machine: Machine) -> int:
    """Return the limit of tokens in a batch.

    It is the same on all devices for joint losses, which depend on the rows of a batch, and for generation, where a
    token costs nearly the same for many rows as for few.
    """
    fixed = any(model.head(task).joint or model.head(task).generates for task in tasks)
    return EVALUATION_TOKENS if fixed else tokens_at_once(machine.device)


def _predict(
    model: HybridModel,
    examples: Mapping[str, Examples],
    machine: Machine,
    plan: ExecutionPlan,
    seed: int,
    with_loss: bool,
    predicting: Collection[str],
    accumulators: Mapping[str, _Accumulator],
) -> None:
    """Run the model over all `examples` once, and add the outputs to `accumulators`."""
    collator = Collator(
        examples,
        {task: model.head(task) for task in examples},
        seed=seed,
        pad=model.backbone.tokenizer.pad_token_id,
        dedupe_inputs=not model.strategy.routes_rows,
    )
    for batch in collator.in_length_order(
        max_rows=EVALUATION_ROWS,
        max_tokens=_max_tokens(model, examples, machine),
        rank=machine.group.rank,
        world_size=machine.group.world_size,
        same_count=machine.sharded,
    ):
        if machine.group.world_size == 1:
            signals.check()
        moved = plan.with_stored(batch).to(machine.device)
        with machine.autocast():
            for segment, features in model.segments(moved, model.hidden(moved, plan)):
                head, accumulator = model.head(segment.task), accumulators[segment.task]
                ids = segment.examples
                answered = ids[np.isin(ids, examples[segment.task].answered(head))] if head.predicts_units else ids
                if with_loss and segment.targets.count:
                    accumulator.add_loss(head, features, segment, answered)
                if segment.task in predicting:
                    # One route for all rows: beam search multiplies the rows of the batch.
                    model.strategy.route(model.backbone, [(segment.task, slice(None))])
                    predictions = head.predict(features, segment.targets)
                    accumulator.predictions |= dict(zip(answered.tolist(), predictions, strict=False))


def _merge(parts: Sequence[_Accumulator]) -> TaskEvaluation:
    """Merge the outputs of all processes."""
    by_example = {example: prediction for part in parts for example, prediction in part.predictions.items()}
    predictions = [by_example[example] for example in sorted(by_example) if by_example[example] is not None]
    loss_sum, target_count = sum(part.loss_sum for part in parts), sum(part.target_count for part in parts)
    losses = {example: loss for part in parts for example, loss in part.losses.items()}
    return TaskEvaluation(predictions, loss_sum / target_count if target_count else math.nan, losses)


def score_task(model: HybridModel, task: str, examples: Examples, machine: Machine, *, seed: int) -> dict[str, float]:
    """Return the task's metrics on `examples`."""
    return score(model, (task,), {task: examples}, machine, seed=seed)[task]


def score(
    model: HybridModel,
    tasks: Iterable[str],
    examples: Mapping[str, Examples],
    machine: Machine,
    *,
    seed: int,
) -> Scores:
    """Return the metrics of those of `tasks` that have examples."""
    return measure(model, tasks, examples, machine, seed=seed).scores


@dataclass(frozen=True)
class Measured:
    """The scores of tasks on a split."""

    scores: Scores
    by_label: dict[str, LabelScores]
    """By task, of heads with labels."""


def measure(
    model: HybridModel,
    tasks: Iterable[str],
    examples: Mapping[str, Examples],
    machine: Machine,
    *,
    seed: int,
    plan: ExecutionPlan = PLAIN,
    keep: Keep | None = None,
) -> Measured:
    """Return the metrics of those of `tasks` that have examples, also by label; `keep` is given each task's
    evaluation."""
    scored = {task: examples[task] for task in tasks if task in examples}
    predicting = [task for task in scored if model.head(task).predicts_when_scored]
    scores, by_label = {}, {}
    for task, evaluation in evaluate_tasks(model, scored, machine, seed=seed, predicting=predicting, plan=plan).items():
        head, of_task = model.head(task), scored[task]
        references = of_task.references(of_task.answered(head), head) if evaluation.predictions else []
        scores[task] = head.metrics(evaluation.predictions, references, evaluation.loss)
        if labels := head.by_label(evaluation.predictions, references):
            by_label[task] = labels
        if keep is not None:
            keep(task, evaluation)
    return Measured(scores, by_label)


def score_and_report(
    model: HybridModel,
    tasks: Sequence[str],
    examples: Mapping[str, Examples],
    machine: Machine,
    observers: Observers,
    *,
    stage: str,
    split: str,
    step: int,
    seed: int,
    plan: ExecutionPlan = PLAIN,
    keep: Keep | None = None,
) -> Measured:
    """Score `tasks` as `measure` does, between the events `evaluation_started` and `evaluation_finished`."""
    started = time.perf_counter()
    observers.emit("evaluation_started", events.EvaluationStarted(stage=stage, split=split, tasks=tuple(tasks)))
    with machine.clock.part(EVALUATION):
        measured = measure(model, tasks, examples, machine, seed=seed, plan=plan, keep=keep)
    seconds = time.perf_counter() - started
    observers.emit(
        "evaluation_finished",
        events.EvaluationFinished(
            stage=stage, split=split, step=step, scores=measured.scores, seconds=seconds, by_label=measured.by_label
        ),
    )
    return measured
