"""Check that losses and gradients of a task are finite, and that what should train gets a gradient."""

from __future__ import annotations

import math

import torch

from hft_core.acceleration.dropout_off import dropout_off
from hft_core.backbone import Features
from hft_core.batching.batch import Batch
from hft_core.device.machine import Machine
from hft_core.head import Targets
from hft_core.model import gradient_checkpointing
from hft_core.model.hybrid import HybridModel
from hft_core.trial.findings import Failed


def check_gradients(model: HybridModel, task: str, batch: Batch, machine: Machine) -> None:
    """Raise `Failed` for a loss or gradient that is not finite, or a trunk or head without any gradient."""
    model.train()
    trunk, own = model.trunk_parameters(), model.head_parameters([task])
    try:
        with torch.enable_grad(), dropout_off(), gradient_checkpointing.switched_off(model):
            with machine.autocast():
                ((segment, features),) = model.segments(batch, model.hidden(batch))
                loss = _loss(model, task, features, segment.targets)
            if not segment.targets.count:
                return
            if not math.isfinite(value := float(loss.detach())):
                raise Failed(f"the loss of task '{task}' is {value}")
            if not value:  # two rows may leave nothing to learn
                return
            parameters = [*trunk, *own]
            found = torch.autograd.grad(loss, parameters, allow_unused=True) if loss.requires_grad else ()
    finally:
        model.eval()
    if not found and parameters:
        raise Failed(f"the loss of task '{task}' depends on nothing that trains")
    for what, of_part in (("trunk", found[: len(trunk)]), (f"head of task '{task}'", found[len(trunk) :])):
        if of_part and all(gradient is None for gradient in of_part):
            raise Failed(f"nothing in the {what} that should train gets a gradient")
        if any(gradient is not None and not bool(torch.isfinite(gradient).all()) for gradient in of_part):
            raise Failed(f"a gradient of the {what} is not finite")


def _loss(model: HybridModel, task: str, features: Features, targets: Targets) -> torch.Tensor:
    head = model.head(task)
    if head.joint:
        return head.joint_loss(head.embed(features), targets)
    return head.loss(features, targets)
