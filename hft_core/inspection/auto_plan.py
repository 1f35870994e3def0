"""Choose the stages of a recipe: a few plans that are known to be good, by what the tasks and the machine are like.

The figures that the choices rest on are in docs/explanation/defaults.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hft_core.recipe.budget import default_batch_size, default_epochs
from hft_core.recipe.stage import Stage

FULL_COPIES = 6
"""Memory that training all weights takes, as multiples of the weights: these, a gradient, two moments, activations."""
UNEVEN = 4
"""The largest task has this many times the rows of the smallest: rows are divided more evenly."""
LENGTHS = (32, 64, 128, 256)
"""Limits on tokens that are chosen; longer texts are left to the model's own limit."""


@dataclass(frozen=True)
class TaskFacts:
    """A task, as far as the choice depends on it."""

    name: str
    head: str
    supervised: bool
    rows: int
    """Training rows."""
    tokens: int
    """95 % of the texts have at most about so many."""
    may_be_cut: bool = True
    """The head reads texts that lose only their end if they are too long, and writes none."""


@dataclass(frozen=True)
class Situation:
    """What is to be trained, and on what."""

    tasks: tuple[TaskFacts, ...]
    weights: int | None
    """Bytes of the model's files; None where they are not on this machine yet."""
    memory: int
    """Bytes of the device that trains."""
    device: str


@dataclass(frozen=True)
class Choice:
    """The stages, as a recipe has them, and the reason for each part of them in one sentence."""

    stages: list[dict[str, Any]]
    max_lengths: dict[str, int]
    """By task."""
    reasons: tuple[str, ...]


def choose(situation: Situation) -> Choice:
    """Choose a plan for the tasks."""
    labelled = [task for task in situation.tasks if task.supervised]
    unlabelled = [task for task in situation.tasks if not task.supervised]
    fits, reasons = _full_fits(situation), []
    stages: list[dict[str, Any]] = []
    if unlabelled:
        stages.append({"name": "pretrain", "tasks": _names(unlabelled), "strategy": "full" if fits else _lora()})
        reasons.append(_why_pretrain(situation, unlabelled, labelled, fits=fits))
    if unlabelled and labelled:
        stages[0]["epochs"] = 1
    if labelled:
        stage, why = _finetune(situation, labelled, fits=fits)
        stages.append(stage)
        reasons += [*why, _why_budget(labelled)]
    lengths = {task.name: limit for task in labelled if (limit := _limit(task)) is not None}
    reasons += [
        f"{name}: 95 % of its texts have at most about {task.tokens} tokens, so that longer ones are cut at {limit}"
        for name, limit in lengths.items()
        for task in labelled
        if task.name == name
    ]
    return Choice(stages, lengths, tuple(reasons))


def _finetune(situation: Situation, tasks: Sequence[TaskFacts], *, fits: bool) -> tuple[dict[str, Any], list[str]]:
    """Return the stage with labels, and why it is so."""
    full = fits and len(tasks) == 1
    stage: dict[str, Any] = {"name": "finetune", "tasks": _names(tasks), "strategy": "full" if full else _lora()}
    if full:
        reasons = ["one task with labels, and memory for all weights: full fine-tuning"]
    elif len(tasks) > 1:
        why = f"{len(tasks)} tasks with labels: one LoRA on all of them holds what they share in a few percent of the"
        reasons = [f"{why} parameters"]
    else:
        reasons = [f"{_memory(situation)}: a LoRA instead of all weights"]
    if len({task.head for task in tasks}) > 1:
        stage["combiner"] = "uncertainty"
        reasons.append(
            "heads of several kinds, whose losses differ in scale: uncertainty weighting learns their weights"
        )
    rows = [task.rows for task in tasks]
    if max(rows) > UNEVEN * min(rows):
        stage["sampling"] = {"temperature": 2}
        reasons.append(
            f"between {min(rows):,} and {max(rows):,} rows a task: temperature 2 gives the small ones a larger share"
        )
    return stage, reasons


def _why_pretrain(
    situation: Situation, unlabelled: Sequence[TaskFacts], labelled: Sequence[TaskFacts], *, fits: bool
) -> str:
    names, how = ", ".join(_names(unlabelled)), "all weights" if fits else f"a LoRA ({_memory(situation)})"
    if not labelled:
        return f"{names} has no labels: one stage of language modelling, by {how}"
    return f"{names} has no labels: one pass of language modelling, by {how}, before the tasks with labels"


def _why_budget(tasks: Sequence[TaskFacts]) -> str:
    units = sum(task.rows for task in tasks)
    rows = default_batch_size(Stage(), units)
    return f"{units:,} rows with labels: {default_epochs(units, rows):g} epochs in steps of {rows} rows"


def _full_fits(situation: Situation) -> bool:
    return situation.weights is not None and FULL_COPIES * situation.weights <= situation.memory


def _memory(situation: Situation) -> str:
    """Say why not all weights are trained."""
    if situation.weights is None:
        return "how large the model is is not known before it is downloaded"
    return (
        f"training all {situation.weights / 2**30:.1f} GiB of weights takes about {FULL_COPIES} times as much, and the "
        f"{situation.device} has {situation.memory / 2**30:.0f} GiB"
    )


def _limit(task: TaskFacts) -> int | None:
    return next((limit for limit in LENGTHS if task.tokens <= limit), None) if task.may_be_cut else None


def _lora() -> dict[str, Any]:
    return {"type": "lora", "r": 16}


def _names(tasks: Sequence[TaskFacts]) -> list[str]:
    return [task.name for task in tasks]
