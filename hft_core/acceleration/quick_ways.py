"""How the model computes while a stage trains it: by what is quicker than torch's own way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hft_core.acceleration import fast_dropout
from hft_core.device.distributed import Machine
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.stage import Stage


@contextmanager
def held(model: HybridModel, stage: Stage, machine: Machine) -> Iterator[None]:
    """Inside, layers go those ways, but for compiled ones, which go their own."""
    if model.compiled:
        yield
        return
    with (
        fast_dropout.held(model),
        model.backbone.in_training(),
        model.strategy.in_training(model.backbone),
    ):
        yield
