"""Divide the rows of a stage's steps among its tasks, in fixed proportions or as dev scores suggest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hft_core.recipe.stage import Sampling

_FACTOR_LIMIT = 4.0
"""Adaptive proportions are at most so many times larger or smaller than without adaptation."""


def epoch_rows(rows: Mapping[str, int], sampling: Sampling, replay: Mapping[str, float]) -> int:
    """Count the rows in one epoch of a stage: those of its tasks times their `passes`, and the replayed ones."""
    own = sum(count * sampling.passes.get(task, 1.0) for task, count in rows.items() if task not in replay)
    return max(1, round(own / (1.0 - sum(replay.values()))))


@dataclass(frozen=True)
class Mixture:
    """The proportions of tasks in a step, in the order of `rows`."""

    rows: Mapping[str, int]
    """Units of each task."""
    sampling: Sampling
    replay: Mapping[str, float] = field(default_factory=dict)
    """Fixed proportions of a step, of the tasks that guard against forgetting."""

    @property
    def budgets(self) -> np.ndarray:
        """`[tasks]`: the number of units after which a task gets no more."""
        epochs = self.sampling.max_epochs
        return np.array([epochs.get(task, np.inf) * count for task, count in self.rows.items()])

    def proportions(self, moments: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """Return the sampling proportions `[steps, tasks]`, which sum to 1 in each step.

        `moments`: `[steps]`, from 0 (the stage's first step) to 1 (its end). `factors`: `[tasks]`, on the tasks' usual
        proportions; 0 leaves a task out, and the others divide its proportion."""
        replayed = np.array([self.replay.get(task, 0.0) for task in self.rows]) * (factors > 0)
        usual = self._usual(moments) * np.array([task not in self.replay for task in self.rows]) * factors
        total = usual.sum(axis=1, keepdims=True)
        if not total.any():  # only replayed tasks are left
            return np.broadcast_to(replayed / replayed.sum(), usual.shape)
        proportions: np.ndarray = replayed + usual / total * (1.0 - replayed.sum())
        return proportions

    def _usual(self, moments: np.ndarray) -> np.ndarray:
        """`[steps, tasks]`, up to a factor: weight · (passes · rows)^(1/temperature)."""
        first = 1.0 / self.sampling.temperature
        last = first if self.sampling.temperature_end is None else 1.0 / self.sampling.temperature_end
        exponent = first + (last - first) * moments
        seen = np.array([count * self.sampling.passes.get(task, 1.0) for task, count in self.rows.items()])
        weights = np.array([self.sampling.weights.get(task, 1.0) for task in self.rows])
        usual: np.ndarray = weights * seen ** exponent[:, None]
        return usual


@dataclass
class AdaptiveMixture:
    """Change a stage's mixture by its dev scores: stop tasks that no longer improve, and adapt proportions.

    With `sampling.adapt` a task's proportion is multiplied by (r_t / mean r)^adapt, where r_t is its lowest dev loss so
    far relative to its first: the inverse training rate of Chen et al. 2018 (arXiv:1711.02257) as a sampler, in the
    spirit of dynamic sampling (Gottumukkala et al. 2020). A loss that rises again does not attract rows.
    """

    sampling: Sampling
    tasks: tuple[str, ...]
    first_loss: dict[str, float] = field(default_factory=dict)
    lowest_loss: dict[str, float] = field(default_factory=dict)
    best_score: dict[str, float] = field(default_factory=dict)
    since_best: dict[str, int] = field(default_factory=dict)

    def state(self) -> dict[str, dict[str, Any]]:
        """Return what was seen so far, for JSON."""
        return {name: dict(getattr(self, name)) for name in ("first_loss", "lowest_loss", "best_score", "since_best")}

    def load_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore what `state` returned."""
        for name, values in state.items():
            getattr(self, name).update(values)

    def factors(self, losses: Mapping[str, float], scores: Mapping[str, float]) -> dict[str, float] | None:
        """Return the factors on the tasks' proportions after an evaluation, or None if nothing depends on dev scores.

        `losses`: dev losses; `scores`: main metrics, higher is better.
        """
        if not self.sampling.adapt and not self.sampling.patience:
            return None
        for task, loss in losses.items():
            if np.isfinite(loss):
                self.first_loss.setdefault(task, loss)
                self.lowest_loss[task] = min(loss, self.lowest_loss.get(task, loss))
        for task, score in scores.items():
            better = score > self.best_score.get(task, -np.inf)
            self.best_score[task] = score if better else self.best_score.get(task, -np.inf)
            self.since_best[task] = 0 if better else self.since_best.get(task, 0) + 1
        adapted = self._adapted()
        return {task: 0.0 if task in self.stopped() else adapted[task] for task in self.tasks}

    def stopped(self) -> set[str]:
        """Return the tasks that have not improved for as many evaluations as their patience."""
        return {task for task, patience in self.sampling.patience.items() if self.since_best.get(task, 0) >= patience}

    def _adapted(self) -> dict[str, float]:
        rates = {task: self.lowest_loss[task] / first for task, first in self.first_loss.items() if first > 0}
        if not rates:
            return dict.fromkeys(self.tasks, 1.0)
        mean = float(np.mean(list(rates.values())))
        limits = (1 / _FACTOR_LIMIT, _FACTOR_LIMIT)
        return {
            task: float(np.clip((rates.get(task, mean) / mean) ** self.sampling.adapt, *limits)) for task in self.tasks
        }
