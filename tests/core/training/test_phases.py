"""What a stage does after a step, in all orders in which evaluation, early stopping and a shortened plan can meet."""

from __future__ import annotations

import pytest

from hft_core.recipe.stage import Stage
from hft_core.results import Evaluation
from hft_core.training.phases import Phase, evaluation_steps, next_phase
from hft_core.training.progress import Progress


def progress(step: int, *, evaluated: bool = False, measured: bool = False, stopped: bool = False) -> Progress:
    history = [Evaluation(step=step, epoch=0.0, scores={}, score=0.0)] if evaluated else []
    return Progress(step=step, history=history, dev_losses_step=step if measured else 0, stopped_early=stopped)


@pytest.mark.parametrize(
    ("now", "steps", "dev_losses_every", "expected"),
    [
        pytest.param(progress(0), 10, 0, Phase.TRAIN, id="first step"),
        pytest.param(progress(3), 10, 0, Phase.TRAIN, id="no evaluation due"),
        pytest.param(progress(5), 10, 0, Phase.EVALUATE, id="evaluation due"),
        pytest.param(progress(5, evaluated=True), 10, 0, Phase.TRAIN, id="evaluated"),
        pytest.param(progress(5, evaluated=True, stopped=True), 10, 0, Phase.END, id="stopped early"),
        pytest.param(progress(10), 10, 0, Phase.EVALUATE, id="last step"),
        pytest.param(progress(10, evaluated=True), 10, 0, Phase.END, id="last step evaluated"),
        pytest.param(progress(5, evaluated=True), 5, 0, Phase.END, id="plan shortened by this evaluation"),
        pytest.param(progress(7), 7, 0, Phase.END, id="plan shortened to a step without evaluation"),
        pytest.param(progress(12), 12, 0, Phase.END, id="no evaluation at all"),
        pytest.param(progress(0), 10, 2, Phase.TRAIN, id="no dev losses before the first step"),
        pytest.param(progress(4), 10, 2, Phase.MEASURE_DEV_LOSSES, id="dev losses due"),
        pytest.param(progress(4, measured=True), 10, 2, Phase.TRAIN, id="dev losses measured"),
        pytest.param(progress(5), 10, 5, Phase.MEASURE_DEV_LOSSES, id="dev losses before the evaluation"),
        pytest.param(progress(5, measured=True), 10, 5, Phase.EVALUATE, id="evaluation after the dev losses"),
        pytest.param(progress(10, evaluated=True), 10, 2, Phase.MEASURE_DEV_LOSSES, id="dev losses of the last step"),
    ],
)
def test_the_next_phase(now: Progress, steps: int, dev_losses_every: int, expected: Phase) -> None:
    assert (
        next_phase(now, steps=steps, evaluation_steps=frozenset({5, 10}), dev_losses_every=dev_losses_every) is expected
    )


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ({"eval_strategy": "no"}, set()),
        ({"eval_strategy": "steps", "eval_steps": 4}, {4, 8, 10}),
        ({"eval_strategy": "steps", "eval_steps": 5}, {5, 10}),
        ({"eval_strategy": "epoch"}, {4, 7, 10}),
    ],
)
def test_the_steps_with_an_evaluation(stage: dict[str, object], expected: set[int]) -> None:
    assert evaluation_steps(Stage.model_validate(stage), 10, batch=2, an_epoch=7) == expected
