"""A stage's loop as JSON and tensors, and back."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from hft_core.device import dtensor
from hft_core.errors import UsageError
from hft_core.runtime import random_state
from hft_core.training import weights
from hft_core.training.checkpoint import Checkpoint
from hft_core.training.progress import Progress
from hft_core.training.training_state import LoopState

if TYPE_CHECKING:
    from hft_core.training.loop import StageLoop


def snapshot(loop: StageLoop, progress: Progress) -> tuple[LoopState, dict[str, dict[str, Tensor]]]:
    """Everything from which the stage can go on after `progress`. Where the trunk is divided, all processes must call
    it, and the first one gets everything."""
    state = LoopState(
        progress=progress,
        schedule=loop.schedule.state_dict(),
        learning_rates=[group["lr"] for group in loop.optimizer.param_groups],
        proportion_changes=loop.plan.changes,
        adaptive_mixture=loop.adaptive_mixture.state(),
    )
    tensors = {
        "weights": loop.state(),
        "optimizer": weights.optimizer_state(loop.optimizer),
        "strategy": loop.model.strategy.state(),
    }
    tensors = {kind: dtensor.full_tensors(found, keep=loop.machine.group.is_main) for kind, found in tensors.items()}
    return state, tensors


def restore(loop: StageLoop, resume_from: Checkpoint) -> Progress:
    """Bring a loop that has just been made to where the checkpoint was saved. Raises `UsageError` where the optimizer
    was made for a trunk that was divided, or was not, and cannot be for this one."""
    state = resume_from.state.loop
    if len(state.learning_rates) != len(loop.optimizer.param_groups):  # heads share weights with the trunk
        with_or_not = "without" if loop.machine.sharded else "with"
        raise UsageError(f"the run began {with_or_not} FSDP, and its optimizer's state fits no other: resume it so")
    weights.put(resume_from.tensors("weights"), loop.state())
    weights.load_optimizer_state(loop.optimizer, resume_from.tensors("optimizer"))
    loop.schedule.load_state_dict(state.schedule)
    for group, rate in zip(loop.optimizer.param_groups, state.learning_rates, strict=True):
        group["lr"] = rate
    loop.model.strategy.load_state(resume_from.tensors("strategy"))
    for step, factors in state.proportion_changes:
        loop.plan.change(step, factors)
    loop.adaptive_mixture.load_state(state.adaptive_mixture)
    best = resume_from.tensors("best")
    if best and loop.machine.group.is_main:
        weights.save(loop.best_file, best)
    random_state.restore(resume_from.state.random, resume_from.tensors("random"))
    return deepcopy(state.progress)


def load_best(loop: StageLoop) -> None:
    """Take up the best weights so far, of which only the first process has the file."""
    found = load_file(loop.best_file) if loop.machine.group.is_main else {}
    for name, tensor in loop.state().items():
        given = found[name] if loop.machine.group.is_main else torch.empty(tensor.shape, dtype=tensor.dtype)
        weights.put({name: loop.machine.group.broadcast(given.to(tensor.device))}, {name: tensor})
