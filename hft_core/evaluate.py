"""Scores of a task on a split, and the one number that stages are compared by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hft_core import interruption, turns
from hft_core.batching import in_length_order
from hft_core.errors import RecipeError, did_you_mean
from hft_core.examples import Examples
from hft_core.head import Head
from hft_core.machine import Machine
from hft_core.model import HybridModel
from hft_core.recipe_stage import Stage
from hft_core.results import Scores

EVALUATION_ROWS, EVALUATION_TOKENS = 256, 16384
"""Limits of one evaluation batch."""


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
) -> Judged:
    """Run `task`'s head over all `examples`, each in one of the processes; all of them get the whole answer. The model
    is put back into the mode it was in."""
    head = model.head(task)
    training = model.training
    model.eval()
    said_of: dict[int, Any] = {}
    total, count = 0.0, 0
    pad = model.backbone.tokenizer.pad_token_id
    machine.check_interruption()
    with torch.inference_mode():
        for batch in in_length_order(
            task,
            examples,
            head,
            seed=seed,
            pad=pad,
            max_rows=EVALUATION_ROWS,
            max_tokens=EVALUATION_TOKENS,
            rank=machine.rank,
            world=machine.world,
        ):
            if machine.world == 1:
                interruption.check()
                turns.offer()
            moved = batch.to(machine.device)
            with machine.autocast():
                ((segment, features),) = model.segments(moved, model.hidden(moved))
                if with_loss and segment.targets.count:
                    total += float(head.loss(features, segment.targets))
                    count += segment.targets.count
                model.strategy.route(model.backbone, [(task, slice(None))])  # beams make more rows of a batch
                said = head.predict(features, segment.targets) if predicting else []
            said_of |= dict(zip(segment.examples.tolist(), said, strict=False))
    model.train(training)
    parts = machine.gathered((said_of, total, count))
    everything = {example: prediction for said, _, _ in parts for example, prediction in said.items()}
    total, count = sum(total for _, total, _ in parts), sum(count for _, _, count in parts)
    given = [everything[example] for example in sorted(everything) if everything[example] is not None]
    return Judged(given, total / count if count else math.nan)


def score_task(model: HybridModel, task: str, examples: Examples, machine: Machine, *, seed: int) -> dict[str, float]:
    """The task's metrics on `examples`."""
    head = model.head(task)
    judged = judge(model, task, examples, machine, seed=seed, predicting=head.predicts_when_scored)
    references = examples.references(range(len(examples)), head) if judged.predictions else []
    return head.metrics(judged.predictions, references, judged.loss)


def score(
    model: HybridModel, tasks: Iterable[str], examples: Mapping[str, Examples], machine: Machine, *, seed: int
) -> Scores:
    """The metrics of those of `tasks` that have examples."""
    return {task: score_task(model, task, examples[task], machine, seed=seed) for task in tasks if task in examples}


def main_scores(scores: Scores, heads: Mapping[str, Head]) -> dict[str, float]:
    """Each task's main metric, turned so that higher is better."""
    signs = {task: 1 if heads[task].greater_is_better else -1 for task in scores}
    return {task: signs[task] * values[heads[task].main_metric] for task, values in scores.items()}


class Selection:
    """The rule by which a stage's best weights are chosen.

    `task.metric` where the stage names one; otherwise the mean of the main metrics of the stage's supervised tasks that
    have a dev split; without any, minus the mean loss of the others.
    """

    def __init__(self, stage: Stage, heads: Mapping[str, Head]) -> None:
        self.heads = {task: heads[task] for task in stage.tasks}
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
                f"metric_for_best_model: task '{self.task}' has no metric '{self.metric}'."
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
