"""Which weights a stage ends with, where few dev rows cannot tell evaluations apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from hft_core.recipe.stage import Stage
from hft_core.results import Evaluation
from hft_core.training.progress import Progress
from hft_core.training.selection import BestTracker, Selection, why_not_the_best


class Head:
    supervised = greater_is_better = True
    main_metric = "accuracy"


def chosen(scores: list[tuple[float, float]], rows: int, **stage: Any) -> tuple[int, str]:
    """The step that is kept, of evaluations with (accuracy, loss) after steps 1, 2, …, and why."""
    given = Stage(name="s", tasks=("t",), **stage)
    selection = Selection(given, {"t": Head()}, {"t": rows})  # type: ignore[dict-item]
    tracker = BestTracker(stage=given, file=Path(), trained_state=dict, machine=MagicMock(), observers=MagicMock())
    object.__setattr__(tracker, "_save", lambda step, score: None)
    progress = Progress()
    for accuracy, loss in scores:
        progress.step += 1
        found = {"t": {"accuracy": accuracy, "loss": loss}}
        score = selection(found)
        assert score is not None
        progress.history.append(Evaluation(step=progress.step, epoch=0.0, scores=found, score=score))
        tracker.update(progress, score, selection.loss(found), selection.noise(found))
    return progress.best_step, why_not_the_best(progress.history, progress.best_step, selection.noise(found))


SCORES = [(0.70, 0.6), (0.76, 0.5), (0.72, 0.9), (0.74, 0.8)]


@pytest.mark.parametrize(
    ("rows", "stage", "step"),
    [
        (25, {}, 4),  # a standard error of 0.09
        (2_000, {}, 2),  # 0.0098
        (25, {"metric_for_best_model": "t.accuracy"}, 2),
        (25, {"early_stopping_patience": 5}, 2),
    ],
)
def test_scores_that_few_rows_cannot_tell_apart_do_not_choose(rows: int, stage: dict[str, Any], step: int) -> None:
    found, why = chosen(SCORES, rows, **stage)
    assert found == step
    assert bool(why) == (step == 4)


def test_what_was_kept_is_said() -> None:
    _, why = chosen(SCORES, 25)
    assert why == (
        "the score at step 2 (0.76) and that at step 4 (0.74) differ by less than the standard error of the dev rows "
        "(0.088), too few to choose by: the later weights were kept"
    )


def test_weights_that_are_clearly_worse_are_not_kept() -> None:
    assert chosen([(0.9, 0.3), (0.5, 0.8)], 25)[0] == 1
    assert chosen([(0.9, 0.3), (0.88, 0.4), (0.5, 0.8)], 25)[0] == 2


def test_equal_scores_on_many_rows_are_chosen_by_loss() -> None:
    assert chosen([(1.0, 0.3), (1.0, 0.2), (1.0, 0.4)], 100_000)[0] == 3  # 1 row is the least that can be told
