"""Put the fast paths of a training stage in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from torch import Tensor, nn
from torch.nn import functional

from hft_core import cpu_dropout
from hft_core.acceleration import compile
from hft_core.forward_override import is_overridden, override_forward
from hft_core.model.execution_plan import ExecutionPlan
from hft_core.model.hybrid import HybridModel

DROPOUT, BACKBONE, STRATEGY = "dropout", "the backbone", "the strategy"
KERNELS = (DROPOUT, BACKBONE, STRATEGY)
"""Whose fast kernels there are, in the order in which they override each other."""


@contextmanager
def compiled(model: HybridModel, plan: ExecutionPlan) -> Iterator[None]:
    """Compile the layers inside the context, where the plan says so; what is evaluated takes the layers as they are.

    Raises `RunError` when a layer cannot be compiled for the shape of a batch.
    """
    if not plan.compiled:
        yield
        return
    with compile.explained_failures(), compile.compiled_layers(model):
        yield


@contextmanager
def patched(model: HybridModel, plan: ExecutionPlan) -> Iterator[None]:
    """Use the plan's fast kernels inside the context, in the order of `hft_core.forward_override`. It is for training
    steps: what is evaluated takes the plain path."""
    with ExitStack() as context:
        if DROPOUT in plan.fast_kernels:
            context.enter_context(fast_dropout(model))
        if BACKBONE in plan.fast_kernels:
            context.enter_context(model.backbone.in_training())
        if STRATEGY in plan.fast_kernels:
            context.enter_context(model.strategy.in_training(model.backbone))
        yield


def fast_dropout(model: nn.Module) -> AbstractContextManager[None]:
    """Override the model's `nn.Dropout` modules by `hft_core.cpu_dropout`.

    Left as they are: subclasses, modules that work in place, and those that are overridden already.
    """
    modules = [
        module
        for module in model.modules()
        if type(module) is nn.Dropout and not module.inplace and not is_overridden(module)
    ]
    return override_forward({module: _FastDropout(module) for module in modules})


class _FastDropout:
    def __init__(self, module: nn.Dropout) -> None:
        self._module = module

    def __call__(self, input: Tensor) -> Tensor:
        p, training = self._module.p, self._module.training
        if training and cpu_dropout.is_supported(input, p):
            return cpu_dropout.dropout(input, p)
        return functional.dropout(input, p, training)
