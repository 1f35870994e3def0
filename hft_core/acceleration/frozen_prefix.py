"""What of a trunk computes the same in every pass of a stage: the layers below the first one that trains.

Which these are is seen in a pass: the output of a layer requires a gradient as soon as anything that it was made from
trains, however the strategy came to that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hft_core.batching.batch import Batch
from hft_core.batching.collate import Collator
from hft_core.device.gemm_speed import DTYPES
from hft_core.errors import ModelError
from hft_core.model.frozen_layers import NOTHING, Frozen
from hft_core.strategy import Strategy

if TYPE_CHECKING:
    from hft_core.data.examples import Examples
    from hft_core.device.distributed import Machine
    from hft_core.model.hybrid import HybridModel

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""By how much, relative to the largest of a batch, hidden states of a row may depend on the rows beside it: by the
format that they are computed in."""


def probe(model: HybridModel, tasks: Sequence[str], examples: Mapping[str, Examples], *, seed: int) -> list[Batch]:
    """A few training rows of each task, of uneven length."""
    found: list[Batch] = []
    for task in tasks:
        order = np.argsort(examples[task].lengths, kind="stable")
        few = examples[task].of(np.unique(order[[0, len(order) // 2]]))
        pad = model.backbone.tokenizer.pad_token_id
        heads = {task: model.head(task)}
        collator = Collator({task: few}, heads, seed=seed, pad=pad)
        found += collator.in_length_order(max_rows=len(few), max_tokens=1 << 30)
    return found


def find(model: HybridModel, batches: Sequence[Batch], machine: Machine) -> Frozen:
    """What stands still under the model's strategy, seen in a pass of `batches`, which have rows of all tasks.

    After the strategy was applied: what may train at any time of the stage requires a gradient then.
    """
    try:
        layers = model.backbone.layers
    except ModelError:  # a family whose layers are not told apart: nothing is said of its trunk
        return NOTHING
    if not layers or any(parameter.requires_grad for parameter in layers[0].parameters()):
        return NOTHING
    seen = _Seen(model.trunk, layers)
    whole = True
    with model.evaluating(), seen.watching(), torch.enable_grad(), machine.autocast():
        for batch in batches:
            whole = not model.hidden(batch.to(machine.device)).requires_grad and whole
    depth = seen.depth()
    if depth == len(layers):
        return Frozen(depth, depth, tuple(model.trunk.modules())) if whole else seen.upto(depth - 1)
    return seen.upto(depth)


def splits(model: HybridModel, frozen: Frozen, batches: Sequence[Batch], machine: Machine) -> tuple[Tensor | None, str]:
    """What the frozen part, of a layer at least, makes of the last row of `batches`, `[seq, hidden]`; None, and the
    reason, where a pass cannot begin above it with rows that were computed in other company."""
    if not model.backbone.splits:
        return None, f"{type(model.backbone).__name__} cannot begin a pass in the middle"
    if not _begins_in_the_middle(type(model.strategy)):
        return None, f"{type(model.strategy).__name__} has a way of its own through the trunk"
    sample: Tensor | None = None
    products = DTYPES[machine.precision.name]  # a norm may give float32 of what was multiplied in bfloat16
    with model.evaluating(), torch.no_grad(), machine.autocast():
        for batch in (batch.to(machine.device) for batch in batches):
            whole = model.hidden(batch)
            alone = _alone(model, batch, frozen.depth)
            if alone is None:
                return None, f"{type(model.trunk).__name__} gives on its hidden states in a form of its own"
            again = model.upper(batch, alone)
            real = batch.inputs["attention_mask"].bool()
            off = (again - whole)[real].abs().max() / whole[real].abs().max()
            if not float(off) <= max(TOLERANCES.get(kind, 0.0) for kind in (alone.dtype, products)):
                return None, f"in {type(model.trunk).__name__}, the hidden states of a row depend on those beside it"
            sample = alone[-1][real[-1]]
    return sample, ""


def _alone(model: HybridModel, batch: Batch, depth: int) -> Tensor | None:
    """What the frozen part makes of each row by itself, `[batch, seq, hidden]` with zeros at padding."""
    made: Tensor | None = None
    shape = (*batch.inputs["input_ids"].shape, model.backbone.hidden_size)
    for row, length in enumerate(batch.inputs["attention_mask"].sum(dim=1).tolist()):
        inputs = {name: tensor[row : row + 1, :length] for name, tensor in batch.inputs.items()}
        hidden = model.backbone.lower(inputs, depth)
        if hidden.shape != (1, length, shape[-1]):
            return None
        made = hidden.new_zeros(shape) if made is None else made
        made[row, :length] = hidden[0]
    return made


def _begins_in_the_middle(strategy: type[Strategy]) -> bool:
    """Whether `upper` is at least as much the strategy's own as its `forward` and its `route` are."""
    own = {name: next(c for c in strategy.__mro__ if name in vars(c)) for name in ("forward", "route", "upper")}
    return all(issubclass(own["upper"], owner) for owner in own.values())


class _Seen:
    """The order in which the modules of a trunk are done, and whether the layers' outputs require a gradient."""

    def __init__(self, trunk: nn.Module, layers: Sequence[nn.Module]) -> None:
        self._trunk, self._layers = trunk, list(layers)
        self._done: list[nn.Module] = []
        self._moving: set[int] = set()
        """The layers, by identity, whose output required a gradient."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        hooks = [module.register_forward_hook(self._note) for module in self._trunk.modules()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _note(self, module: nn.Module, args: Any, output: Any) -> None:
        self._done.append(module)
        hidden = output[0] if isinstance(output, tuple) else output
        if isinstance(hidden, Tensor) and hidden.requires_grad:
            self._moving.add(id(module))

    def depth(self) -> int:
        """The layers before the first that moves."""
        return next((i for i, layer in enumerate(self._layers) if id(layer) in self._moving), len(self._layers))

    def upto(self, depth: int) -> Frozen:
        if not depth:
            return NOTHING
        last = self._layers[depth - 1]
        ends = [place for place, module in enumerate(self._done) if module is last]
        before = self._done[: ends[0] + 1] if ends else []
        return Frozen(depth if before else 0, len(self._layers), tuple(dict.fromkeys(before)))
