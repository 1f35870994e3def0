"""Check on a trial batch that frozen weights held in bfloat16 leave every bit of a pass as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hft_core.acceleration.kernel_check import padded, trial_pass
from hft_core.batching.batch import Batch
from hft_core.device.machine import Machine
from hft_core.device.out_of_memory import is_out_of_memory
from hft_core.model import frozen_weights
from hft_core.model.execution_plan import ExecutionPlan, FrozenPrefix
from hft_core.model.hybrid import HybridModel

MIN_SHARE = 0.5
"""Of the trunk's numbers: below, little memory would be saved."""


def obstacle(
    model: HybridModel,
    exact: Sequence[nn.Parameter],
    frozen: FrozenPrefix,
    probe: Sequence[Batch],
    machine: Machine,
    *,
    seed: int,
) -> str:
    """Return why `exact`, the frozen weights that bfloat16 represents, are not held in it; empty where they are."""
    if machine.precision.name != "bf16":
        return "the stage does not train under bfloat16"
    whole = sum(parameter.numel() for parameter in model.trunk.parameters())
    if sum(parameter.numel() for parameter in exact) < MIN_SHARE * whole:
        return "most of the trunk trains, or bfloat16 does not represent its weights exactly"
    plan = ExecutionPlan(frozen=frozen)
    batch = min(probe, key=lambda batch: batch.inputs["input_ids"].numel())
    batch = padded(batch, model).to(machine.device)
    expected = trial_pass(model, plan, batch, machine, seed, mixed=True)
    try:
        with frozen_weights.in_bfloat16(model, exact):
            found = trial_pass(model, plan, batch, machine, seed, mixed=True)
    except Exception as error:  # a family's code may fail in any way
        if is_out_of_memory(error):
            raise
        return f"a trial pass fails ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    if len(found) != len(expected) or not all(map(torch.equal, found, expected)):
        return "a trial pass gives other values"
    return ""
