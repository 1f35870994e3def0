"""Hold frozen weights in bfloat16 while a stage trains under bfloat16 autocast.

Autocast rounds the weights of matrix products to bfloat16 at each use, and keeps the rounded copies for the backward
pass: a frozen weight takes six bytes. Weights that bfloat16 represents exactly, as those of most language models are
published, are held once, in two bytes; hidden states and gradients keep their bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hft_core.model.execution_plan import ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.runtime import allocator

PRODUCTS = (nn.Linear, Conv1D)
"""Modules whose weights autocast rounds by itself, with their subclasses."""


def representable(model: HybridModel) -> list[nn.Parameter]:
    """Return the frozen parameters that bfloat16 represents exactly and that only products and embeddings use."""
    users: dict[int, list[nn.Module]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), []).append(module)
            parameters[id(parameter)] = parameter
    return [
        parameter
        for key, parameter in parameters.items()
        if not parameter.requires_grad and all(map(_is_supported, users[key])) and _is_exact(parameter)
    ]


def _is_supported(module: nn.Module) -> bool:
    # Subclasses of embeddings scale the vectors in the number format of the weight.
    return isinstance(module, PRODUCTS) or type(module) is nn.Embedding


def _is_exact(tensor: Tensor) -> bool:
    if tensor.dtype is not torch.float32:
        return False
    return all(torch.equal(part, part.bfloat16().float()) for part in torch.split(tensor.detach().flatten(), 1 << 22))


def held(model: HybridModel, plan: ExecutionPlan) -> AbstractContextManager[None]:
    """Hold frozen weights inside the context as the plan says."""
    return in_bfloat16(model, plan.bfloat16_weights) if plan.bfloat16_weights else nullcontext()


@contextmanager
def in_bfloat16(model: HybridModel, held: Sequence[nn.Parameter]) -> Iterator[None]:
    """Hold the parameters `held` in bfloat16 inside the context; all passes there have to be under autocast."""
    ids = {id(parameter) for parameter in held}
    embeddings = [m for m in model.modules() if type(m) is nn.Embedding and id(m.weight) in ids]
    with ExitStack() as hooks:
        for module in embeddings:
            hooks.callback(module.register_forward_hook(_to_float32).remove)
        try:
            for parameter in held:
                parameter.data = parameter.data.bfloat16()
            allocator.trim()
            yield
        finally:
            for parameter in held:
                parameter.data = parameter.data.float()


def _to_float32(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output.float()
