"""Find the longest frozen prefix of a trunk: the layers below the first one with a trainable parameter.

Found in a forward pass: the output of a layer requires a gradient as soon as anything that it was computed from is
trainable, however the strategy brought that about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hft_core.batching.batch import Batch
from hft_core.batching.collate import Collator
from hft_core.data.examples import Examples
from hft_core.device.gemm_speed import DTYPES
from hft_core.device.machine import Machine
from hft_core.errors import ModelError
from hft_core.model.execution_plan import FrozenPrefix
from hft_core.model.hybrid import HybridModel
from hft_core.strategy import Strategy

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""By how much, relative to the largest value, a fast path may differ from the plain path: by the format of its hidden
states."""


def tolerance(dtype: torch.dtype, machine: Machine) -> float:
    """The tolerance for hidden states of `dtype`: a norm may return float32 for products in bfloat16."""
    return max(TOLERANCES.get(kind, 0.0) for kind in (dtype, DTYPES[machine.precision.name]))


def probe(model: HybridModel, tasks: Sequence[str], examples: Mapping[str, Examples], *, seed: int) -> list[Batch]:
    """A batch of a few training rows of each task, of uneven length."""
    batches: list[Batch] = []
    for task in tasks:
        order = np.argsort(examples[task].lengths, kind="stable")
        few = examples[task].of(np.unique(order[[0, len(order) // 2]]))
        pad = model.backbone.tokenizer.pad_token_id
        heads = {task: model.head(task)}
        collator = Collator({task: few}, heads, seed=seed, pad=pad)
        batches += collator.in_length_order(max_rows=len(few), max_tokens=1 << 30)
    return batches


def find(model: HybridModel, batches: Sequence[Batch], machine: Machine) -> FrozenPrefix:
    """Find the frozen prefix under the model's strategy, in a pass of `batches`, which have rows of all tasks.

    After the strategy was applied: what may train at any time of the stage requires a gradient then.
    """
    try:
        layers = model.backbone.layers
    except ModelError:  # the layers of this family are not known
        return FrozenPrefix()
    if not layers or any(parameter.requires_grad for parameter in layers[0].parameters()):
        return FrozenPrefix()
    observed = _Observed(model.trunk, layers)
    frozen = True
    with model.evaluating(), observed.watching(), torch.enable_grad(), machine.autocast():
        for batch in batches:
            frozen = not model.hidden(batch.to(machine.device)).requires_grad and frozen
    depth = observed.depth()
    if depth == len(layers):
        return FrozenPrefix(depth, tuple(model.trunk.modules())) if frozen else observed.prefix(depth - 1)
    return observed.prefix(depth)


def sample_or_obstacle(
    model: HybridModel, frozen: FrozenPrefix, batches: Sequence[Batch], machine: Machine
) -> Tensor | str:
    """The output `[seq, hidden]` of a non-empty frozen prefix for the last row of `batches`; or, where passes cannot
    start above the prefix with rows that were computed in other batches, why not."""
    if not model.backbone.splits:
        return f"{type(model.backbone).__name__} cannot start a forward pass at a layer"
    if not _overrides_upper(type(model.strategy)):
        return f"{type(model.strategy).__name__} overrides the forward pass through the trunk"
    sample: Tensor | None = None
    with model.evaluating(), torch.no_grad(), machine.autocast():
        for batch in (batch.to(machine.device) for batch in batches):
            expected = model.hidden(batch)
            lower = _row_by_row(model, batch, frozen.depth)
            if lower is None:
                return f"{type(model.trunk).__name__} passes its hidden states on in another form"
            split = model.from_layer(batch, lower, frozen.depth)
            real = batch.inputs["attention_mask"].bool()
            error = (split - expected)[real].abs().max() / expected[real].abs().max()
            if not float(error) <= tolerance(lower.dtype, machine):
                return f"in {type(model.trunk).__name__}, the hidden states of a row depend on those beside it"
            sample = lower[-1][real[-1]]
    assert sample is not None
    return sample


def _row_by_row(model: HybridModel, batch: Batch, depth: int) -> Tensor | None:
    """The output of the frozen prefix for each row by itself, `[batch, seq, hidden]` with zeros at padding."""
    hidden: Tensor | None = None
    shape = (*batch.inputs["input_ids"].shape, model.backbone.hidden_size)
    for row, length in enumerate(batch.inputs["attention_mask"].sum(dim=1).tolist()):
        inputs = {name: tensor[row : row + 1, :length] for name, tensor in batch.inputs.items()}
        of_row = model.backbone.lower(inputs, depth)
        if of_row.shape != (1, length, shape[-1]):
            return None
        hidden = of_row.new_zeros(shape) if hidden is None else hidden
        hidden[row, :length] = of_row[0]
    return hidden


def _overrides_upper(strategy: type[Strategy]) -> bool:
    """Whether `upper` comes from the class that `forward` and `route` come from, or from one derived of it."""
    own = {name: next(c for c in strategy.__mro__ if name in vars(c)) for name in ("forward", "route", "upper")}
    return all(issubclass(own["upper"], owner) for owner in own.values())


class _Observed:
    """The order in which the modules of a trunk are done, and whether the layers' outputs require a gradient."""

    def __init__(self, trunk: nn.Module, layers: Sequence[nn.Module]) -> None:
        self._trunk, self._layers = trunk, list(layers)
        self._called: list[nn.Module] = []
        self._trainable: set[int] = set()
        """The layers, by identity, whose output required a gradient."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        hooks = [module.register_forward_hook(self._record) for module in self._trunk.modules()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _record(self, module: nn.Module, args: Any, output: Any) -> None:
        self._called.append(module)
        hidden = output[0] if isinstance(output, tuple) else output
        if isinstance(hidden, Tensor) and hidden.requires_grad:
            self._trainable.add(id(module))

    def depth(self) -> int:
        """The number of layers before the first trainable one."""
        return next((i for i, layer in enumerate(self._layers) if id(layer) in self._trainable), len(self._layers))

    def prefix(self, depth: int) -> FrozenPrefix:
        if not depth:
            return FrozenPrefix()
        last = self._layers[depth - 1]
        ends = [place for place, module in enumerate(self._called) if module is last]
        before = self._called[: ends[0] + 1] if ends else []
        return FrozenPrefix(depth if before else 0, tuple(dict.fromkeys(before)))
