"""Collect what a checkpoint holds of a stage's training loop, and restore it: weights, optimizer, schedule, random
numbers."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hft_core.device import dtensor
from hft_core.errors import UsageError
from hft_core.runtime import random_state
from hft_core.training import weights
from hft_core.training.checkpoint import Checkpoint
from hft_core.training.progress import Progress
from hft_core.training.stage_setup import StageSetup
from hft_core.training.training_state import LoopState


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A stage after a step."""

    loop: LoopState
    random: dict[str, Any]
    """States of the random number generators that are no tensors."""
    tensors: dict[str, dict[str, Tensor]]
    """By kind: `weights`, `optimizer`, `strategy`, `random`."""


def take(setup: StageSetup, progress: Progress) -> Snapshot:
    """Return what a checkpoint holds of the stage after `progress`.

    With FSDP, all processes must call it, and the first one gets the whole tensors.
    """
    state = LoopState(
        progress=progress,
        schedule=setup.schedule.state_dict(),
        learning_rates=[group["lr"] for group in setup.optimizer.param_groups],
        proportion_changes=setup.plan.changes,
        adaptive_mixture=setup.adaptive_mixture.state(),
        streams={task: stream.place(setup.plan.taken(task, progress.step)) for task, stream in setup.streams.items()},
    )
    tensors = {
        "weights": setup.trained_state(),
        "optimizer": weights.optimizer_state(setup.optimizer),
        "strategy": setup.model.strategy.state(),
    }
    tensors = {kind: dtensor.full_tensors(named, keep=setup.machine.group.is_main) for kind, named in tensors.items()}
    random, random_tensors = random_state.snapshot()
    return Snapshot(loop=state, random=random, tensors={**tensors, "random": random_tensors})


def restore(setup: StageSetup, resume_from: Checkpoint) -> Progress:
    """Bring a stage that is ready for its first step to where the checkpoint was saved.

    Raises `UsageError` when one of them used FSDP and the other does not, so that the optimizer's groups differ.
    """
    state = resume_from.state.loop
    if len(state.learning_rates) != len(setup.optimizer.param_groups):  # heads share weights with the trunk
        with_or_not = "without" if setup.machine.sharded else "with"
        raise UsageError(f"the run began {with_or_not} FSDP, and its optimizer's state fits no other: resume it so")
    weights.put(resume_from.tensors("weights"), setup.trained_state())
    weights.load_optimizer_state(setup.optimizer, resume_from.tensors("optimizer"))
    setup.schedule.load_state_dict(state.schedule)
    for group, rate in zip(setup.optimizer.param_groups, state.learning_rates, strict=True):
        group["lr"] = rate
    setup.model.strategy.load_state(resume_from.tensors("strategy"))
    for step, factors in state.proportion_changes:
        setup.plan.change(step, factors)
    setup.adaptive_mixture.load_state(state.adaptive_mixture)
    for task, place in state.streams.items():
        setup.streams[task].go_to(place)
    best = resume_from.tensors("best")
    if best and setup.machine.group.is_main:
        weights.save(setup.best_file, best)
    random_state.restore(resume_from.state.random, resume_from.tensors("random"))
    return deepcopy(state.progress)
