"""Check that a trunk into which a strategy was folded computes what it computed before."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hft_core.acceleration.frozen_prefix import TOLERANCES
from hft_core.batching.batch import Batch
from hft_core.device.machine import Machine
from hft_core.model.hybrid import HybridModel
from hft_core.trial.findings import Failed

SHARE = 0.02
"""How far the trial trains: by noise of this share of a parameter's own size, or of 1 where it is zero."""
FACTOR = 10.0
"""Weights are rounded once more when something is added to them."""


def check_folding(model: HybridModel, batches: Mapping[str, Batch], machine: Machine, *, seed: int) -> list[str]:
    """Change what trains a little, fold, and compare hidden states and losses, in float32. Returns what folding says.

    Raises `Failed` where they differ.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.trunk_parameters():
            size = float(parameter.float().std(correction=0)) or 1.0
            noise = torch.randn(parameter.shape, generator=generator) * SHARE * size
            parameter.add_(noise.to(parameter))
    before = {task: _computed(model, batch) for task, batch in batches.items()}
    said = model.fold_strategy()
    limit = FACTOR * TOLERANCES[torch.float32]
    for task, batch in batches.items():
        for what, old, new in zip(("hidden states", "loss"), before[task], _computed(model, batch), strict=True):
            gap = float((new - old).abs().max()) / max(float(old.abs().max()), 1e-6)
            if not gap <= limit:
                raise Failed(
                    f"folded into the trunk, as the next stage needs it, it changes the {what} of task '{task}' by "
                    f"{gap:.1e} of the largest value"
                )
    return said


def _computed(model: HybridModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the hidden states of the real tokens, and the loss."""
    with model.evaluating(), torch.no_grad():
        hidden = model.hidden(batch)
        ((segment, features),) = model.segments(batch, hidden)
        head = model.head(segment.task)
        loss = hidden.new_zeros(()) if head.joint else head.loss(features, segment.targets)
    real = batch.inputs["attention_mask"].bool()
    return (hidden[real] if real.shape == hidden.shape[:2] else hidden), loss
