"""Each task's gradients of the trunk's weights from one backward pass over the rows of all tasks.

A layer's weight gradient is a sum over the rows of a batch. Here each layer adds it up by task, so that the gradient of
every task's loss is known after one pass of as many rows as a step has, and none passes a few rows alone. (Gradients of
single examples are found in this manner too: Goodfellow 2015, arXiv:1510.01799.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hft_core.acceleration import frozen_prefix
from hft_core.acceleration.forward_override import standing_in
from hft_core.errors import RunError
from hft_core.gradients.jacobian import Jacobian

if TYPE_CHECKING:
    from hft_core.batching.batch import Batch
    from hft_core.model.hybrid import HybridModel
    from hft_core.training.loop import StageLoop

TaskRows = Sequence[tuple[int, slice]]
"""Which rows of a batch are whose: the place of each task among those of the step, and its rows. No row is in two."""

Casts = dict[int, Tensor]
"""Parameters as autocast would have them, by id."""

PROBED_UNITS = 2
"""Of each task, in the passes that show whether the trunk's layers go row by row."""


class NotByRow(RunError):
    """A layer was given something else than one row for each of the batch."""


def settle(loop: StageLoop, *, compiled: bool) -> None:
    """Find out whether the stage of `loop`, which is about to run, can go this way: its combiner asks for gradients of
    the shared weights, and a pass of a few rows gives those that a pass for each task gives."""
    model, combiner = loop.model, loop.combiner
    unusual = (
        compiled
        or loop.stage.gradient_checkpointing
        or loop.machine.sharded
        or model.strategy.routes_rows
        or model.backbone.packs
    )
    asked = combiner.per_task_gradients and combiner.at == "shared" and bool(model.shared_parameters())
    model.one_pass = asked and not unusual
    if model.one_pass:
        few = [replace(part, units=part.units[:PROBED_UNITS]) for part in loop.plan.step(0)]
        proven = all(_proven(model, batch) for batch in loop.batches(few, None))
        model.one_pass = not loop.machine.group.any(not proven)


def _proven(model: HybridModel, batch: Batch) -> bool:
    """Whether the gradients of the first task's rows and of all others are those of a pass for each, in float32."""
    first, size = batch.segments[0].rows.stop, batch.rows
    rows = [(0, slice(0, first)), *([(1, slice(first, size))] if first < size else [])]
    parameters = model.shared_parameters()
    found = Jacobian(parameters, 2)
    with model.evaluating(), torch.enable_grad():
        hidden = model.hidden(batch)
        weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0)).to(hidden)
        try:
            with told_apart(model.trunk, found, rows, size, {}):
                again = model.hidden(batch)
            left = torch.autograd.grad(again, parameters, weights, allow_unused=True)
        except Exception:  # whatever a layer does that is not called as it expects: there is another way
            return False
        if any(gradient is not None for gradient in left):  # by another way than the layers'
            return False
        for task, of_task in rows:
            loss = (hidden[of_task] * weights[of_task]).sum()
            wanted = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            if not _alike(found.of(task), wanted):
                return False
    return True


def _alike(found: Sequence[Tensor | None], wanted: Sequence[Tensor | None]) -> bool:
    """Whether the gradients are the same but for rounding."""
    largest, off = 0.0, 0.0
    for one, other in zip(found, wanted, strict=True):
        if other is not None:
            largest = max(largest, float(other.abs().max()))
        if one is not None or other is not None:
            differ = one if other is None else other if one is None else one - other
            assert differ is not None
            off = max(off, float(differ.abs().max()))
    return off <= frozen_prefix.TOLERANCES[torch.float32] * largest


@contextmanager
def told_apart(trunk: nn.Module, jacobian: Jacobian, rows: TaskRows, size: int, casts: Casts) -> Iterator[None]:
    """Inside, a pass of `size` rows through the trunk has a backward pass that adds the gradients of the parameters of
    `jacobian` to it, task by task, and nothing to the parameters themselves. The layers' own ways are theirs again
    afterwards; the backward pass may come then. `casts` is filled, and serves the passes of one step."""
    pass_ = _Pass(jacobian, rows, size, casts)
    ways: dict[nn.Module, Callable[..., Any]] = {}
    for name, module in trunk.named_modules():
        if any(jacobian.has(parameter) for parameter in module.parameters(recurse=False)):
            ways[module] = _WAYS.get(type(module), _AnyLayer)(module, name, pass_)
    with standing_in(ways):
        yield


@dataclass(frozen=True)
class _Pass:
    jacobian: Jacobian
    rows: TaskRows
    size: int
    casts: Casts

    def cast(self, parameter: nn.Parameter | None, dtype: torch.dtype) -> Tensor | None:
        if parameter is None:
            return None
        if parameter.dtype == dtype:
            return parameter.detach()
        if id(parameter) not in self.casts:
            self.casts[id(parameter)] = parameter.detach().to(dtype)
        return self.casts[id(parameter)]

    def wants(self, parameter: nn.Parameter | None) -> bool:
        return parameter is not None and self.jacobian.has(parameter)


class _Layer:
    """A layer that goes row by row, in the place of its `forward`."""

    def __init__(self, layer: Any, name: str, pass_: _Pass) -> None:
        self.layer, self.name, self.pass_ = layer, name, pass_
        self.plain = layer.forward

    def check(self, rows: int, *, or_one: bool = False) -> None:
        if rows != self.pass_.size and not (or_one and rows == 1):
            raise NotByRow(f"the layer '{self.name}' of the trunk takes {rows} rows of a batch of {self.pass_.size}")


class _LinearLayer(_Layer):
    """`nn.Linear`: `[rows, …, in]` → `[rows, …, out]`."""

    def __call__(self, input: Tensor) -> Tensor:
        self.check(len(input))
        if torch.is_autocast_enabled(input.device.type):
            input = input.to(torch.get_autocast_dtype(input.device.type))
        found: Tensor = _Product.apply(input, self.layer.weight, self.layer.bias, self.pass_)  # type: ignore[no-untyped-call]
        return found


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: nn.Parameter, bias: nn.Parameter | None, pass_: _Pass) -> Tensor:
        ctx.save_for_backward(input)
        ctx.weight, ctx.bias, ctx.pass_ = weight, bias, pass_
        ctx.cast = pass_.cast(weight, input.dtype)
        return functional.linear(input, ctx.cast, pass_.cast(bias, input.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        (input,) = ctx.saved_tensors
        for task, rows in ctx.pass_.rows:
            of_rows = gradient[rows].flatten(0, -2)
            if ctx.pass_.wants(ctx.weight):
                ctx.pass_.jacobian.add_one(ctx.weight, task, of_rows.T @ input[rows].flatten(0, -2))
            if ctx.pass_.wants(ctx.bias):
                ctx.pass_.jacobian.add_one(ctx.bias, task, of_rows.sum(dim=0))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        # Flat: of three dimensions, one that is not contiguous would be multiplied row by row.
        return (gradient.flatten(0, -2) @ ctx.cast).view_as(input), None, None, None


class _EmbeddingLayer(_Layer):
    """`nn.Embedding`: `[rows or 1, seq]` → `[rows, seq, d]`. Its gradients are sparse."""

    def __call__(self, input: Tensor) -> Tensor:
        self.check(len(input), or_one=True)
        if self.layer.max_norm is not None or self.layer.scale_grad_by_freq:
            raise NotByRow(f"the layer '{self.name}' of the trunk goes by how often a token is there")
        found: Tensor = _Lookup.apply(input.expand(self.pass_.size, *input.shape[1:]), self.layer.weight, self)  # type: ignore[no-untyped-call]
        return found


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
        skipped = -1 if ctx.owner.layer.padding_idx is None else ctx.owner.layer.padding_idx
        size = ctx.owner.layer.num_embeddings
        for task, rows in ctx.owner.pass_.rows:
            sparse = torch.ops.aten.embedding_backward(gradient[rows], ids[rows], size, skipped, False, sparse=True)
            ctx.owner.pass_.jacobian.add_one(ctx.weight, task, sparse)
        return None, None, None


class _NormLayer(_Layer):
    """`nn.LayerNorm`: `[rows, …, d]` → `[rows, …, d]`."""

    def __call__(self, input: Tensor) -> Tensor:
        self.check(len(input))
        if input.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
            input = input.float()
        found: Tensor = _Norm.apply(input, self.layer.weight, self.layer.bias, self)  # type: ignore[no-untyped-call]
        return found


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: nn.Parameter | None, bias: nn.Parameter | None, owner: _NormLayer
    ) -> Tensor:
        layer = owner.layer
        found, mean, rstd = torch.native_layer_norm(input, layer.normalized_shape, weight, bias, layer.eps)
        ctx.save_for_backward(input, mean, rstd)
        ctx.parameters, ctx.owner = (weight, bias), owner
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        input, mean, rstd = ctx.saved_tensors
        pass_, shape = ctx.owner.pass_, ctx.owner.layer.normalized_shape
        wanted = [ctx.needs_input_grad[0], *map(pass_.wants, ctx.parameters)]
        total = torch.zeros_like(input) if wanted[0] else None
        for task, rows in pass_.rows:
            seen = (gradient[rows], input[rows], shape, mean[rows], rstd[rows], *ctx.parameters)
            of_input, *found = torch.ops.aten.native_layer_norm_backward(*seen, wanted)
            for parameter, of_task, asked in zip(ctx.parameters, found, wanted[1:], strict=True):
                if asked:
                    pass_.jacobian.add_one(parameter, task, of_task)
            if total is not None:
                total[rows] = of_input
        return total, None, None, None


class _AnyLayer(_Layer):
    """A layer of any other kind: `[rows, …]` → `[rows, …]`, computed again for each task in the backward pass."""

    def __call__(self, *inputs: Any, **named: Any) -> Tensor:
        if len(inputs) != 1 or named or not isinstance(inputs[0], Tensor):
            raise NotByRow(f"the layer '{self.name}' of the trunk takes more than one tensor")
        self.check(len(inputs[0]))
        found: Tensor = _Again.apply(inputs[0], self, *self.layer.parameters(recurse=False))  # type: ignore[no-untyped-call]
        if not isinstance(found, Tensor) or len(found) != self.pass_.size:
            raise NotByRow(f"the layer '{self.name}' of the trunk does not make a row of each row")
        return found


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, owner: _AnyLayer, *parameters: nn.Parameter) -> Tensor:
        ctx.save_for_backward(input)
        kind = input.device.type
        ctx.owner, ctx.parameters = owner, [parameter for parameter in parameters if owner.pass_.wants(parameter)]
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        found: Tensor = owner.plain(input)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (input,) = ctx.saved_tensors
        total = torch.zeros_like(input) if ctx.needs_input_grad[0] else None
        for task, rows in ctx.owner.pass_.rows:
            seen = input[rows].detach().requires_grad_(total is not None)
            with torch.enable_grad(), torch.autocast(ctx.autocast[0], ctx.autocast[1], enabled=ctx.autocast[2]):
                again = ctx.owner.plain(seen)
            wanted = [*ctx.parameters, *([seen] if total is not None else [])]
            found = torch.autograd.grad(again, wanted, gradient[rows])
            for parameter, of_task in zip(ctx.parameters, found, strict=False):
                ctx.owner.pass_.jacobian.add_one(parameter, task, of_task)
            if total is not None:
                total[rows] = found[-1]
        return total, None, *(None for _ in ctx.needs_input_grad[2:])


_WAYS: dict[type[nn.Module], Callable[[nn.Module, str, _Pass], Callable[..., Tensor]]] = {
    nn.Linear: _LinearLayer,
    nn.Embedding: _EmbeddingLayer,
    nn.LayerNorm: _NormLayer,
}
