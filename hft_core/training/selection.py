"""Choose a stage's best weights by its dev scores, and keep them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from hft_core import events
from hft_core.device import dtensor
from hft_core.device.clock import SAVING
from hft_core.device.machine import Machine
from hft_core.errors import RecipeError, did_you_mean
from hft_core.head import Head
from hft_core.plugins.observers import Observers
from hft_core.recipe.stage import Stage
from hft_core.results import Evaluation, Scores
from hft_core.training import weights
from hft_core.training.progress import Progress


def main_scores(scores: Scores, heads: Mapping[str, Head]) -> dict[str, float]:
    """Return each task's main metric, negated where lower is better."""
    signs = {task: 1 if heads[task].greater_is_better else -1 for task in scores}
    return {task: signs[task] * values[heads[task].main_metric] for task, values in scores.items()}


class Selection:
    """The score by which a stage's evaluations are compared.

    `task.metric` where the stage names one; otherwise the mean of the main metrics of the stage's supervised tasks that
    have a dev split; without any, minus the mean loss of the others.
    """

    def __init__(self, stage: Stage, heads: Mapping[str, Head], rows: Mapping[str, int] | None = None) -> None:
        """`rows`: dev examples by task."""
        self.rows = rows or {}
        self.chooses_by_score = bool(stage.metric_for_best_model) or stage.early_stopping_patience is not None
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
        """Return the score of an evaluation: higher is better; None when nothing was measured."""
        if self.task:
            self.check(scores)
            value = scores[self.task][self.metric]
            return value if self._greater() else -value
        main = main_scores(scores, self.heads)
        supervised = [main[task] for task in scores if self.heads[task].supervised]
        others = [-values["loss"] for task, values in scores.items() if not self.heads[task].supervised]
        chosen = supervised or others
        return float(np.mean(chosen)) if chosen else None

    def noise(self, scores: Scores) -> float:
        """Return the standard error of the score of an evaluation: evaluations that differ by less are not told apart.

        0 where a stage names its metric or stops early by it, and where nothing is known of it: only shares (accuracy
        and the like) have one.
        """
        main = {} if self.chooses_by_score else main_scores(scores, self.heads)
        shares = {task: value for task, value in main.items() if self.heads[task].supervised}
        known = {task: value for task, value in shares.items() if 0 <= value <= 1 and self.rows.get(task)}
        errors = [share_noise(value, self.rows[task]) for task, value in known.items()]
        return math.sqrt(sum(error**2 for error in errors)) / len(shares) if errors else 0.0

    def loss(self, scores: Scores) -> float:
        """Return the mean loss of the tasks whose scores count."""
        supervised = [task for task in scores if self.heads[task].supervised]
        tasks = [self.task] if self.task else supervised or list(scores)
        losses = [scores[task]["loss"] for task in tasks if "loss" in scores.get(task, {})]
        return float(np.mean(losses)) if losses else math.inf

    def _greater(self) -> bool:
        if self.greater_is_better is not None:
            return self.greater_is_better
        head = self.heads[self.task]
        if self.metric == head.main_metric:
            return head.greater_is_better
        return self.metric not in ("loss", "perplexity", "mae", "mse", "rmse")


@dataclass(frozen=True, kw_only=True)
class BestTracker:
    """Keeps the best weights of a stage in a file, and counts evaluations without improvement."""

    stage: Stage
    file: Path
    """Written by the first process."""
    trained_state: Callable[[], dict[str, Tensor]]
    """Returns the tensors that the stage trains, by name."""
    machine: Machine
    observers: Observers

    def update(self, progress: Progress, score: float, loss: float, noise: float = 0.0) -> None:
        """Compare the last evaluation with the best one so far: save the weights, or stop early after
        `early_stopping_patience` evaluations without improvement.

        Of equal scores, the one with the lower loss is better. A later evaluation that is worse by less than the
        `noise` is not known to be worse, and has trained longer: its weights are kept.
        """
        better = (score, -loss) > (progress.best_score, -progress.best_loss)
        if better:
            progress.best_score, progress.best_loss = score, loss
        if better or score > progress.best_score - noise:
            progress.best_step = progress.step
            if self.stage.load_best_model_at_end:
                self._save(progress.step, score)
        progress.evaluations_since_best = 0 if better else progress.evaluations_since_best + 1
        patience = self.stage.early_stopping_patience
        progress.stopped_early = patience is not None and progress.evaluations_since_best >= patience

    def finish(self, progress: Progress) -> None:
        """At the end of a stage, load the best weights, or make those of the last step the best ones."""
        if self.stage.load_best_model_at_end and 0 < progress.best_step < progress.step:
            self._load()
        elif progress.best_step < progress.step or not self.stage.load_best_model_at_end:
            progress.best_step = progress.step
            self._save(progress.step, math.nan)

    def _save(self, step: int, score: float) -> None:
        is_main = self.machine.group.is_main
        with self.machine.clock.part(SAVING):
            state = dtensor.full_tensors(self.trained_state(), keep=is_main)
            if is_main:
                weights.save(self.file, state)
        self.observers.emit(
            "checkpoint_saved",
            events.CheckpointSaved(stage=self.stage.name, step=step, path=self.file, score=score),
        )

    def _load(self) -> None:
        """Load the file, which only the first process has, into all processes."""
        group = self.machine.group
        saved = load_file(self.file) if group.is_main else {}
        for name, tensor in self.trained_state().items():
            value = saved[name] if group.is_main else torch.empty(tensor.shape, dtype=tensor.dtype)
            weights.put({name: group.broadcast(value.to(tensor.device))}, {name: tensor})


def share_noise(value: float, rows: int) -> float:
    """Return the standard error of a share of `rows` rows; of one that is 0 or 1, that of one row."""
    return math.sqrt(max(value * (1 - value), 1 / rows) / rows)


def why_not_the_best(history: Sequence[Evaluation], best_step: int, noise: float) -> str:
    """Describe why a stage ends with other weights than those of its highest score; empty if it does not."""
    scored = [(each.score, each.step) for each in history if each.score is not None]
    chosen = next((score for score, step in scored if step == best_step), None)
    if chosen is None or not noise:
        return ""
    highest, step = max(scored, key=lambda pair: (pair[0], -pair[1]))
    if chosen == highest:
        return ""
    return (
        f"the score at step {step} ({highest:.4g}) and that at step {best_step} ({chosen:.4g}) differ by less than the "
        f"standard error of the dev rows ({noise:.2g}), too few to choose by: the later weights were kept"
    )


def made_worse(before: Scores, after: Scores, heads: Mapping[str, Head], rows: Mapping[str, int]) -> list[str]:
    """Describe the tasks that got worse by more than chance explains, one sentence each.

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
        noise = share_noise(was, rows[task]) if share else 0.01 * abs(was)
        if loss > noise:
            sentences.append(f"task '{task}' got worse: {name} {was:.4g} before, {now:.4g} after")
    return sentences
