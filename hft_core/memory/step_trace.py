"""Trace the allocations of a training step on a model without values, for a batch of any size."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from hft_core.acceleration import fast_paths
from hft_core.batching.batch import Batch
from hft_core.combiner import Combiner
from hft_core.device.machine import Machine
from hft_core.gradients import combine
from hft_core.memory.allocations import Event, Recorder
from hft_core.model import frozen_weights
from hft_core.model.execution_plan import ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.runtime.random_state import random_state_kept


@dataclass(frozen=True)
class Trace:
    """What a step allocates beside the weights."""

    events: Sequence[Event]
    weights: int
    """Bytes of parameters and buffers while the stage trains."""


def trace_step(model: HybridModel, batches: Sequence[Batch], plan: ExecutionPlan, machine: Machine) -> Trace:
    """Trace the passes of a step of `batches`, the losses added up.

    The model, to which the stage's strategy was applied, stays as it is. Raises whatever its code raises where it
    decides by values that depend on its weights.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    training, modes = model.training, [(module, module.training) for module in model.modules()]
    model.train_under(plan)
    try:
        with fake, FakeCopyMode(fake):
            copied = copy.deepcopy(model)
    finally:
        model.train(training)
        for module, mode in modes:
            module.training = mode
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = dict(copied.named_parameters())
    held = [found[names[id(parameter)]] for parameter in plan.bfloat16_weights]
    copied_plan = replace(plan, strategy=copied.strategy if plan.strategy is not None else None, store=None)
    recorder, tasks = Recorder(fake), tuple(dict.fromkeys(s.task for batch in batches for s in batch.segments))
    with fake:
        in_bfloat16 = frozen_weights.in_bfloat16(copied, held) if held else nullcontext()
    with random_state_kept(machine.device), in_bfloat16:
        tensors = [*copied.parameters(), *copied.buffers()]
        weights = size_of(tensors)
        recorder.know(tensors)
        moved = [batch.to(machine.device) for batch in batches]
        with recorder, fast_paths.patched(copied, copied_plan), torch.enable_grad():
            combine.fill(copied, Combiner(tasks), moved, machine, 0, copied_plan)
    return Trace(recorder.events, weights)


def size_of(tensors: Sequence[Tensor | nn.Parameter]) -> int:
    """Return the bytes of tensors, those that share memory counted once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())
