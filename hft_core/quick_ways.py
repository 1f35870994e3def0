"""How the model computes while a stage trains it: by what is quicker than torch's own way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hft_core import frozen_casts, quick_dropout
from hft_core.machine import Machine
from hft_core.model import HybridModel
from hft_core.recipe_stage import Stage


@contextmanager
def held(model: HybridModel, stage: Stage, machine: Machine) -> Iterator[None]:
    """Inside, layers go those ways, but for compiled ones, which go their own."""
    if model.compiled:
        yield
        return
    with (
        frozen_casts.held(model, stage, machine),
        quick_dropout.held(model),
        model.backbone.in_training(),
        model.strategy.in_training(model.backbone),
    ):
        yield
