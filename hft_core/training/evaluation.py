"""Scores of a task on a split, and the one number that stages are compared by."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hft_core.batching.buckets import EVALUATION_ROWS, EVALUATION_TOKENS, tokens_at_once
from hft_core.batching.collate import Collator
from hft_core.data.examples import Examples
from hft_core.device.distributed import Machine
from hft_core.errors import RecipeError, did_you_mean
from hft_core.head import Head
from hft_core.model import fsdp
from hft_core.model.execution_plan import PLAIN, ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.stage import Stage
from hft_core.results import Scores
from hft_core.runtime import signals


@dataclass(frozen=True)
class Judged:
    """What the model says about a split."""

    predictions: list[Any]
    """One an example, in the order of the examples; empty for heads that only have a loss."""
    loss: float
    """Mean over the targets; NaN without any."""


def judge(
    model: HybridModel,
    task: str,
    examples: Examples,
    machine: Machine,
    *,
    seed: int,
    with_loss: bool = True,
    predicting: bool = True,
    plan: ExecutionPlan = PLAIN,
) -> Judged:
    """Run `task`'s head over all `examples`, each in one of the processes; all of them get the whole answer. The model
    is put back into the mode it was in."""
    named = (task,) if predicting else ()
    judged = judge_tasks(model, {task: examples}, machine, seed=seed, with_loss=with_loss, predicting=named, plan=plan)
    return judged[task]


def judge_tasks(
    model: HybridModel,
    examples: Mapping[str, Examples],
    machine: Machine,
    *,
    seed: int,
    with_loss: bool = True,
    predicting: Collection[str] = (),
    plan: ExecutionPlan = PLAIN,
) -> dict[str, Judged]:
    """As `judge`, for several tasks in as few passes through the trunk as there can be: batches hold rows of all of
    them, and a text that a family reads is in them once. `predicting`: the tasks whose predictions are wanted."""
    heard = {task: _Heard() for task in examples}
    # A divided layer is put together in memory that a training step will use as well: not an inference tensor.
    quiet = torch.no_grad() if machine.sharded else torch.inference_mode()
    with model.evaluating(), quiet:
        for tasks in _passes(model, examples):
            machine.check_interruption()
            writes = machine.sharded and any(model.head(task).generates for task in tasks)
            with fsdp.put_together(model.trunk) if writes else nullcontext():
                of_tasks = {task: examples[task] for task in tasks}
                _hear(model, of_tasks, machine, plan, seed, with_loss, predicting, heard)
    gathered = machine.group.all_gather(heard)
    return {task: _whole([each[task] for each in gathered]) for task in examples}


def _passes(model: HybridModel, tasks: Iterable[str]) -> list[list[str]]:
    """The tasks that go through the trunk together: all but those whose heads compare the rows of a batch with one
    another, or write text."""
    together, alone = [], []
    for task in tasks:
        head = model.head(task)
        if head.joint or head.generates:
            alone.append([task])
        else:
            together.append(task)
    return [together, *alone] if together else alone


@dataclass
class _Heard:
    """What one process knows of a task so far."""

    said: dict[int, Any] = field(default_factory=dict)
    """Predictions by example."""
    total: float = 0.0
    """The loss, summed over `count` targets."""
    count: int = 0


def _tokens_of(model: HybridModel, tasks: Collection[str], machine: Machine) -> int:
    """Of an evaluation batch. What a joint loss is depends on the rows of its batch, and to write a token costs nearly
    the same for many rows as for few: these have as many everywhere."""
    by_batch = any(model.head(task).joint or model.head(task).generates for task in tasks)
    return EVALUATION_TOKENS if by_batch else tokens_at_once(machine.device)


def _hear(
    model: HybridModel,
    examples: Mapping[str, Examples],
    machine: Machine,
    plan: ExecutionPlan,
    seed: int,
    with_loss: bool,
    predicting: Collection[str],
    heard: Mapping[str, _Heard],
) -> None:
    """One pass over all `examples`; what the heads say is added to `heard`."""
    collator = Collator(
        examples,
        {task: model.head(task) for task in examples},
        seed=seed,
        pad=model.backbone.tokenizer.pad_token_id,
        dedupe_inputs=not model.strategy.routes_rows,
    )
    for batch in collator.in_length_order(
        max_rows=EVALUATION_ROWS,
        max_tokens=_tokens_of(model, examples, machine),
        rank=machine.group.rank,
        world_size=machine.group.world_size,
        same_count=machine.sharded,
    ):
        if machine.group.world_size == 1:
            signals.check()
        moved = plan.with_stored(batch).to(machine.device)
        with machine.autocast():
            for segment, features in model.segments(moved, model.hidden(moved, plan)):
                head, of_task = model.head(segment.task), heard[segment.task]
                if with_loss and segment.targets.count:
                    of_task.total += float(head.loss(features, segment.targets))
                    of_task.count += segment.targets.count
                if segment.task in predicting:
                    # Beams make more rows of a batch, and nothing else is to be known of them.
                    model.strategy.route(model.backbone, [(segment.task, slice(None))])
                    said = head.predict(features, segment.targets)
                    of_task.said |= dict(zip(segment.examples.tolist(), said, strict=False))


def _whole(parts: Sequence[_Heard]) -> Judged:
    """What all processes know of a task."""
    said = {example: prediction for part in parts for example, prediction in part.said.items()}
    total, count = sum(part.total for part in parts), sum(part.count for part in parts)
    given = [said[example] for example in sorted(said) if said[example] is not None]
    return Judged(given, total / count if count else math.nan)


def score_task(model: HybridModel, task: str, examples: Examples, machine: Machine, *, seed: int) -> dict[str, float]:
    """The task's metrics on `examples`."""
    return score(model, (task,), {task: examples}, machine, seed=seed)[task]


def score(
    model: HybridModel,
    tasks: Iterable[str],
    examples: Mapping[str, Examples],
    machine: Machine,
    *,
    seed: int,
    plan: ExecutionPlan = PLAIN,
) -> Scores:
    """The metrics of those of `tasks` that have examples."""
    scored = {task: examples[task] for task in tasks if task in examples}
    predicting = [task for task in scored if model.head(task).predicts_when_scored]
    scores = {}
    judged_tasks = judge_tasks(model, scored, machine, seed=seed, predicting=predicting, plan=plan)
    for task, judged in judged_tasks.items():
        head, part = model.head(task), scored[task]
        references = part.references(range(len(part)), head) if judged.predictions else []
        scores[task] = head.metrics(judged.predictions, references, judged.loss)
    return scores


def main_scores(scores: Scores, heads: Mapping[str, Head]) -> dict[str, float]:
    """Each task's main metric, turned so that higher is better."""
    signs = {task: 1 if heads[task].greater_is_better else -1 for task in scores}
    return {task: signs[task] * values[heads[task].main_metric] for task, values in scores.items()}


def evaluation_steps(stage: Stage, steps: int, *, batch: int, an_epoch: int) -> frozenset[int]:
    """The steps of `steps` after which a stage with dev rows is evaluated, the last one always, unless it never is;
    `batch`: units in a step, `an_epoch`: those in an epoch."""
    if stage.eval_strategy == "no":
        return frozenset()
    if stage.eval_steps and stage.eval_strategy == "steps":
        return frozenset(range(stage.eval_steps, steps, stage.eval_steps)) | {steps}
    epochs = range(1, math.ceil(steps * batch / an_epoch) + 1)
    return frozenset(min(steps, math.ceil(epoch * an_epoch / batch)) for epoch in epochs) | {steps}


class Selection:
    """The rule by which a stage's best weights are chosen.

    `task.metric` where the stage names one; otherwise the mean of the main metrics of the stage's supervised tasks that
    have a dev split; without any, minus the mean loss of the others.
    """

    def __init__(self, stage: Stage, heads: Mapping[str, Head]) -> None:
        self.stage, self.heads = stage.name, {task: heads[task] for task in stage.tasks}
        self.task, _, self.metric = (stage.metric_for_best_model or "").partition(".")
        self.greater_is_better = stage.greater_is_better
        if self.task and self.task not in self.heads:
            raise RecipeError(
                f"stage '{stage.name}': metric_for_best_model '{stage.metric_for_best_model}' must be 'task.metric' "
                f"with a task of the stage.{did_you_mean(self.task, self.heads)}"
            )

    def check(self, scores: Scores) -> None:
        """Raise `RecipeError` when the named metric is not among `scores`."""
        if self.task and self.metric not in scores.get(self.task, {}):
            raise RecipeError(
                f"stage '{self.stage}': metric_for_best_model: task '{self.task}' has no metric '{self.metric}'."
                + did_you_mean(self.metric, scores.get(self.task, {}))
            )

    def __call__(self, scores: Scores) -> float | None:
        """Higher is better; None when nothing was measured."""
        if self.task:
            self.check(scores)
            value = scores[self.task][self.metric]
            return value if self._greater() else -value
        main = main_scores(scores, self.heads)
        supervised = [main[task] for task in scores if self.heads[task].supervised]
        others = [-values["loss"] for task, values in scores.items() if not self.heads[task].supervised]
        chosen = supervised or others
        return float(np.mean(chosen)) if chosen else None

    def _greater(self) -> bool:
        if self.greater_is_better is not None:
            return self.greater_is_better
        head = self.heads[self.task]
        if self.metric == head.main_metric:
            return head.greater_is_better
        return self.metric not in ("loss", "perplexity", "mae", "mse", "rmse")


def made_worse(before: Scores, after: Scores, heads: Mapping[str, Head], rows: Mapping[str, int]) -> list[str]:
    """The tasks that got worse by more than chance explains, one sentence each.

    A share (accuracy and the like) is worse when it fell by more than its standard error on that many rows, anything
    else when it changed for the worse by more than 1 %.
    """
    sentences = []
    for task, old in before.items():
        if task not in after:
            continue
        head = heads[task]
        name = head.main_metric
        was, now = old[name], after[task][name]
        loss = (was - now) if head.greater_is_better else (now - was)
        share = head.greater_is_better and 0 <= was <= 1
        noise = math.sqrt(max(was * (1 - was), 1 / rows[task]) / rows[task]) if share else 0.01 * abs(was)
        if loss > noise:
            sentences.append(f"task '{task}' got worse: {name} {was:.4g} before, {now:.4g} after")
    return sentences
