"""What a stage says while it trains: losses that rise or do not fall, answers that are all the same."""

from __future__ import annotations

from typing import Any

import pytest

from hft_core.results import TrainingFacts
from hft_core.training.causes import likeliest_cause
from hft_core.training.progress import Progress
from hft_core.training.watch import Watch


def watch(steps: int = 200, rate: float = 5e-5, fresh: tuple[str, ...] = ("t",)) -> Watch:
    return Watch(steps=steps, rate=rate, usual_rate=5e-5, fresh=frozenset(fresh))


def said(one: Watch, losses: list[float]) -> tuple[list[tuple[int, str]], list[str]]:
    """What is said while the losses come, each with its step, and at the end."""
    progress, told = Progress(), []
    for loss in losses:
        progress.step += 1
        told += [(progress.step, text) for text in one.see_losses(progress, {"t": loss})]
        progress = Progress.from_json(progress.to_json())  # as after a resume
    return told, one.findings(progress)


def test_a_loss_that_falls_is_not_remarked_on() -> None:
    assert said(watch(), [2.0 - step / 150 for step in range(200)]) == ([], [])


def test_a_loss_that_rises_is_told_at_once_with_the_rate() -> None:
    ((step, text),), found = said(watch(rate=1e-2), [1.0] * 20 + [3.0 + n for n in range(180)])
    assert step == 26  # most of the last ten losses
    assert text == (
        "task 't': the loss rises (loss 1 at the start, 3.7 at step 26); "
        "likeliest cause: the learning rate 0.01 is too high (usual here: 5e-05)"
    )
    assert len(found) == 1


def test_a_loss_that_rises_within_the_first_steps_is_compared_with_the_very_first() -> None:
    losses = [1.3, 1.4, 1.3, 16.0, 12.0, 9.0, 7.0] + [5.0] * 10 + [2.0] * 23
    ((step, text),), found = said(watch(steps=40, rate=0.05), losses)
    assert step == 20
    assert "the loss rises (loss 1.333 at the start, 4.1 at step 20)" in text
    assert "the loss does not fall (loss 1.333 at the start, 2 at step 40)" in found[0]


def test_a_loss_that_does_not_fall_is_told_at_half_time_of_a_fresh_head() -> None:
    (told,), found = said(watch(), [1.4] * 200)
    assert told[0] == 100
    assert "the loss does not fall (loss 1.4 at the start, 1.4 at step 100); likeliest cause: the targets" in told[1]
    assert len(found) == 1
    assert said(watch(fresh=()), [1.4] * 200) == ([], []), "a head that was trained before may have learned all"
    assert said(watch(), [1.4] * 120 + [0.1] * 80)[1] == [], "what is true no longer is no warning"


@pytest.mark.parametrize("steps", [1, 5, 19])
def test_too_few_losses_are_not_judged(steps: int) -> None:
    assert said(watch(steps), [1.0, 9.0] * (steps // 2)) == ([], [])


def labels(predicted: dict[str, int], rows: int = 20) -> dict[str, Any]:
    return {"t": {name: {"predicted": count, "support": rows // 2} for name, count in predicted.items()}}


def test_answers_that_are_all_the_same_are_told_once() -> None:
    progress = Progress(step=150, first_losses={"t": [1.0] * 10}, last_losses={"t": [0.95] * 10})
    one = watch()
    (text,) = one.see_labels(progress, labels({"a": 20, "b": 0}))
    assert text.startswith("task 't': all dev rows get the label 'a' (loss 1 at the start, 0.95 at step 150); ")
    assert text.endswith("try class_weights: balanced")
    assert one.see_labels(progress, labels({"a": 20, "b": 0})) == []
    assert len(one.findings(progress)) == 1
    one.see_labels(progress, labels({"a": 19, "b": 1}))
    assert one.findings(progress) == []
    assert watch().see_labels(Progress(step=150), labels({"a": 4, "b": 0}, rows=4)) == []
    assert watch().see_labels(Progress(step=10), labels({"a": 20, "b": 0})) == [], "too early"


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        ({"steps": 20}, "20 steps are few; train longer"),
        ({"rate": 1e-6, "steps": 20}, "the learning rate 1e-06 is far below the usual 5e-05"),
        ({"rate": 1e-2}, "the learning rate 0.01 is far above the usual 5e-05"),
        ({"last_loss": 3.0}, "the learning rate 5e-05 is too high"),
        ({"last_loss": 0.1}, "the training rows were learned, but are too few or unlike the others"),
        ({"only_label": "a"}, "one label is much more frequent than the others; try class_weights: balanced"),
        ({}, "the targets do not belong to their texts"),
        ({"first_loss": None, "last_loss": None}, "the targets do not belong to their texts"),
    ],
)
def test_the_likeliest_cause(facts: dict[str, Any], cause: str) -> None:
    usual = {"steps": 300, "rate": 5e-5, "usual_rate": 5e-5, "first_loss": 1.0, "last_loss": 0.99}
    assert likeliest_cause(TrainingFacts(**{**usual, **facts})).startswith(f"likeliest cause: {cause}")
