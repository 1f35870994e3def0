"""Clip the gradients of a step to a total norm, sharded ones included."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from hft_core.device import dtensor
from hft_core.device.machine import Machine


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float, machine: Machine) -> float:
    """Scale the gradients to a total norm of at most `limit`, and return the norm that they had, the same in all
    processes."""
    if not parameters:
        return 0.0
    if not machine.sharded:
        return float(clip_grad_norm_(parameters, limit))
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    whole = [grad for grad in grads if not dtensor.is_sharded(grad)]
    of_this_process = [dtensor.local_shard(grad) for grad in grads if dtensor.is_sharded(grad)]
    square = machine.group.all_reduce(_norm(of_this_process, machine).square()) + _norm(whole, machine).square()
    norm = float(machine.group.broadcast(square.sqrt()))
    if math.isfinite(norm):
        torch._foreach_mul_([*whole, *of_this_process], min(1.0, limit / (norm + 1e-6)))  # as torch's clip_grad_norm_
    return norm


def _norm(tensors: Sequence[Tensor], machine: Machine) -> Tensor:
    return get_total_norm(tensors).to(machine.device) if tensors else torch.zeros((), device=machine.device)
