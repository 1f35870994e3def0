"""A stage's loop as JSON and tensors, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from hft_core.device import dtensor
from hft_core.errors import UsageError
from hft_core.runtime import random_state
from hft_core.training import weights
from hft_core.training.checkpoint import Checkpoint
from hft_core.training.progress import Progress

if TYPE_CHECKING:
    from hft_core.training.loop import StageLoop


def snapshot(loop: StageLoop, progress: Progress) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Everything from which the stage can go on after `progress`. Where the trunk is divided, all processes must call
    it, and the first one gets everything."""
    state = {
        "progress": progress.to_json(),
        "schedule": loop.schedule.state_dict(),
        "rates": [group["lr"] for group in loop.optimizer.param_groups],
        "changes": loop.plan.changes,
        "following": loop.following.state(),
    }
    tensors = {
        "weights": loop.state(),
        "optimizer": weights.optimizer_state(loop.optimizer),
        "strategy": loop.model.strategy.state(),
    }
    tensors = {kind: dtensor.full_tensors(found, keep=loop.machine.group.is_main) for kind, found in tensors.items()}
    return state, tensors


def restore(loop: StageLoop, at: Checkpoint) -> Progress:
    """Bring a loop that has just been made to where the checkpoint was saved. Raises `UsageError` where the optimizer
    was made for a trunk that was divided, or was not, and cannot be for this one."""
    state = at.state["loop"]
    if len(state["rates"]) != len(loop.optimizer.param_groups):  # heads share weights with the trunk
        with_or_not = "without" if loop.machine.sharded else "with"
        raise UsageError(f"the run began {with_or_not} FSDP, and its optimizer's state fits no other: resume it so")
    weights.put(at.tensors("weights"), loop.state())
    weights.load_optimizer_state(loop.optimizer, at.tensors("optimizer"))
    loop.schedule.load_state_dict(state["schedule"])
    for group, rate in zip(loop.optimizer.param_groups, state["rates"], strict=True):
        group["lr"] = rate
    loop.model.strategy.load_state(at.tensors("strategy"))
    for step, factors in state["changes"]:
        loop.plan.change(step, factors)
    loop.following.load_state(state["following"])
    best = at.tensors("best")
    if best and loop.machine.group.is_main:
        weights.save(loop.best_file, best)
    random_state.restore(at.state["random"], at.tensors("random"))
    return Progress.from_json(state["progress"])


def load_best(loop: StageLoop) -> None:
    """Take up the best weights so far, of which only the first process has the file."""
    found = load_file(loop.best_file) if loop.machine.group.is_main else {}
    for name, tensor in loop.state().items():
        given = found[name] if loop.machine.group.is_main else torch.empty(tensor.shape, dtype=tensor.dtype)
        weights.put({name: loop.machine.group.broadcast(given.to(tensor.device))}, {name: tensor})
