"""Watch a stage while it trains: a loss that rises or does not fall, and answers that are all the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from hft_core.model.hybrid import HybridModel
from hft_core.recipe.stage import Stage
from hft_core.results import LabelScores, TrainingFacts
from hft_core.training.causes import likeliest_cause
from hft_core.training.learning_rates import LearningRates, learning_rates
from hft_core.training.progress import Progress

WINDOW = 10
"""Losses of a task, at the start and just now, that are compared."""
FIRST = 3
"""Losses before a rate that is far too high shows."""
FEW_ROWS = 10
"""Of so few dev rows, the answers may be the same by chance."""
FLAT = 0.02
"""A loss that fell by less than this share has not fallen."""
RISEN = 2.0
"""A loss of more than this many times that at the start diverges."""


@dataclass(frozen=True)
class Watch:
    """Compares the losses of a stage's tasks with those at its start.

    What it has seen is in `Progress`, so that a resumed stage is judged like an uninterrupted one.
    """

    steps: int
    rate: float
    """Learning rate of the trunk; of the heads where the trunk is frozen."""
    usual_rate: float
    """The same by default."""
    fresh: frozenset[str]
    """Tasks whose heads were fresh when the stage began: their losses have to fall."""

    def see_losses(self, progress: Progress, losses: Mapping[str, float]) -> list[str]:
        """Take in the losses of the step that is finished, and return what is to be said now, a sentence each."""
        for task, loss in losses.items():
            first = progress.first_losses.setdefault(task, [])
            last = progress.last_losses.setdefault(task, [])
            if len(first) < WINDOW:
                first.append(loss)
            else:
                last.append(loss)
                del last[:-WINDOW]
        found = self._diverging(progress)
        if progress.step == self.steps // 2:
            found = {**self._flat(progress), **found}
        return self._new(progress, found)

    def see_labels(self, progress: Progress, by_label: Mapping[str, LabelScores]) -> list[str]:
        """Take in an evaluation, and return what is to be said now: answers that are all the same, in the second half
        of the stage."""
        for task, labels in by_label.items():
            given = [label for label, scores in labels.items() if scores["predicted"]]
            support = [scores["support"] for scores in labels.values() if scores["support"]]
            constant = len(given) == 1 and len(support) > 1 and sum(support) >= FEW_ROWS
            progress.only_label[task] = given[0] if constant else ""
        return self._new(progress, self._constant(progress) if progress.step >= self.steps / 2 else {})

    def findings(self, progress: Progress) -> list[str]:
        """Return what is wrong at the end of the stage, a sentence a task."""
        found = {**self._constant(progress), **self._flat(progress), **self._diverging(progress)}
        return list(found.values())

    def facts(self, progress: Progress, task: str) -> TrainingFacts:
        """Return what the likeliest cause of a bad score is judged by."""
        first, last = progress.first_losses.get(task, []), progress.last_losses.get(task, [])
        return TrainingFacts(
            steps=progress.step,
            rate=self.rate,
            usual_rate=self.usual_rate,
            first_loss=start_of(first) if first else None,
            last_loss=fmean(last) if last else None,
            only_label=progress.only_label.get(task, ""),
        )

    def _new(self, progress: Progress, found: Mapping[str, str]) -> list[str]:
        """Return the sentences on tasks of which nothing was said before."""
        new = {task: text for task, text in found.items() if task not in progress.noticed}
        progress.noticed += new
        return list(new.values())

    def _diverging(self, progress: Progress) -> dict[str, str]:
        return {
            task: self._sentence(progress, task, "the loss rises")
            for task, last in progress.last_losses.items()
            if len(last) == WINDOW and median(last) > RISEN * start_of(progress.first_losses[task]) > 0
        }

    def _flat(self, progress: Progress) -> dict[str, str]:
        return {
            task: self._sentence(progress, task, "the loss does not fall")
            for task, last in progress.last_losses.items()
            if task in self.fresh
            and len(last) == WINDOW
            and fmean(last) > (1 - FLAT) * start_of(progress.first_losses[task])
        }

    def _constant(self, progress: Progress) -> dict[str, str]:
        if self.steps < 2 * WINDOW:
            return {}
        return {
            task: self._sentence(progress, task, f"all dev rows get the label '{label}'")
            for task, label in progress.only_label.items()
            if label
        }

    def _sentence(self, progress: Progress, task: str, what: str) -> str:
        facts = self.facts(progress, task)
        losses = ""
        if facts.first_loss is not None and facts.last_loss is not None:
            losses = f" (loss {facts.first_loss:.4g} at the start, {facts.last_loss:.4g} at step {progress.step})"
        return f"task '{task}': {what}{losses}; {likeliest_cause(facts)}"


def start_of(first: Sequence[float]) -> float:
    """Return the loss at the start: the mean of the first losses, or of the very first ones where it rose at once."""
    very_first = fmean(first[:FIRST])
    return very_first if max(first) > RISEN * very_first else fmean(first)


def watch_of(model: HybridModel, stage: Stage, rates: LearningRates, strategy_default: float, *, steps: int) -> Watch:
    """Return the watch of a stage that is ready to begin; `strategy_default`: as in `learning_rates`."""
    trunk_trains = bool(model.trunk_parameters())
    unstated = stage.model_copy(update={"learning_rate": None, "head_learning_rate": None})
    usual = learning_rates(unstated, strategy_default)
    return Watch(
        steps=steps,
        rate=rates.trunk if trunk_trains else rates.head,
        usual_rate=usual.trunk if trunk_trains else usual.head,
        fresh=frozenset(task for task in stage.tasks if not model.head(task).pretrained),
    )
