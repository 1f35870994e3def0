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


@contextmanager
def patched(model: HybridModel, plan: ExecutionPlan) -> Iterator[None]:
    """Use the plan's fast paths inside the context: compiled layers, or fast kernels for dropout on CPUs and those of
    the backbone and of the strategy, in the order of `hft_core.forward_override`."""
    with ExitStack() as context:
        if plan.compiled:
            context.enter_context(compile.compiled_layers(model))
        if plan.fast_kernels:
            context.enter_context(fast_dropout(model))
            context.enter_context(model.backbone.in_training())
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
