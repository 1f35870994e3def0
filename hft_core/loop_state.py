"""A stage's loop as JSON and tensors, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from hft_core import random_state, weights
from hft_core.checkpoint import Checkpoint
from hft_core.progress import Progress

if TYPE_CHECKING:
    from hft_core.loop import StageLoop


def snapshot(loop: StageLoop, progress: Progress) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Everything from which the stage can go on after `progress`."""
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
    return state, tensors


def restore(loop: StageLoop, at: Checkpoint) -> Progress:
    """Bring a loop that has just been made to where the checkpoint was saved."""
    state = at.state["loop"]
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
    if best and loop.machine.leads:
        weights.save(loop.best_file, best)
    random_state.restore(at.state["random"], at.tensors("random"))
    return Progress.from_json(state["progress"])
