"""Check on a trial batch that fast kernels compute what the plain path computes, and leave out those that do not.

A fast kernel knows the code that it replaces; a family whose code asks for the kernel's name, or masks in its own way,
gets other hidden states from it, and learns on those without an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hft_core.acceleration import fast_paths
from hft_core.acceleration.dropout_off import dropout_off
from hft_core.acceleration.frozen_prefix import TOLERANCES
from hft_core.batching.batch import Batch
from hft_core.device.gemm_speed import DTYPES
from hft_core.device.machine import Machine
from hft_core.device.out_of_memory import is_out_of_memory
from hft_core.errors import HftError
from hft_core.head import OWN_LENGTH
from hft_core.model import gradient_checkpointing
from hft_core.model.execution_plan import ExecutionPlan, FrozenPrefix
from hft_core.model.hybrid import HybridModel
from hft_core.runtime.random_state import random_state_kept

PADDING = 3
"""Columns of padding that a batch of equally long rows gets."""


@dataclass(frozen=True)
class Kernels:
    """Which fast kernels a stage may use, by the names in `fast_paths.KERNELS`."""

    usable: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    """Why the others are left out."""


def usable_kernels(
    model: HybridModel, frozen: FrozenPrefix, probe: Sequence[Batch], machine: Machine, *, seed: int
) -> Kernels:
    """Compare hidden states and gradients of the longest batch of `probe` with and without fast kernels, in training
    mode without dropout, in float32 and in the machine's format. The run's random state stays as it is."""
    plan = ExecutionPlan(frozen=frozen)
    batch = max(probe, key=lambda batch: batch.inputs["input_ids"].numel())
    batch = padded(batch, model).to(machine.device)
    formats = tuple(dict.fromkeys((False, machine.precision.name != "fp32")))
    plain = {mixed: trial_pass(model, plan, batch, machine, seed, mixed=mixed) for mixed in formats}

    def differs(kernels: tuple[str, ...]) -> str:
        fast = replace(plan, fast_kernels=kernels)
        for mixed, expected in plain.items():
            limit = TOLERANCES[DTYPES[machine.precision.name] if mixed else torch.float32]
            try:
                found = trial_pass(model, fast, batch, machine, seed, mixed=mixed)
            except Exception as error:  # a family's code may fail in any way
                if isinstance(error, HftError) or is_out_of_memory(error):
                    raise
                return f"it fails ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
            if not (difference := _difference(found, expected)) <= limit:
                return f"it differs from the plain path by {difference:.1e} of the largest value"
        return ""

    if not differs(fast_paths.KERNELS):
        return Kernels(fast_paths.KERNELS)
    reasons = {kernel: differs((kernel,)) for kernel in fast_paths.KERNELS}
    warnings = tuple(
        f"the fast path for {kernel} is left out for {type(model.trunk).__name__}: on a trial batch, {reason}"
        for kernel, reason in reasons.items()
        if reason
    )
    if not warnings:
        return Kernels((), ("fast paths are left out: on a trial batch, they differ from the plain path together",))
    return Kernels(tuple(kernel for kernel in fast_paths.KERNELS if not reasons[kernel]), warnings)


def padded(batch: Batch, model: HybridModel) -> Batch:
    """Return the batch with columns of padding on the right, where none of its rows has any and there is room."""
    mask, backbone = batch.inputs["attention_mask"], model.backbone
    room = backbone.max_length - model.strategy.virtual_tokens - mask.shape[1]
    if not bool(mask.all()) or room <= 0:
        return batch
    columns = min(PADDING, room)
    values = {"input_ids": int(backbone.tokenizer.pad_token_id)}
    inputs = {
        name: tensor
        if name.startswith(OWN_LENGTH) or tensor.shape != mask.shape
        else torch.nn.functional.pad(tensor, (0, columns), value=values.get(name, 0))
        for name, tensor in batch.inputs.items()
    }
    return replace(batch, inputs=inputs)


def trial_pass(
    model: HybridModel, plan: ExecutionPlan, batch: Batch, machine: Machine, seed: int, *, mixed: bool
) -> list[Tensor]:
    """Return the hidden states of the real tokens, `[tokens, hidden]`, and the gradients of the trunk's parameters from
    a random direction; the modes of the model's modules are restored."""
    training, modes = model.training, [(module, module.training) for module in model.modules()]
    model.train_under(plan)
    try:
        with (
            random_state_kept(machine.device),
            torch.enable_grad(),
            dropout_off(),
            gradient_checkpointing.switched_off(model),
            fast_paths.patched(model, plan),
        ):
            torch.manual_seed(seed)
            if mixed:
                with machine.autocast():
                    hidden = _real(model.hidden(batch, plan), batch)
            else:
                hidden = _real(model.hidden(batch, plan), batch)
            parameters = model.trunk_parameters()
            if not parameters or not hidden.requires_grad:
                return [hidden.detach()]
            torch.manual_seed(seed)
            direction = torch.randn(hidden.shape).to(hidden)
            gradients = torch.autograd.grad((hidden * direction).sum(), parameters, allow_unused=True)
    finally:
        model.train(training)
        for module, mode in modes:
            module.training = mode
    return [hidden.detach(), *(gradient for gradient in gradients if gradient is not None)]


def _real(hidden: Tensor, batch: Batch) -> Tensor:
    """Return the hidden states of real tokens; those of a decoder's own tokens where the batch has such."""
    mask = batch.inputs.get(f"{OWN_LENGTH}attention_mask", batch.inputs["attention_mask"])
    return hidden[mask.bool()] if mask.shape == hidden.shape[:2] else hidden.flatten(0, 1)


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference relative to the largest value, of the hidden states and of the gradients; infinite
    where there are not as many, and 0 where the plain path itself is not finite."""
    if len(found) != len(expected):
        return float("inf")
    parts = [(found[:1], expected[:1]), (found[1:], expected[1:])]
    worst = 0.0
    for of_found, of_expected in parts:
        largest = max((float(tensor.abs().max()) for tensor in of_expected), default=0.0)
        differences = [float((a - b).abs().max()) for a, b in zip(of_found, of_expected, strict=True)]
        if largest != largest or largest == float("inf"):
            continue
        if any(value != value for value in differences):
            return float("inf")
        difference = max(differences, default=0.0)
        worst = max(worst, difference / largest if largest else difference)
    return worst
