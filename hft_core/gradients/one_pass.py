"""Compute each task's gradients of the trunk's weights in one backward pass over the rows of all tasks.

The gradient of a layer's weight is a sum over the rows of a batch. Each layer sums it by task instead (per-example
gradients by the same means: Goodfellow 2015, arXiv:1510.01799).

`torchjd.autogram.Engine` (torchjd 0.18) computes the same Gramian. For four tasks' losses on 32 sentences (the layers
of MiniLM-L6, UPGrad, float32, no dropout) its step took 3.4 times as long (3.3 to 4.1 over five paired rounds of one
step), and with one loss per row (`batch_dim=0`) 3.7 times (3.4 to 4.6). Peak memory above that of the loaded model was
664 and 572 MiB, here 407 MiB. CPU time, one thread of an AMD EPYC without fast bfloat16, 2026-11-29.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hft_core.acceleration import frozen_prefix
from hft_core.batching.batch import Batch
from hft_core.errors import RunError
from hft_core.forward_override import override_forward
from hft_core.gradients.jacobian import Jacobian
from hft_core.model.hybrid import HybridModel

TaskRows = Sequence[tuple[int, slice]]
"""Which rows of a batch are whose: the place of each task among those of the step, and its rows. No row is in two."""

Casts = dict[int, Tensor]
"""Parameters as autocast would have them, by id."""


class NotByRow(RunError):
    """A layer was given something else than one row for each of the batch."""


def matches(model: HybridModel, batch: Batch) -> bool:
    """Whether one pass has the gradients of the first row and of all others that a pass for each has, in float32."""
    size = batch.rows
    rows = [(0, slice(0, 1)), *([(1, slice(1, size))] if size > 1 else [])]
    parameters = model.shared_parameters()
    jacobian = Jacobian(parameters, 2)
    with model.evaluating(), torch.enable_grad():
        hidden = model.hidden(batch)
        weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0)).to(hidden)
        try:
            with collect_task_gradients(model.trunk, jacobian, rows, size, {}):
                again = model.hidden(batch)
            rest = torch.autograd.grad(again, parameters, weights, allow_unused=True)
        except Exception:  # whatever a layer raises that is called in another way than it expects
            return False
        if any(gradient is not None for gradient in rest):  # not through the overridden layers
            return False
        for task, of_task in rows:
            loss = (hidden[of_task] * weights[of_task]).sum()
            expected = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            if not _alike(jacobian.of(task), expected):
                return False
    return True


def _alike(gradients: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> bool:
    """Whether the gradients are the same up to rounding."""
    largest, error = 0.0, 0.0
    for one, other in zip(gradients, expected, strict=True):
        if other is not None:
            largest = max(largest, float(other.abs().max()))
        if one is not None or other is not None:
            difference = one if other is None else other if one is None else one - other
            assert difference is not None
            error = max(error, float(difference.abs().max()))
    return error <= frozen_prefix.TOLERANCES[torch.float32] * largest


@contextmanager
def collect_task_gradients(
    trunk: nn.Module, jacobian: Jacobian, rows: TaskRows, size: int, casts: Casts
) -> Iterator[None]:
    """Override the trunk's layers for a forward pass of `size` rows, so that its backward pass adds the gradients of
    the parameters of `jacobian` to it by task, and nothing to their `.grad`.

    The backward pass may follow after the context. `casts` is filled, and may be shared by the passes of one step.
    """
    context = _Pass(jacobian, rows, size, casts)
    forwards: dict[nn.Module, Callable[..., Any]] = {}
    for name, module in trunk.named_modules():
        if any(jacobian.has(parameter) for parameter in module.parameters(recurse=False)):
            forwards[module] = _FORWARDS.get(type(module), _AnyLayer)(module, name, context)
    with override_forward(forwards):
        yield


@dataclass(frozen=True)
class _Pass:
    """What the overridden layers of one pass share."""

    jacobian: Jacobian
    rows: TaskRows
    size: int
    """Rows of the batch."""
    casts: Casts

    def cast(self, parameter: nn.Parameter | None, dtype: torch.dtype) -> Tensor | None:
        """Cast a parameter, once a step."""
        if parameter is None:
            return None
        if parameter.dtype == dtype:
            return parameter.detach()
        if id(parameter) not in self.casts:
            self.casts[id(parameter)] = parameter.detach().to(dtype)
        return self.casts[id(parameter)]

    def needs(self, parameter: nn.Parameter | None) -> bool:
        """Whether the gradients of a parameter are collected."""
        return parameter is not None and self.jacobian.has(parameter)


class _Layer:
    """The forward of a layer that computes each row of a batch from that row alone."""

    def __init__(self, layer: Any, name: str, context: _Pass) -> None:
        self.layer, self.name, self.context = layer, name, context
        self.plain = layer.forward

    def check(self, rows: int, *, or_one: bool = False) -> None:
        """Raise `NotByRow` unless the layer is given as many rows as the batch has, or one where that is allowed."""
        if rows != self.context.size and not (or_one and rows == 1):
            raise NotByRow(f"the layer '{self.name}' of the trunk takes {rows} rows of a batch of {self.context.size}")


class _LinearLayer(_Layer):
    """`nn.Linear`, `[rows, …, in]` → `[rows, …, out]`."""

    def __call__(self, input: Tensor) -> Tensor:
        self.check(len(input))
        if torch.is_autocast_enabled(input.device.type):
            input = input.to(torch.get_autocast_dtype(input.device.type))
        output: Tensor = _Product.apply(input, self.layer.weight, self.layer.bias, self.context)  # type: ignore[no-untyped-call]
        return output


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: nn.Parameter, bias: nn.Parameter | None, pass_: _Pass) -> Tensor:
        ctx.save_for_backward(input)
        ctx.weight, ctx.bias, ctx.context = weight, bias, pass_
        ctx.cast = pass_.cast(weight, input.dtype)
        return functional.linear(input, ctx.cast, pass_.cast(bias, input.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        (input,) = ctx.saved_tensors
        for task, rows in ctx.context.rows:
            of_rows = gradient[rows].flatten(0, -2)
            if ctx.context.needs(ctx.weight):
                ctx.context.jacobian.add_one(ctx.weight, task, of_rows.T @ input[rows].flatten(0, -2))
            if ctx.context.needs(ctx.bias):
                ctx.context.jacobian.add_one(ctx.bias, task, of_rows.sum(dim=0))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        # Flat: a product of three dimensions, one of them not contiguous, would be computed row by row.
        return (gradient.flatten(0, -2) @ ctx.cast).view_as(input), None, None, None


class _EmbeddingLayer(_Layer):
    """`nn.Embedding`, `[rows or 1, seq]` → `[rows, seq, d]`. Its gradients are sparse."""

    def __call__(self, input: Tensor) -> Tensor:
        self.check(len(input), or_one=True)
        if self.layer.max_norm is not None or self.layer.scale_grad_by_freq:
            raise NotByRow(f"the layer '{self.name}' of the trunk has max_norm or scale_grad_by_freq")
        ids = input.expand(self.context.size, *input.shape[1:])
        output: Tensor = _Lookup.apply(ids, self.layer.weight, self)  # type: ignore[no-untyped-call]
        return output


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: nn.Parameter, owner: _EmbeddingLayer) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight, ctx.owner = weight, owner
        return functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        padding = -1 if ctx.owner.layer.padding_idx is None else ctx.owner.layer.padding_idx
        size = ctx.owner.layer.num_embeddings
        for task, rows in ctx.owner.context.rows:
            sparse = torch.ops.aten.embedding_backward(gradient[rows], ids[rows], size, padding, False, sparse=True)
            ctx.owner.context.jacobian.add_one(ctx.weight, task, sparse)
        return None, None, None


class _NormLayer(_Layer):
    """`nn.LayerNorm`, `[rows, …, d]` → `[rows, …, d]`."""

    def __call__(self, input: Tensor) -> Tensor:
        self.check(len(input))
        if input.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
            input = input.float()
        output: Tensor = _Norm.apply(input, self.layer.weight, self.layer.bias, self)  # type: ignore[no-untyped-call]
        return output


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: nn.Parameter | None, bias: nn.Parameter | None, owner: _NormLayer
    ) -> Tensor:
        layer = owner.layer
        output, mean, rstd = torch.native_layer_norm(input, layer.normalized_shape, weight, bias, layer.eps)
        ctx.save_for_backward(input, mean, rstd)
        ctx.parameters, ctx.owner = (weight, bias), owner
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        input, mean, rstd = ctx.saved_tensors
        context, shape = ctx.owner.context, ctx.owner.layer.normalized_shape
        needed = [ctx.needs_input_grad[0], *map(context.needs, ctx.parameters)]
        total = torch.zeros_like(input) if needed[0] else None
        for task, rows in context.rows:
            tensors = (gradient[rows], input[rows], shape, mean[rows], rstd[rows], *ctx.parameters)
            of_input, *of_parameters = torch.ops.aten.native_layer_norm_backward(*tensors, needed)
            for parameter, of_task, collected in zip(ctx.parameters, of_parameters, needed[1:], strict=True):
                if collected:
                    context.jacobian.add_one(parameter, task, of_task)
            if total is not None:
                total[rows] = of_input
        return total, None, None, None


class _AnyLayer(_Layer):
    """A layer of any other class, `[rows, …]` → `[rows, …]`, recomputed for each task in the backward pass."""

    def __call__(self, *inputs: Any, **kwargs: Any) -> Tensor:
        if len(inputs) != 1 or kwargs or not isinstance(inputs[0], Tensor):
            raise NotByRow(f"the layer '{self.name}' of the trunk takes more than one tensor")
        self.check(len(inputs[0]))
        output: Tensor = _Recomputed.apply(inputs[0], self, *self.layer.parameters(recurse=False))  # type: ignore[no-untyped-call]
        if not isinstance(output, Tensor) or len(output) != self.context.size:
            raise NotByRow(f"the layer '{self.name}' of the trunk does not return one row for each row of the batch")
        return output


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, owner: _AnyLayer, *parameters: nn.Parameter) -> Tensor:
        ctx.save_for_backward(input)
        kind = input.device.type
        ctx.owner, ctx.parameters = owner, [parameter for parameter in parameters if owner.context.needs(parameter)]
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        output: Tensor = owner.plain(input)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (input,) = ctx.saved_tensors
        total = torch.zeros_like(input) if ctx.needs_input_grad[0] else None
        for task, rows in ctx.owner.context.rows:
            of_rows = input[rows].detach().requires_grad_(total is not None)
            with torch.enable_grad(), torch.autocast(ctx.autocast[0], ctx.autocast[1], enabled=ctx.autocast[2]):
                output = ctx.owner.plain(of_rows)
            leaves = [*ctx.parameters, *([of_rows] if total is not None else [])]
            gradients = torch.autograd.grad(output, leaves, gradient[rows])
            for parameter, of_task in zip(ctx.parameters, gradients, strict=False):
                ctx.owner.context.jacobian.add_one(parameter, task, of_task)
            if total is not None:
                total[rows] = gradients[-1]
        return total, None, *(None for _ in ctx.needs_input_grad[2:])


_FORWARDS: dict[type[nn.Module], Callable[[nn.Module, str, _Pass], Callable[..., Tensor]]] = {
    nn.Linear: _LinearLayer,
    nn.Embedding: _EmbeddingLayer,
    nn.LayerNorm: _NormLayer,
}
